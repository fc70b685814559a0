"""Calls of the compiled loops, which are imported and compiled at the first call."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from torch import Tensor


def run(name: str, *arguments: Any) -> None:
    """Call a compiled loop in torch's threads.

    Parameters
    ----------
    name
        ``module.function`` of a loop in `kernels.compiled`.
    arguments
        tensors on the CPU, or arrays. A tensor that the loop writes to must be contiguous; another is copied where it
        is not.

    Raises
    ------
    RuntimeError
        If numba's compiler is switched off.
    """
    loop, threads = _compiled(name)
    loop(threads(), *(a.detach().contiguous().numpy() if isinstance(a, Tensor) else a for a in arguments))


@functools.cache
def _compiled(name: str) -> tuple[Callable[..., None], Callable[[], Any]]:
    module, function = name.split(".")
    if importlib.import_module("numba").config.DISABLE_JIT:
        raise RuntimeError("NUMBA_DISABLE_JIT is set, but the loops of pyro_omics must be compiled: unset it")
    threads = importlib.import_module(f"{__package__}.threads").threads  # numba takes a moment to import
    return getattr(importlib.import_module(f"{__package__}.{module}"), function), threads
