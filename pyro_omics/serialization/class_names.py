"""Names of classes in saved files: where users find a class of this package, and where others are written."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

PACKAGE = __name__.partition(".")[0]
# Where classes of other packages may be imported from.
ALLOWED_PACKAGES = (
    "pyro.infer.autoguide",
    "pyro.distributions",
    "torch.nn.modules",
    "torch.distributions.transforms",
)
# Modules under the names that they had when files were saved.
RENAMED = {"batch": "sizes", "libraries": "library_sizes"}


def class_name(cls: type) -> str:
    """The public path of a class of this package, such as ``pyro_omics.priors.VampPrior``; the module's for others."""
    return _names().get(cls, qualified_name(cls))


def qualified_name(cls: type) -> str:
    """The dotted path of a class: its module and its name there."""
    return f"{cls.__module__}.{cls.__qualname__}"


def find_class(path: str) -> type | None:
    """The class of that path: a public one of this package, or one in ``ALLOWED_PACKAGES``; None for all others.

    Paths of modules of this package, which earlier versions wrote (``pyro_omics.models.scvi.SCVI``), are taken for
    the public path of that name (``pyro_omics.models.SCVI``).
    """
    package, *inner = path.split(".")
    if package == PACKAGE:
        place = [RENAMED.get(name, name) for name in inner[:1]]
        return public_classes().get(path) or public_classes().get(".".join([package, *place, inner[-1]]))
    module, _, name = path.rpartition(".")
    if not path.startswith(tuple(f"{allowed}." for allowed in ALLOWED_PACKAGES)):
        return None
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    # A module also holds what it imports: the class must be written in it.
    return found if isinstance(found, type) and found.__module__ == module else None


@functools.cache
def public_classes() -> dict[str, type]:
    """Public path -> class, of every class that users find in this package; a class's shortest path comes first."""
    found: dict[str, type] = {}
    rooms = [(PACKAGE, sys.modules[PACKAGE])]
    for path, module in rooms:
        for name in _public_names(module):
            value = getattr(module, name)
            if isinstance(value, ModuleType):
                rooms.append((f"{path}.{name}", value))
            elif isinstance(value, type):
                found[f"{path}.{name}"] = value
    return found


@functools.cache
def _names() -> dict[type, str]:
    """Class -> its shortest public path."""
    return {cls: path for path, cls in reversed(public_classes().items())}


def _public_names(module: ModuleType) -> Iterator[str]:
    """What a module lists as its own, or else the classes that are written in it."""
    if hasattr(module, "__all__"):
        yield from module.__all__
        return
    for name, value in vars(module).items():
        if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_"):
            yield name
