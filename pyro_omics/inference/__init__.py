"""Training and drawing: the one LightningModule, its bounds, and draws from what it trained."""
