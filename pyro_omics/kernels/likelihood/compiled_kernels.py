"""Kernels in one pass over memory, on a processor; in torch's operations elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_omics.kernels import nonzero
from pyro_omics.kernels.compiled.run import run
from pyro_omics.kernels.likelihood.densities import NegativeBinomial, Slopes
from pyro_omics.kernels.likelihood.sparse_counts import Counts
from pyro_omics.kernels.likelihood.torch_kernels import Kernel, Mixture, Plain, ZeroInflated

FEW = (2**10, 8)  # one call in the place of forty operations pays soon


class Fused:
    """A kernel of `compiled` for float32 on a processor, and ``other`` for all else.

    Parameters
    ----------
    loop
        ``module.function`` of the loop, which numba compiles at its first call.
    other
        the same kernel in torch's operations.
    """

    def __init__(self, loop: str, other: Kernel) -> None:
        self.loop, self.other = loop, other
        self.by_column = other.by_column

    def enough(self, like: Tensor) -> tuple[int, int]:
        """Of how many entries, and columns, a kernel is worth its while."""
        return FEW if _is_served(like) else self.other.enough(like)

    def __call__(self, counts: Counts, parameters: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Slopes]:
        """The rows' log-probabilities (n,), and the derivatives (n, g) that are wanted."""
        like = parameters[0]
        if not _is_served(like):
            return self.other(counts, parameters, wanted)
        n, columns = counts.n_rows, counts.shape[-1]
        rows = like.new_empty(n)
        slopes = [like.new_empty(n if any(wanted) else 1, columns) for _ in parameters]
        given = [p.view(1, -1) if p.ndim == 1 else p for p in parameters]
        seen = (counts.own, nonzero.positions(counts.value), nonzero.bounds(counts.value))
        run(self.loop, *given, *seen, rows, *slopes)
        return rows, [slope if asked else None for slope, asked in zip(slopes, wanted, strict=True)]


def _is_served(like: Tensor) -> bool:
    return like.device.type == "cpu" and like.dtype == torch.float32


NEGATIVE_BINOMIAL = Fused("negative_binomial.negative_binomial", Plain(NegativeBinomial()))
ZERO_INFLATED_NEGATIVE_BINOMIAL = Fused(
    "negative_binomial.zero_inflated_negative_binomial", ZeroInflated(NegativeBinomial())
)
NEGATIVE_BINOMIAL_MIXTURE = Fused("mixture.mixture", Mixture())
