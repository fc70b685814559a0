"""Products of matrices that are mostly zero, such as counts and fingerprints, with weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyro_omics.kernels import nonzero
from pyro_omics.kernels.compiled.run import run
from pyro_omics.kernels.dispatch import serve

MOSTLY_ZERO = 0.15  # of the entries are not zero: with more, the dense product is faster


def product(x: Tensor, weight_dh: Tensor) -> Tensor:
    """``x @ weight``, through the entries of ``x`` that are not zero, where it is known that these are few.

    That is of a matrix (n, d) with a note (`stored.note`), on a processor; elsewhere it is the dense product.
    """
    position = nonzero.known(x)
    few = position is not None and len(position) <= MOSTLY_ZERO * x.numel()
    if not few or x.ndim != 2 or x.device.type != "cpu" or weight_dh.ndim != 2 or not serve(x, weight_dh):
        return x @ weight_dh
    out: Tensor = _Product.apply(x, position, weight_dh)
    return out


class _Product(torch.autograd.Function):
    """x W of x (n, d), whose own gradient nobody asks for, and W (d, h)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, position: Tensor, weight_dh: Tensor) -> Tensor:
        out = weight_dh.new_empty(len(x), weight_dh.shape[1])
        bounds = nonzero.bounds(x)
        run("sparse_rows.product", x, position, bounds, weight_dh, out)
        ctx.save_for_backward(x, position, bounds)
        return out

    @staticmethod
    def backward(ctx: Any, grad_nh: Tensor) -> tuple[None, None, Tensor]:
        x, position, bounds = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, None, x.t() @ grad_nh  # to be differentiated once more
        grad_dh = grad_nh.new_empty(x.shape[1], grad_nh.shape[1])
        run("sparse_rows.outer_product", x, position, bounds, grad_nh, grad_dh)
        return None, None, grad_dh
