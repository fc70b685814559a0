"""Dropout without a mask: torch draws a seed, and the entries that go are a hash of it and their place."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pyro_omics.kernels.compiled.run import run
from pyro_omics.kernels.dispatch import serve


def dropout(x: Tensor, p: float) -> Tensor:
    """Each entry is 0 with probability ``p``, else divided by 1 - p.

    Torch's own, or, for enough float32 on a processor, a kernel's: then torch's generator is asked for its seed alone.
    """
    if not 0 < p < 1 or x.dtype != torch.float32 or x.device.type != "cpu" or not serve(x.detach()):
        return functional.dropout(x, p)
    out: Tensor = _Dropout.apply(x, torch.randint(-(2**31), 2**31, (2,), dtype=torch.int32), p)
    return out


class _Dropout(torch.autograd.Function):
    """Linear in x, so that its gradient is the same of the gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, seed: Tensor, p: float) -> Tensor:
        ctx.seed, ctx.p = seed, p
        return _dropped(x, seed, p)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        again = _Dropout.apply if torch.is_grad_enabled() else _dropped
        return again(grad, ctx.seed, ctx.p), None, None


def _dropped(x: Tensor, seed: Tensor, p: float) -> Tensor:
    given = x.contiguous()
    out = torch.empty_like(given)
    run("dropout.dropout", given.view(-1), seed.numpy().view("uint32"), p, out.view(-1))
    return out
