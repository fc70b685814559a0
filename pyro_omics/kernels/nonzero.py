"""Positions of the non-zero entries of matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from pyro_omics.kernels.compiled.run import run

COMPILED = (torch.float32, torch.float64)


def positions(x: Tensor) -> Tensor:
    """Positions in ``x.flatten()`` of the entries that are not zero, (nnz,) int64, ascending."""
    x = x.detach()
    if x.device.type == "cpu" and x.dtype in COMPILED and x.ndim and x.numel():
        rows = x.reshape(-1, x.shape[-1])
        return row_positions(rows, row_bounds(rows))
    return x.flatten().nonzero().squeeze(-1)


def row_bounds(x: Tensor) -> Tensor:
    """Cumulative number of non-zero entries before each row of ``x`` (n, g), and in all rows, (n + 1,) int64.

    ``x`` must be float32 or float64, on the CPU.
    """
    bounds = torch.zeros(len(x) + 1, dtype=torch.long)
    run("nonzero.count_rows", x, bounds[1:])
    return bounds.cumsum_(0)


def row_positions(x: Tensor, bounds: Tensor) -> Tensor:
    """`positions` of ``x`` (n, g), from its `row_bounds`."""
    found = torch.empty(int(bounds[-1]), dtype=torch.long)
    run("nonzero.positions", x, bounds, found)
    return found
