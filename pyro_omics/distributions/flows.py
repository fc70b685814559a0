"""Normalizing flows: zuko, imported when first asked for and without its side effect, and its flows as Pyro's."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

import torch
from pyro.contrib.zuko import ZukoToPyro
from torch import Tensor
from torch.distributions import Distribution, constraints


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


class FlowDistribution(ZukoToPyro):
    """A zuko flow as a Pyro distribution over real vectors; a draw brings its density along.

    ZukoToPyro alone has no support, and can be neither transformed nor expanded further.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws, with their gradient."""
        return self(torch.Size(sample_shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> FlowDistribution:
        """The flow for each of ``batch_shape`` rows."""
        return FlowDistribution(self.dist.expand(torch.Size(batch_shape)))
