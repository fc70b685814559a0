"""Kernels: fast operations on matrices of counts, most of which are zero.

- `likelihood`: log-probabilities of rows of counts and their derivatives, which the distributions of
  `pyro_omics.distributions` use in ``fn.to_event(1).log_prob(x)``; in torch operations for any device, and as
  compiled loops for float32 on the CPU.
- `sparse_product`: counts times weights, the first product of an encoder.
- `dense_rows`: dense minibatches, and log(1 + x) of them.
- `compiled`: the loops, compiled by numba, which run in torch's own threads.

Kernels are used where they are valid and faster (`dispatch.can_use_kernel`). They find the non-zero counts themselves,
and give the values and gradients of the elementwise formulas up to rounding. ``with po.kernels.reference():``
switches them off.
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
