"""Names of classes in saved files: public paths of classes of this package, and module paths of others."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

PACKAGE = __name__.partition(".")[0]
# Modules of other packages from which classes may be imported.
ALLOWED_PACKAGES = (
    "pyro.infer.autoguide",
    "pyro.distributions",
    "torch.nn.modules",
    "torch.distributions.transforms",
)
# Earlier name -> name of a module, for files that were saved under the earlier one.
RENAMED = {"batch": "sizes", "libraries": "library_sizes"}
# Class of an earlier version -> the class that took its place, and the arguments that make it the same.
REPLACED = {
    f"{PACKAGE}.dispersions.PerGeneBatch": (f"{PACKAGE}.dispersions.PerGene", {"by": "batch"}),
    f"{PACKAGE}.dispersions.PerGeneLabel": (f"{PACKAGE}.dispersions.PerGene", {"by": "label"}),
}


def class_name(cls: type) -> str:
    """Public path of a class of this package, such as ``pyro_omics.priors.VampPrior``; module path of another class."""
    return _names().get(cls, qualified_name(cls))


def qualified_name(cls: type) -> str:
    """Dotted path of a class: its module and its name there."""
    return f"{cls.__module__}.{cls.__qualname__}"


def find_class(path: str) -> type | None:
    """Find the class at a path: a public one of this package, or one in ``ALLOWED_PACKAGES``; None for any other path.

    Module paths of this package, which earlier versions wrote (``pyro_omics.models.scvi.SCVI``), are read as public
    paths (``pyro_omics.models.SCVI``).
    """
    package, *inner = path.split(".")
    if package == PACKAGE:
        namespace = [RENAMED.get(name, name) for name in inner[:1]]
        return public_classes().get(path) or public_classes().get(".".join([package, *namespace, inner[-1]]))
    module, _, name = path.rpartition(".")
    if not path.startswith(tuple(f"{allowed}." for allowed in ALLOWED_PACKAGES)):
        return None
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    # A module also contains what it imports: the class must be defined in it.
    return found if isinstance(found, type) and found.__module__ == module else None


@functools.cache
def public_classes() -> dict[str, type]:
    """Public path -> class, of every public class of this package; the shortest path of a class comes first."""
    found: dict[str, type] = {}
    namespaces = [(PACKAGE, sys.modules[PACKAGE])]
    for path, module in namespaces:
        for name in _public_names(module):
            value = getattr(module, name)
            if isinstance(value, ModuleType):
                namespaces.append((f"{path}.{name}", value))
            elif isinstance(value, type):
                found[f"{path}.{name}"] = value
    return found


@functools.cache
def _names() -> dict[type, str]:
    """Class -> its shortest public path."""
    return {cls: path for path, cls in reversed(public_classes().items())}


def _public_names(module: ModuleType) -> Iterator[str]:
    """Names in a module's ``__all__``, or else the classes that are defined in it."""
    if hasattr(module, "__all__"):
        yield from module.__all__
        return
    for name, value in vars(module).items():
        if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_"):
            yield name
