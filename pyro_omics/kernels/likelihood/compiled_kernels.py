"""Kernels as compiled loops on a processor, which read memory once, and as torch operations elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_omics.kernels.compiled.run import run
from pyro_omics.kernels.likelihood.densities import NegativeBinomial, Slopes
from pyro_omics.kernels.likelihood.sparse_counts import Counts
from pyro_omics.kernels.likelihood.torch_kernels import FamilyKernel, Kernel, Mixture, ZeroInflated

SMALLEST = (2**10, 8)  # entries and columns: one call takes the place of forty operations, and soon pays


class CompiledKernel:
    """A loop of `kernels.compiled` for float32 on a processor, and a kernel of torch operations for all else.

    Parameters
    ----------
    loop
        ``module.function`` of the loop, which numba compiles at its first call.
    other
        the same kernel in torch operations.
    """

    def __init__(self, loop: str, other: Kernel) -> None:
        self.loop, self.other = loop, other
        self.by_column = other.by_column

    def smallest(self, like: Tensor) -> tuple[int, int]:
        """The number of entries and of columns from which the kernel is faster than the elementwise formula."""
        return SMALLEST if _is_compiled_for(like) else self.other.smallest(like)

    def __call__(self, counts: Counts, parameters: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Slopes]:
        """The rows' log-probabilities (n,), and the derivatives (n, g) that are wanted."""
        like = parameters[0]
        if not _is_compiled_for(like):
            return self.other(counts, parameters, wanted)
        n, columns = counts.n_rows, counts.shape[-1]
        rows = like.new_empty(n)
        slopes = [like.new_empty(n if any(wanted) else 1, columns) for _ in parameters]
        given = [p.view(1, -1) if p.ndim == 1 else p for p in parameters]
        run(self.loop, *given, counts.own, rows, *slopes)
        return rows, [slope if asked else None for slope, asked in zip(slopes, wanted, strict=True)]


def _is_compiled_for(like: Tensor) -> bool:
    return like.device.type == "cpu" and like.dtype == torch.float32


NEGATIVE_BINOMIAL = CompiledKernel("negative_binomial.negative_binomial", FamilyKernel(NegativeBinomial()))
ZERO_INFLATED_NEGATIVE_BINOMIAL = CompiledKernel(
    "negative_binomial.zero_inflated_negative_binomial", ZeroInflated(NegativeBinomial())
)
NEGATIVE_BINOMIAL_MIXTURE = CompiledKernel("mixture.mixture", Mixture())
