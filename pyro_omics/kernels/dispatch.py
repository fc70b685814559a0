"""The choice between a kernel and the elementwise formula."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor
from torch.autograd import forward_ad

PLAIN = (Tensor, nn.Parameter)
HALF_PRECISION = (torch.bfloat16, torch.float16)
MIN_ENTRIES = 2**14  # on fewer entries, a kernel's hundred torch operations cost more than they save
MIN_COLUMNS = 64  # on shorter rows too, because each row has an overhead

_switched_off: ContextVar[bool] = ContextVar("pyro_omics_reference", default=False)


@contextmanager
def reference() -> Iterator[None]:
    """Switch the kernels off: compute log-probabilities by elementwise torch formulas, differentiated by autograd.

    Use it for a comparison, or where a kernel is suspected of an error::

        with po.kernels.reference():
            trainer.fit(svi, dm)
    """
    before = _switched_off.set(True)
    try:
        yield
    finally:
        _switched_off.reset(before)


def to_float32(x: Tensor) -> Tensor:
    """Convert the output of a network from 16 bits to float32, as with ``Trainer(precision="bf16-mixed")``."""
    return x.float() if x.dtype in HALF_PRECISION else x


def can_use_kernel(value: Tensor, *parameters: Tensor, smallest: tuple[int, int] | None = None) -> bool:
    """Whether a kernel can be used on these counts and parameters, and is worth its overhead.

    All must be of one dtype, float32 or float64, and on one device; the counts must need no gradient. What cannot look
    into a kernel gets the elementwise formula: forward-mode derivatives, `torch.func` transforms, tracing, compilation,
    the capture of a CUDA graph, and tensors that are more or less than their numbers (Pyro's with provenance, fake and
    meta tensors).

    Parameters
    ----------
    value
        counts.
    parameters
        of their distribution, or other tensors that the kernel reads.
    smallest
        number of entries and of columns from which the kernel is faster; default (MIN_ENTRIES, MIN_COLUMNS).
    """
    tensors = (value, *parameters)
    if _switched_off.get() or value.ndim == 0 or value.requires_grad:
        return False
    entries, columns = (MIN_ENTRIES, MIN_COLUMNS) if smallest is None else smallest
    if max(t.numel() for t in tensors) < entries or max(t.shape[-1] for t in tensors if t.ndim) < columns:
        return False
    if value.dtype not in (torch.float32, torch.float64) or any(p.dtype != value.dtype for p in parameters):
        return False
    if any(t.device != value.device or not t.numel() or type(t) not in PLAIN for t in tensors):
        return False
    return not (
        is_abstract(value)
        or torch.jit.is_tracing()
        or forward_ad._current_level >= 0
        or (value.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def is_abstract(value: Tensor) -> bool:
    """Whether the numbers in a tensor cannot be read now: it is transformed, compiled, fake or on the meta device."""
    return (
        torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._functorch.is_legacy_batchedtensor(value)  # of `torch.autograd.grad(is_grads_batched=True)`
        or torch._C._len_torch_dispatch_stack() > 0
        or value.is_meta
        or isinstance(value, FakeTensor)
    )
