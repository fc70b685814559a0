"""Kernels as one differentiable function, for autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_omics.kernels.likelihood.densities import Slopes
from pyro_omics.kernels.likelihood.sparse_counts import Counts
from pyro_omics.kernels.likelihood.torch_kernels import Kernel

Elementwise = Callable[..., Tensor]


def row_log_prob(kernel: Kernel, plain: Elementwise, value: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Log-probabilities, summed over the last dimension, by a kernel.

    Parameters
    ----------
    kernel
        see `torch_kernels.Kernel`.
    plain
        (value, *parameters) -> the same elementwise: a second derivative is taken of this.
    value
        counts (..., g).
    parameters
        of shapes that broadcast with ``value``; derivatives by those that require no gradient are not computed.
    """
    shape = value.shape
    if any(p.shape not in (shape, shape[-1:]) for p in parameters):  # slow: Python
        shape = torch.broadcast_shapes(shape, *(p.shape for p in parameters))
    given = [_matrix(p, shape, i in kernel.by_column) for i, p in enumerate(parameters)]
    if torch.is_grad_enabled() and any(p.requires_grad for p in given):
        rows: Tensor = _Rows.apply(kernel, plain, shape, value, *given)
    else:
        rows, _ = kernel(Counts(value, shape), given, [False] * len(given))
    return rows.view(shape[:-1])


def _matrix(parameter: Tensor, shape: torch.Size, by_column: bool) -> Tensor:
    """A parameter as (n, g), or as (g,) where it is the same for all rows and the kernel takes it so."""
    columns = shape[-1]
    if by_column and parameter.shape[:-1].numel() == 1:
        return parameter.reshape(-1).expand(columns)
    return parameter.expand(shape).reshape(-1, columns).contiguous()


class _Rows(torch.autograd.Function):
    """Values and derivatives are computed together; backward multiplies the latter by the rows' gradient."""

    @staticmethod
    def forward(
        ctx: Any, kernel: Kernel, plain: Elementwise, shape: torch.Size, value: Tensor, *given: Tensor
    ) -> Tensor:
        rows, ctx.slopes = kernel(Counts(value, shape), given, ctx.needs_input_grad[4:])
        ctx.kernel, ctx.plain, ctx.shape = kernel, plain, shape
        ctx.save_for_backward(value, *given)
        return rows

    @staticmethod
    def backward(ctx: Any, grad_n: Tensor) -> tuple[Tensor | None, ...]:
        value, *given = ctx.saved_tensors
        wanted = ctx.needs_input_grad[4:]
        counts = Counts(value, ctx.shape)
        if torch.is_grad_enabled():
            grads = _differentiable(ctx.plain, counts.matrix, given, wanted, grad_n)
        else:
            # Backward overwrites them: a second one through a retained graph computes them anew.
            slopes, ctx.slopes = ctx.slopes, None
            if slopes is None:
                _, slopes = ctx.kernel(counts, given, wanted)
            grads = [_weighted(s, p, grad_n) for s, p in zip(slopes, given, strict=True)]
        return None, None, None, None, *grads


def _weighted(slope: Tensor | None, parameter: Tensor, grad_n: Tensor) -> Tensor | None:
    """The gradient of a parameter, from its derivatives (n, g) and the rows' gradient (n,)."""
    if slope is None:
        return None
    if parameter.ndim > 1:
        return slope.mul_(grad_n.unsqueeze(-1))
    with torch.autocast(slope.device.type, enabled=False):  # a product of matrices is rounded to 16 bits in one
        return grad_n @ slope


def _differentiable(
    plain: Elementwise, x: Tensor, given: Sequence[Tensor], wanted: Sequence[bool], grad_n: Tensor
) -> Slopes:
    """The same gradients by the elementwise formula, which can be differentiated once more."""
    own = [p.view_as(p) for p in given]  # one parameter may be made of another, whose gradient is its own alone
    asked = [p for p, is_wanted in zip(own, wanted, strict=True) if is_wanted]
    found = iter(torch.autograd.grad(plain(x, *own).sum(-1), asked, grad_n, create_graph=True))
    return [next(found) if is_wanted else None for is_wanted in wanted]
