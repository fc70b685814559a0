"""Products of weights with mostly zero matrices, such as counts and fingerprints."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_omics.kernels import nonzero
from pyro_omics.kernels.compiled.run import run
from pyro_omics.kernels.dispatch import can_use_kernel, is_abstract

MAX_NONZERO = 0.15  # share of non-zero entries above which the dense product is faster


def product(x: Tensor, weight_gh: Tensor) -> Tensor:
    """``x @ weight_gh``; on the CPU, only non-zero entries of ``x`` (n, g) are multiplied where they are few."""
    if x.ndim != 2 or x.device.type != "cpu" or weight_gh.ndim != 2 or not can_use_kernel(x, weight_gh):
        return x @ weight_gh
    x = x.contiguous()
    bounds = nonzero.row_bounds(x)
    if bounds[-1] > MAX_NONZERO * x.numel():
        return x @ weight_gh
    out: Tensor = _Product.apply(x, nonzero.row_positions(x, bounds), bounds, weight_gh)
    return out


class _Product(torch.autograd.Function):
    """x W, for x (n, g), which needs no gradient, and W (g, h)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, positions: Tensor, bounds: Tensor, weight_gh: Tensor) -> Tensor:
        out = weight_gh.new_empty(len(x), weight_gh.shape[1])
        run("sparse_rows.product", x, positions, bounds, weight_gh, out)
        ctx.save_for_backward(x, positions, bounds)
        return out

    @staticmethod
    def backward(ctx: Any, grad_nh: Tensor) -> tuple[None, None, None, Tensor]:
        x, positions, bounds = ctx.saved_tensors
        if torch.is_grad_enabled() or is_abstract(grad_nh):
            return None, None, None, x.t() @ grad_nh  # which can be differentiated once more, or for several gradients
        grad_gh = grad_nh.new_empty(x.shape[1], grad_nh.shape[1])
        run("sparse_rows.outer_product", x, positions, bounds, grad_nh, grad_gh)
        return None, None, None, grad_gh
