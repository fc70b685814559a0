"""Weights that a model starts from, by which training is recognised, whoever trained it."""

from __future__ import annotations

import warnings
from weakref import WeakKeyDictionary

import torch
from torch import nn

# Model -> its sums when a pair was first made of it. Copies of a model are not in it: they start where they are.
_STARTS: WeakKeyDictionary[nn.Module, dict[str, float]] = WeakKeyDictionary()


def sums(module: nn.Module) -> dict[str, float]:
    """The sum of each parameter, which any change of the weights changes, and moving them to a device does not."""
    floats = {name: p.detach().cpu() for name, p in module.named_parameters() if p.is_floating_point()}
    return {name: float(p.sum(dtype=torch.float64)) for name, p in floats.items()}


def remember_start(model: nn.Module) -> None:
    """Remember the weights of a model when the first pair is made of it."""
    _STARTS.setdefault(model, sums(model))


def renew_start(model: nn.Module) -> None:
    """Remember the weights of a model, which are now a start from the data, in place of those that it was made with."""
    _STARTS[model] = sums(model)


def was_trained(model: nn.Module) -> bool:
    """Whether the weights differ from those that the first pair of the model was made with."""
    start, now = _STARTS.get(model, {}), sums(model)
    return any(now.get(name, value) != value for name, value in start.items())


def warn_if_trained(model: nn.Module) -> None:
    """Warn of a model that was trained in another pair: it keeps its weights, and the two fits share them."""
    if was_trained(model):
        kind = type(model).__name__
        warnings.warn(
            f"this {kind} was trained in another SVIModule: it keeps its weights, and both share them. To start "
            f"afresh make a new one, {kind}.from_data(dm); to go on from these weights pass copy.deepcopy(model)",
            UserWarning,
            stacklevel=4,
        )
