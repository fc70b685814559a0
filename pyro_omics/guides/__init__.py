"""Guides: callables from a model to a PyroModule over the same latent sites."""

from pyro_omics.guides.amortized import Amortized
from pyro_omics.guides.conditional import Conditional
from pyro_omics.guides.mean_field import GammaMeanField

__all__ = ["Amortized", "Conditional", "GammaMeanField"]
