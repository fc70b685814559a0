"""Compilation of loops by numba, with the machine code cached on disk."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

# Numba checks only whether the file of a function has changed, but the loops contain code from other files too.
STAMP = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()


class _FolderCache(FunctionCache):
    """Cache of machine code on disk, valid until any file of this folder changes."""

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), STAMP)


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit(nogil=True, cache=True, **options)``, without the cache where no folder is writable."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = njit(**{"nogil": True, **options})(function)
        with contextlib.suppress(RuntimeError):  # without a cache, each process compiles again
            dispatcher._cache = _FolderCache(function)
        return dispatcher

    return decorate
