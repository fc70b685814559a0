"""Where the kernels stand in for the plain forms: decided here alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

HALVES = (torch.bfloat16, torch.float16)
FEW_ENTRIES = 2**14  # a kernel's hundred operations on fewer cost more than they spare
FEW_COLUMNS = 64  # and what is found by row, on shorter rows

_switched_off: ContextVar[bool] = ContextVar("pyro_omics_reference", default=False)


@contextmanager
def reference() -> Iterator[None]:
    """Within it, log-probabilities are taken in their plain forms, entry by entry, and differentiated by autograd.

    For a comparison, or where a kernel is suspected::

        with po.kernels.reference():
            trainer.fit(svi, dm)
    """
    before = _switched_off.set(True)
    try:
        yield
    finally:
        _switched_off.reset(before)


def full(x: Tensor) -> Tensor:
    """What came of networks in 16 bits (``Trainer(precision="bf16-mixed")``), in 32 for what is made of it."""
    return x.float() if x.dtype in HALVES else x


def serve(value: Tensor, *parameters: Tensor, enough: tuple[int, int] | None = None) -> bool:
    """Whether a kernel can take these counts and parameters.

    Enough of them for it to pay; all of one floating dtype, float32 or float64, on one device; counts without gradient;
    and no one else at work on the operations: forward-mode derivatives, `torch.func`, tracing, compilation and the
    capture of a CUDA graph see the plain forms. ``enough`` says how many entries and columns pay.
    """
    given = (value, *parameters)
    if _switched_off.get() or value.ndim == 0 or value.requires_grad:
        return False
    entries, columns = (FEW_ENTRIES, FEW_COLUMNS) if enough is None else enough
    if max(t.numel() for t in given) < entries or max(t.shape[-1] for t in given if t.ndim) < columns:
        return False
    if value.dtype not in (torch.float32, torch.float64) or any(p.dtype != value.dtype for p in parameters):
        return False
    if any(t.device != value.device or not t.numel() for t in given):
        return False
    return not _others_at_work(value)


def _others_at_work(value: Tensor) -> bool:
    return (
        torch.jit.is_tracing()
        or torch.compiler.is_compiling()
        or forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or (value.is_cuda and torch.cuda.is_current_stream_capturing())
    )
