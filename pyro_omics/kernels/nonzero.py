"""Where matrices of counts are not zero."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_omics.kernels.compiled.run import run

COMPILED = (torch.float32, torch.float64)


def positions(x: Tensor) -> Tensor:
    """The positions in ``x.flatten()`` of its entries that are not zero, (nnz,) int64, ascending."""
    x = x.detach()
    if x.device.type == "cpu" and x.dtype in COMPILED and x.ndim and x.numel():
        rows = x.reshape(-1, x.shape[-1])
        return row_positions(rows, row_bounds(rows))
    return x.flatten().nonzero().squeeze(-1)


def row_bounds(x: Tensor) -> Tensor:
    """How many entries of ``x`` (n, g) are not zero in the rows before each, and in all, (n + 1,) int64.

    ``x`` is of float32 or float64, on a processor.
    """
    bounds = torch.zeros(len(x) + 1, dtype=torch.long)
    run("nonzero.count_rows", x, bounds[1:])
    return bounds.cumsum_(0)


def row_positions(x: Tensor, bounds: Tensor) -> Tensor:
    """`positions` of ``x`` (n, g), which has these `row_bounds`."""
    found = torch.empty(int(bounds[-1]), dtype=torch.long)
    run("nonzero.positions", x, bounds, found)
    return found
