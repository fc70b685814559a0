"""pyro_omics: Pyro-native probabilistic models of count data in biology.

The public names are in `pyro_omics.public`, which is imported at the first use of one: `import pyro_omics` alone is
quick, and of Lightning's two packages the one is taken that a session has imported by then (`pyro_omics.lightning`).
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyro_omics.public import *  # noqa: F403


def __getattr__(name: str) -> Any:
    """A public name, or a module of the package."""
    is_module = not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None
    if is_module:
        return importlib.import_module(f"{__name__}.{name}")
    if name.startswith("_") and name not in ("__all__", "__version__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    public = importlib.import_module(f"{__name__}.public")
    if not hasattr(public, name):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}: its names are {sorted(public.__all__)}")
    return getattr(public, name)


def __dir__() -> list[str]:
    return [*globals(), *importlib.import_module(f"{__name__}.public").__all__]
