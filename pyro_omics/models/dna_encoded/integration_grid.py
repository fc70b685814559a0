"""Integration cells for a positive latent: wide ones everywhere, and narrow ones around the likelihood's peaks."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

LOWEST = 1e-3  # effect, in multiples of the background, below which counts do not distinguish it from 0


@torch.no_grad()
def cell_edges(peaks: Sequence[tuple[Tensor, Tensor]], wide: int, narrow: int) -> Tensor:
    """Ascending edges (..., K + 1) of K integration cells that start at 0, K = wide + narrow * len(peaks).

    Parameters
    ----------
    peaks
        centre and standard deviation (...) of each factor of the latent's likelihood; a centre below 0 is a peak at 0.
    wide
        number of cells with equal steps of the logarithm, up to far above every peak.
    narrow
        number of cells with equal steps around each peak.
    """
    tops = [(centre.clamp(min=0) + 12 * spread).clamp(min=10 * LOWEST) for centre, spread in peaks]
    top = functools.reduce(torch.maximum, tops)
    steps = torch.linspace(0, 1, wide, dtype=top.dtype, device=top.device)
    around = torch.linspace(-4, 4, narrow, dtype=top.dtype, device=top.device)
    broad = LOWEST * (top / LOWEST).unsqueeze(-1) ** steps
    near = [(centre.unsqueeze(-1) + spread.unsqueeze(-1) * around).clamp(min=0) for centre, spread in peaks]
    return torch.cat([torch.zeros_like(broad[..., :1]), broad, *near], -1).sort(-1).values
