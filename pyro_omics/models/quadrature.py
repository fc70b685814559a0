"""Cells for the quadrature of a positive latent: wide ones everywhere, narrow ones where the counts point."""

from __future__ import annotations

import torch
from torch import Tensor

LOWEST = 1e-3  # of an effect, in multiples of the background: below, counts do not tell


@torch.no_grad()
def edges(centre: Tensor, spread: Tensor, wide: int, narrow: int) -> Tensor:
    """Ascending edges (..., wide + narrow + 1) of cells from 0 on.

    Parameters
    ----------
    centre, spread
        (...) where the likelihood of the latent peaks, below 0 where that is at 0, and its standard deviation.
    wide, narrow
        numbers of cells: in equal steps of the logarithm up to far above the peak, and in equal steps around it.
    """
    top = (centre.clamp(min=0) + 12 * spread).clamp(min=10 * LOWEST)
    steps = torch.linspace(0, 1, wide, dtype=centre.dtype, device=centre.device)
    broad = LOWEST * (top / LOWEST).unsqueeze(-1) ** steps
    around = torch.linspace(-4, 4, narrow, dtype=centre.dtype, device=centre.device)
    near = (centre.unsqueeze(-1) + spread.unsqueeze(-1) * around).clamp(min=0)
    zero = torch.zeros_like(broad[..., :1])
    return torch.cat([zero, broad, near], -1).sort(-1).values
