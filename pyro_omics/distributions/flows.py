"""Normalizing flows of the package zuko, as Pyro distributions."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, ClassVar

import torch
from pyro.contrib.zuko import ZukoToPyro
from torch import Tensor
from torch.distributions import Distribution, constraints


def zuko() -> ModuleType:
    """Import the package zuko.

    Its import switches off the validation of arguments in torch and Pyro: the previous setting is restored.
    """
    switches = ("_validate_args", "arg_constraints")
    before = {name: Distribution.__dict__[name] for name in switches}
    try:
        return importlib.import_module("zuko")
    finally:
        for name, value in before.items():
            setattr(Distribution, name, value)


def flow_distribution(flow: Callable[..., Distribution], context: Tensor | None = None) -> FlowDistribution:
    """The distribution that a zuko flow makes, given a context (..., c) or none.

    It is made without validation: zuko's class declares no constraints, and torch would warn.
    """
    validates = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        return FlowDistribution(flow(context))
    finally:
        Distribution.set_default_validate_args(validates)


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
