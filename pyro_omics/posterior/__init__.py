"""Questions to a trained model, answered in AnnData's order and with its labels."""

from pyro_omics.posterior.posterior import Posterior

__all__ = ["Posterior"]
