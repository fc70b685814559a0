"""Kernels that are compiled loops for float32 on the CPU, and torch operations otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_omics.kernels.compiled.run import run
from pyro_omics.kernels.likelihood.densities import Derivatives, NegativeBinomial
from pyro_omics.kernels.likelihood.sparse_counts import Counts
from pyro_omics.kernels.likelihood.torch_kernels import FamilyKernel, Kernel, Mixture, ZeroInflated

SMALLEST = (2**10, 8)  # entries and columns from which one call is faster than forty torch operations


class CompiledKernel:
    """A compiled loop, which reads memory once, for float32 on the CPU; a kernel in torch operations otherwise.

    Parameters
    ----------
    loop
        ``module.function`` of the loop in `kernels.compiled`, which numba compiles at its first call.
    fallback
        the kernel in torch operations.
    """

    def __init__(self, loop: str, fallback: Kernel) -> None:
        self.loop, self.fallback = loop, fallback
        self.by_column = fallback.by_column

    def smallest(self, like: Tensor) -> tuple[int, int]:
        """The number of entries and of columns from which the kernel is faster than the elementwise formula."""
        return SMALLEST if _is_compiled_for(like) else self.fallback.smallest(like)

    def __call__(
        self, counts: Counts, parameters: Sequence[Tensor], needs_grad: Sequence[bool]
    ) -> tuple[Tensor, Derivatives]:
        """Log-probabilities of the rows (n,), and the derivatives (n, g) that are needed."""
        like = parameters[0]
        if not _is_compiled_for(like):
            return self.fallback(counts, parameters, needs_grad)
        n, columns = counts.n_rows, counts.shape[-1]
        rows = like.new_empty(n)
        derivatives = [like.new_empty(n if any(needs_grad) else 1, columns) for _ in parameters]
        matrices = [p.view(1, -1) if p.ndim == 1 else p for p in parameters]
        run(self.loop, *matrices, counts.distinct, rows, *derivatives)
        return rows, [
            derivative if is_needed else None for derivative, is_needed in zip(derivatives, needs_grad, strict=True)
        ]


def _is_compiled_for(like: Tensor) -> bool:
    return like.device.type == "cpu" and like.dtype == torch.float32


NEGATIVE_BINOMIAL = CompiledKernel("negative_binomial.negative_binomial", FamilyKernel(NegativeBinomial()))
ZERO_INFLATED_NEGATIVE_BINOMIAL = CompiledKernel(
    "negative_binomial.zero_inflated_negative_binomial", ZeroInflated(NegativeBinomial())
)
NEGATIVE_BINOMIAL_MIXTURE = CompiledKernel("mixture.mixture", Mixture())
