"""A kernel as a differentiable function for autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_omics.kernels.dispatch import is_abstract
from pyro_omics.kernels.likelihood.densities import Derivatives
from pyro_omics.kernels.likelihood.sparse_counts import Counts
from pyro_omics.kernels.likelihood.torch_kernels import Kernel

Elementwise = Callable[..., Tensor]


def row_log_prob(kernel: Kernel, elementwise: Elementwise, value: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Log-probabilities of counts, summed over the last dimension (...), from a kernel.

    Parameters
    ----------
    kernel
        see `torch_kernels.Kernel`.
    elementwise
        (value, *parameters) -> log-probabilities (..., g), from which second derivatives are taken.
    value
        counts (..., g).
    parameters
        tensors that broadcast with ``value``; no derivative is computed for one that requires no gradient.
    """
    shape = value.shape
    if any(p.shape not in (shape, shape[-1:]) for p in parameters):  # broadcast_shapes is slow, in Python
        shape = torch.broadcast_shapes(shape, *(p.shape for p in parameters))
    matrices = [_matrix(p, shape, i in kernel.by_column) for i, p in enumerate(parameters)]
    if torch.is_grad_enabled() and any(p.requires_grad for p in matrices):
        rows: Tensor = _RowLogProb.apply(kernel, elementwise, shape, value, *matrices)
    else:
        rows, _ = kernel(Counts(value, shape), matrices, [False] * len(matrices))
    return rows.view(shape[:-1])


def _matrix(parameter: Tensor, shape: torch.Size, by_column: bool) -> Tensor:
    """A parameter as (n, g), or as (g,) where all rows share it and the kernel accepts that shape."""
    columns = shape[-1]
    if by_column and parameter.shape[:-1].numel() == 1:
        return parameter.reshape(-1).expand(columns)
    return parameter.expand(shape).reshape(-1, columns).contiguous()


class _RowLogProb(torch.autograd.Function):
    """Sums over rows from a kernel: forward computes the derivatives too, and backward multiplies by the gradient."""

    @staticmethod
    def forward(
        ctx: Any, kernel: Kernel, elementwise: Elementwise, shape: torch.Size, value: Tensor, *matrices: Tensor
    ) -> Tensor:
        rows, ctx.derivatives = kernel(Counts(value, shape), matrices, ctx.needs_input_grad[4:])
        ctx.kernel, ctx.elementwise, ctx.shape = kernel, elementwise, shape
        ctx.save_for_backward(value, *matrices)
        return rows

    @staticmethod
    def backward(ctx: Any, grad_n: Tensor) -> tuple[Tensor | None, ...]:
        value, *matrices = ctx.saved_tensors
        needs_grad = ctx.needs_input_grad[4:]
        counts = Counts(value, ctx.shape)
        if torch.is_grad_enabled():
            grads = _elementwise_gradients(ctx.elementwise, counts.matrix, matrices, needs_grad, grad_n)
        else:
            # Backward overwrites the derivatives, so a second one through a retained graph computes them again.
            derivatives, ctx.derivatives = ctx.derivatives, None
            if derivatives is None:
                _, derivatives = ctx.kernel(counts, matrices, needs_grad)
            grads = [_parameter_gradient(d, p, grad_n) for d, p in zip(derivatives, matrices, strict=True)]
        return None, None, None, None, *grads


def _parameter_gradient(derivative: Tensor | None, parameter: Tensor, grad_n: Tensor) -> Tensor | None:
    """The gradient of a parameter, from the derivatives (n, g) and the gradient of the rows (n,)."""
    if derivative is None:
        return None
    if parameter.ndim > 1:
        # Several gradients at once (torch.vmap) do not fit into the derivatives' memory.
        grad = grad_n.unsqueeze(-1)
        return derivative * grad if is_abstract(grad_n) else derivative.mul_(grad)
    with torch.autocast(derivative.device.type, enabled=False):  # autocast would round the product to 16 bits
        return grad_n @ derivative


def _elementwise_gradients(
    elementwise: Elementwise, x: Tensor, matrices: Sequence[Tensor], needs_grad: Sequence[bool], grad_n: Tensor
) -> Derivatives:
    """Gradients of the elementwise formula, which can be differentiated once more."""
    # Views, so that no gradient passes from a parameter to another one that it was computed from.
    aliases = [p.view_as(p) for p in matrices]
    inputs = [p for p, is_needed in zip(aliases, needs_grad, strict=True) if is_needed]
    gradients = iter(torch.autograd.grad(elementwise(x, *aliases).sum(-1), inputs, grad_n, create_graph=True))
    return [next(gradients) if is_needed else None for is_needed in needs_grad]
