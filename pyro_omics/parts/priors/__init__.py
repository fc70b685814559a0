"""Priors over the latent z: a prior is a PyroModule that, called on a batch, returns a distribution.

A new prior is one class: override `Prior.complete` to create the parameters and `Prior.forward` to return the
distribution. A `WeightPrior` is a prior over the weights of a network, for `bayesianize`.
"""

from pyro_omics.parts.priors.base import Prior
from pyro_omics.parts.priors.flow import FlowPrior
from pyro_omics.parts.priors.hierarchical import BatchMeans, HierarchicalNormal
from pyro_omics.parts.priors.mixture import MixtureOfGaussians, NormalMixture, normal_mixture
from pyro_omics.parts.priors.normal import LogisticNormal, StandardNormal
from pyro_omics.parts.priors.vamp import VampPrior
from pyro_omics.parts.weight_priors import Horseshoe, WeightNormal, WeightPrior

__all__ = [
    "BatchMeans",
    "FlowPrior",
    "HierarchicalNormal",
    "Horseshoe",
    "LogisticNormal",
    "MixtureOfGaussians",
    "NormalMixture",
    "Prior",
    "StandardNormal",
    "VampPrior",
    "WeightNormal",
    "WeightPrior",
    "normal_mixture",
]
