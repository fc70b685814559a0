"""Guides: callables from a model to a PyroModule over the same latent sites."""

from pyro_omics.guides.amortized import Amortized, AmortizedFlow, AmortizedStudentT
from pyro_omics.guides.conditional import Conditional
from pyro_omics.guides.gamma_mean_field import GammaMeanField
from pyro_omics.guides.per_observation import PerObservation
from pyro_omics.guides.semi_amortized import SemiAmortized

__all__ = [
    "Amortized",
    "AmortizedFlow",
    "AmortizedStudentT",
    "Conditional",
    "GammaMeanField",
    "PerObservation",
    "SemiAmortized",
]
