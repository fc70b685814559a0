"""Training: the LightningModule for any model and guide, its bounds, and draws from a trained pair."""
