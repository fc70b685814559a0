"""Fast log-probabilities of rows of counts, behind the distributions of `distributions`.

``fn.to_event(1).log_prob(x)`` uses them where they are valid and faster (`dispatch.serve`); `reference` switches them
off.
"""

from pyro_omics.kernels.dispatch import reference
from pyro_omics.kernels.likelihood.compiled_kernels import (
    NEGATIVE_BINOMIAL,
    NEGATIVE_BINOMIAL_MIXTURE,
    ZERO_INFLATED_NEGATIVE_BINOMIAL,
)
from pyro_omics.kernels.likelihood.count_distribution import CountDistribution
from pyro_omics.kernels.likelihood.torch_kernels import POISSON, ZERO_INFLATED_POISSON

__all__ = [
    "NEGATIVE_BINOMIAL",
    "NEGATIVE_BINOMIAL_MIXTURE",
    "POISSON",
    "ZERO_INFLATED_NEGATIVE_BINOMIAL",
    "ZERO_INFLATED_POISSON",
    "CountDistribution",
    "reference",
]
