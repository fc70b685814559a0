"""zuko, which normalizing flows come from: imported when first asked for, without its side effect."""

from __future__ import annotations

import importlib
from types import ModuleType

from torch.distributions import Distribution


def zuko() -> ModuleType:
    """The package zuko.

    Its import switches torch's and Pyro's validation of arguments off: what was set before is put back.

    Raises
    ------
    ImportError
        Where it is not installed.
    """
    switches = ("_validate_args", "arg_constraints")
    before = {name: Distribution.__dict__[name] for name in switches}
    try:
        package = importlib.import_module("zuko")
    except ModuleNotFoundError as error:
        raise ImportError('normalizing flows need zuko: pip install "pyro-omics[flows]"') from error
    finally:
        for name, value in before.items():
            setattr(Distribution, name, value)
    # Its own distribution relies on what was put back.
    package.distributions.NormalizingFlow.arg_constraints = {}
    return package
