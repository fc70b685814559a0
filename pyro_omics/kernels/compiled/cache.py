"""How loops are compiled by numba, and where the machine code is kept."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit
from numba.core.caching import FunctionCache

# Numba checks whether a function's own file has changed; the loops contain code from other files too.
STAMP = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()


class _Kept(FunctionCache):
    """Machine code on disk, which is used until any file of this folder changes."""

    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return (*super()._index_key(sig, codegen), STAMP)


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit(nogil=True, cache=True, **options)``, but for the cache where no folder can be written to."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = njit(**{"nogil": True, **options})(function)
        with contextlib.suppress(RuntimeError):  # without a cache each process compiles anew
            dispatcher._cache = _Kept(function)
        return dispatcher

    return decorate
