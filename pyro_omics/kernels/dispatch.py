"""When a kernel is used in the place of the elementwise formula: decided here alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

HALF_PRECISION = (torch.bfloat16, torch.float16)
MIN_ENTRIES = 2**14  # a kernel's hundred torch operations cost more than they save on fewer entries
MIN_COLUMNS = 64  # or on shorter rows, of which each has an overhead

_switched_off: ContextVar[bool] = ContextVar("pyro_omics_reference", default=False)


@contextmanager
def reference() -> Iterator[None]:
    """Switch the kernels off: log-probabilities are elementwise torch formulas, differentiated by autograd.

    For a comparison, or where a kernel is suspected of an error::

        with po.kernels.reference():
            trainer.fit(svi, dm)
    """
    before = _switched_off.set(True)
    try:
        yield
    finally:
        _switched_off.reset(before)


def to_float32(x: Tensor) -> Tensor:
    """A network's output in float32 where it came in 16 bits, as with ``Trainer(precision="bf16-mixed")``."""
    return x.float() if x.dtype in HALF_PRECISION else x


def can_use_kernel(value: Tensor, *parameters: Tensor, smallest: tuple[int, int] | None = None) -> bool:
    """Whether a kernel can be used on these counts and parameters, and is worth its overhead.

    All must be of one dtype, float32 or float64, and on one device; the counts must need no gradient. Forward-mode
    derivatives, `torch.func` transforms, tracing, compilation and the capture of a CUDA graph get the elementwise
    formulas, which they can see into.

    Parameters
    ----------
    value
        counts.
    parameters
        of their distribution, or whatever else the kernel reads.
    smallest
        the number of entries and of columns from which the kernel is faster; (MIN_ENTRIES, MIN_COLUMNS) when None.
    """
    given = (value, *parameters)
    if _switched_off.get() or value.ndim == 0 or value.requires_grad:
        return False
    entries, columns = (MIN_ENTRIES, MIN_COLUMNS) if smallest is None else smallest
    if max(t.numel() for t in given) < entries or max(t.shape[-1] for t in given if t.ndim) < columns:
        return False
    if value.dtype not in (torch.float32, torch.float64) or any(p.dtype != value.dtype for p in parameters):
        return False
    if any(t.device != value.device or not t.numel() for t in given):
        return False
    return not _is_transformed(value)


def _is_transformed(value: Tensor) -> bool:
    """Whether the operations are being traced, transformed or recorded, and not just run."""
    return (
        torch.jit.is_tracing()
        or torch.compiler.is_compiling()
        or forward_ad._current_level >= 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or (value.is_cuda and torch.cuda.is_current_stream_capturing())
    )
