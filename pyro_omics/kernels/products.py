"""Products of matrices that are mostly zero, such as fingerprints, with weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pyro_omics import stored
from pyro_omics.kernels.fused import array, loop
from pyro_omics.kernels.switch import serve

MOSTLY_ZERO = 0.05  # of the entries are not zero: with more, the dense product is faster


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``functional.linear``, through the entries of ``x`` that are not zero, where it is known that these are few.

    That is of a matrix (n, d) with a note (`stored.note`), on a processor; elsewhere it is the dense product.
    """
    position = stored.known(x)
    few = position is not None and len(position) <= MOSTLY_ZERO * x.numel()
    if not few or x.ndim != 2 or x.device.type != "cpu" or weight.ndim != 2 or not serve(x, weight):
        return functional.linear(x, weight, bias)
    out: Tensor = _Product.apply(x, position, weight)
    return out if bias is None else out + bias


class _Product(torch.autograd.Function):
    """x W^T of x (n, d), whose own gradient nobody asks for, and W (h, d)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, position: Tensor, weight: Tensor) -> Tensor:
        n, d = x.shape
        rows = torch.arange(n + 1) * d
        bounds = torch.searchsorted(position, rows)
        column = position - rows[:-1].repeat_interleave(bounds.diff(), output_size=len(position))
        values = x.flatten().index_select(0, position)
        ctx.save_for_backward(x, values, column, bounds)
        out = weight.new_empty(n, len(weight))
        entries = [array(t) for t in (values, column, bounds)]
        loop("product")(*entries, array(weight.t()), array(out))
        return out

    @staticmethod
    def backward(ctx: Any, grad_nh: Tensor) -> tuple[None, None, Tensor]:
        x, *entries = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, None, grad_nh.t() @ x  # to be differentiated once more
        transposed = grad_nh.new_empty(x.shape[1], grad_nh.shape[1])
        loop("outer_product")(*(array(t) for t in entries), array(grad_nh), array(transposed))
        return None, None, transposed.t()
