"""Digests of the source code of user-defined classes."""

from __future__ import annotations

import ast
import hashlib
import inspect
import operator
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from pyro_omics.serialization.class_names import PACKAGE

# Class -> specs of the modules that its code is from, and the digest. A file that is edited after its import is not the
# code that runs: it is read again only when a module was imported anew, which gives it another spec.
_DIGESTS: dict[type, tuple[list[Any], str | dict[str, str]]] = {}


def source_digest(cls: type) -> str | dict[str, str] | None:
    """A digest of the source files of a class and of the user's modules that it imports.

    Comments and layout do not enter.

    Returns
    -------
    Digest; ``{"unknown": ...}`` where the source cannot be read; None for a class of an installed package or this one.
    """
    if _is_installed(cls.__module__):
        return None
    try:
        if cls in _DIGESTS and vars(sys.modules[cls.__module__]).get(cls.__name__, cls) is not cls:
            return _DIGESTS[cls][1]  # of the class as it was before its module was imported anew
        modules = list(_own_modules(sys.modules[cls.__module__]))
        specs = [module.__spec__ for module in modules]
        if cls in _DIGESTS and all(map(operator.is_, _DIGESTS[cls][0], specs)) and len(_DIGESTS[cls][0]) == len(specs):
            return _DIGESTS[cls][1]
        files = {inspect.getsourcefile(cls), *map(inspect.getsourcefile, modules)}
        code = [ast.dump(ast.parse(Path(str(file)).read_bytes())) for file in sorted(map(str, files))]
    except (KeyError, TypeError, OSError, SyntaxError):
        return {"unknown": f"class {cls.__name__}, whose source file cannot be read"}
    digest = hashlib.sha256("\n".join(code).encode()).hexdigest()
    _DIGESTS[cls] = specs, digest
    return digest


def _own_modules(module: ModuleType, seen: set[str] | None = None) -> Iterator[ModuleType]:
    """A module, and the modules outside installed packages that it imports, directly or not."""
    seen = set() if seen is None else seen
    seen.add(module.__name__)
    yield module
    for value in list(vars(module).values()):
        name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
        if isinstance(name, str) and name in sys.modules and name not in seen and not _is_installed(name):
            yield from _own_modules(sys.modules[name], seen)


def _is_installed(module: str) -> bool:
    """Whether a module belongs to Python, to this package, or to another installed package."""
    root = module.partition(".")[0]
    if root == PACKAGE or root in sys.builtin_module_names or root in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return bool({"site-packages", "dist-packages"} & set(Path(file).parts))
