"""Fast log-probabilities of rows of counts, behind the distributions of `distributions`.

``fn.to_event(1).log_prob(x)`` takes them by itself wherever they hold; `plain` is the way back.
"""

from pyro_omics.kernels.function import row_log_prob
from pyro_omics.kernels.rows import (
    NEGATIVE_BINOMIAL,
    NEGATIVE_BINOMIAL_MIXTURE,
    POISSON,
    ZERO_INFLATED_NEGATIVE_BINOMIAL,
    ZERO_INFLATED_POISSON,
    Kernel,
)
from pyro_omics.kernels.switch import plain, serve

__all__ = [
    "NEGATIVE_BINOMIAL",
    "NEGATIVE_BINOMIAL_MIXTURE",
    "POISSON",
    "ZERO_INFLATED_NEGATIVE_BINOMIAL",
    "ZERO_INFLATED_POISSON",
    "Kernel",
    "plain",
    "row_log_prob",
    "serve",
]
