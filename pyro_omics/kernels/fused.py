"""Kernels in one pass over memory, on a processor; in torch's operations elsewhere."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_omics import stored
from pyro_omics.kernels.counts import Counts
from pyro_omics.kernels.families import NegativeBinomial, Slopes
from pyro_omics.kernels.rows import Kernel, Mixture, Plain, ZeroInflated

FEW = (2**10, 8)  # one call in the place of forty operations pays soon


class Fused:
    """A kernel of `loops` for float32 on a processor, and ``other`` for all else.

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
        seen = (counts.own, stored.positions(counts.value), stored.bounds(counts.value))
        run(self.loop, *given, *seen, rows, *slopes)
        return rows, [slope if asked else None for slope, asked in zip(slopes, wanted, strict=True)]


def run(name: str, *given: Any) -> None:
    """Call a compiled loop, ``module.function`` of `kernels`, with tensors on a processor, by torch's threads.

    Those that are written to must be contiguous; others are copied where they are not. Arrays are passed as they are.
    """
    loop, team = _compiled(name)
    loop(team(), *(g.detach().contiguous().numpy() if isinstance(g, Tensor) else g for g in given))


@functools.cache
def _compiled(name: str) -> tuple[Callable[..., None], Callable[[], Any]]:
    module, function = name.split(".")
    if importlib.import_module("numba").config.DISABLE_JIT:
        raise RuntimeError("NUMBA_DISABLE_JIT is set, and the loops of pyro_omics are machine code: unset it")
    team = importlib.import_module("pyro_omics.kernels.team").team  # numba takes a moment to import
    return getattr(importlib.import_module(f"pyro_omics.kernels.{module}"), function), team


def _is_served(like: Tensor) -> bool:
    return like.device.type == "cpu" and like.dtype == torch.float32


NEGATIVE_BINOMIAL = Fused("loops.negative_binomial", Plain(NegativeBinomial()))
ZERO_INFLATED_NEGATIVE_BINOMIAL = Fused("loops.zero_inflated_negative_binomial", ZeroInflated(NegativeBinomial()))
NEGATIVE_BINOMIAL_MIXTURE = Fused("mixture_loops.mixture", Mixture())
