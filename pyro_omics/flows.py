"""The extra ``flows``: zuko, imported only where a part asks for it."""

from __future__ import annotations

import importlib
from types import ModuleType

from torch.distributions import Distribution


def zuko() -> ModuleType:
    """The package zuko (normalizing flows), with torch's and Pyro's validation of arguments left as it was.

    Raises
    ------
    ImportError
        Where it is not installed.
    """
    validated = Distribution._validate_args  # which the import switches off
    try:
        return importlib.import_module("zuko")
    except ImportError as error:
        raise ImportError('normalizing flows need the package zuko: pip install "pyro-omics[flows]"') from error
    finally:
        Distribution.set_default_validate_args(validated)
