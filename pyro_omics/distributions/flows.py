"""Normalizing flows of the optional package zuko, as Pyro distributions."""

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
    """Import the package zuko.

    Its import switches off the validation of arguments in torch and Pyro: the previous setting is restored.

    Raises
    ------
    ImportError
        If it is not installed.
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
    # Its own distribution declares no constraints, and would fail under the restored setting.
    package.distributions.NormalizingFlow.arg_constraints = {}
    return package


class FlowDistribution(ZukoToPyro):
    """A zuko flow as a Pyro distribution over real vectors; a draw carries its log-density along.

    Unlike ZukoToPyro, it has a support, and can be transformed and expanded.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws with gradient, (sample_shape, batch_shape, event_shape)."""
        return self(torch.Size(sample_shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> FlowDistribution:
        """The flow with another batch shape."""
        return FlowDistribution(self.dist.expand(torch.Size(batch_shape)))
