"""Where the kernels stand in for the plain forms: decided here alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

_switched_off: ContextVar[bool] = ContextVar("pyro_omics_plain", default=False)


@contextmanager
def plain() -> Iterator[None]:
    """Within it, log-probabilities are taken in their plain forms, entry by entry, and differentiated by autograd.

    For a comparison, or where a kernel is suspected::

        with po.kernels.plain():
            trainer.fit(svi, dm)
    """
    before = _switched_off.set(True)
    try:
        yield
    finally:
        _switched_off.reset(before)


def serve(value: Tensor, *parameters: Tensor) -> bool:
    """Whether a kernel can take these counts and parameters.

    All of one floating dtype, float32 or float64, on one device, counts without gradient, no empty dimension; and no
    one else at work on the operations: forward-mode derivatives, `torch.func`, tracing and compilation see the plain
    forms.
    """
    if _switched_off.get() or value.ndim == 0 or value.requires_grad:
        return False
    if value.dtype not in (torch.float32, torch.float64) or not value.numel():
        return False
    if any(p.dtype != value.dtype or p.device != value.device or not p.numel() for p in parameters):
        return False
    return not _others_at_work()


def _others_at_work() -> bool:
    return (
        torch.jit.is_tracing()
        or torch.compiler.is_compiling()
        or forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None
    )
