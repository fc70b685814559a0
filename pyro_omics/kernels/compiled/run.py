"""Calls of the compiled loops, which are imported and compiled when one is first called."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor


def run(name: str, *given: Any) -> None:
    """Call a compiled loop, ``module.function`` of `kernels.compiled`, with tensors on a processor, in torch's threads.

    Tensors that the loop writes to must be contiguous; others are copied where they are not. Arrays are passed as they
    are.
    """
    loop, threads = _compiled(name)
    loop(threads(), *(g.detach().contiguous().numpy() if isinstance(g, Tensor) else g for g in given))


@functools.cache
def _compiled(name: str) -> tuple[Callable[..., None], Callable[[], Any]]:
    module, function = name.split(".")
    if importlib.import_module("numba").config.DISABLE_JIT:
        raise RuntimeError("NUMBA_DISABLE_JIT is set, and the loops of pyro_omics are machine code: unset it")
    threads = importlib.import_module(f"{__package__}.threads").threads  # numba takes a moment to import
    return getattr(importlib.import_module(f"{__package__}.{module}"), function), threads
