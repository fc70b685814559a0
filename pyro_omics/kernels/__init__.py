"""Fast log-probabilities of rows of counts, behind the distributions of `distributions`.

``fn.to_event(1).log_prob(x)`` takes them by itself where they hold and pay (`switch.serve`); `plain` is the way back.
"""

from pyro_omics.kernels.events import Counted
from pyro_omics.kernels.fused import (
    NEGATIVE_BINOMIAL,
    NEGATIVE_BINOMIAL_MIXTURE,
    ZERO_INFLATED_NEGATIVE_BINOMIAL,
)
from pyro_omics.kernels.rows import POISSON, ZERO_INFLATED_POISSON
from pyro_omics.kernels.switch import plain

__all__ = [
    "NEGATIVE_BINOMIAL",
    "NEGATIVE_BINOMIAL_MIXTURE",
    "POISSON",
    "ZERO_INFLATED_NEGATIVE_BINOMIAL",
    "ZERO_INFLATED_POISSON",
    "Counted",
    "plain",
]
