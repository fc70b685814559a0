"""Likelihoods: from a mean to a distribution over counts.

A likelihood is a PyroModule that owns its global parameters, names in ``heads`` what else it needs from the decoder,
and maps (mean, heads, batch) to a distribution. A new one is one class, in a file of its own that is named here.
"""

from pyro_omics.parts.likelihoods.base import Likelihood
from pyro_omics.parts.likelihoods.mixture import NegativeBinomialMixture
from pyro_omics.parts.likelihoods.negative_binomial import NegativeBinomial
from pyro_omics.parts.likelihoods.poisson import Poisson
from pyro_omics.parts.likelihoods.zero_inflated import ZeroInflatedNegativeBinomial, ZeroInflatedPoisson

__all__ = [
    "Likelihood",
    "NegativeBinomial",
    "NegativeBinomialMixture",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
]
