"""What the swappable parts of a model have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any, TypeVar

from torch import Tensor, nn

from pyro_omics.layers.module import FastPyroModule
from pyro_omics.serialization.arguments import RecordsArguments

P = TypeVar("P")


class Part(FastPyroModule, RecordsArguments):
    """A prior, likelihood, dispersion or library: made without sizes, and completed once, by its model."""

    def __init__(self) -> None:
        super().__init__()
        self.built = False

    def build(self, sizes: Any) -> None:
        """Make the parameters for these sizes. A subclass that overrides it calls it first.

        Raises
        ------
        ValueError
            When the part has been built before: it would take the first model's parameters away.
        """
        if self.built:
            raise ValueError(
                f"this {type(self).__name__} belongs to a model already, and its parameters with it: pass a new "
                f"{type(self).__name__}() to each model"
            )
        self.built = True


def check_part(argument: str, value: Any, kind: type[P]) -> P:
    """The value itself, if it is a part of that kind.

    Raises
    ------
    TypeError
        For a class, a name or anything else in its place.
    """
    if isinstance(value, kind):
        return value
    if isinstance(value, type) and issubclass(value, kind):
        raise TypeError(f"{argument} is the class {value.__name__}: pass an instance of it, {value.__name__}()")
    raise TypeError(f"{argument} must be a {kind.__name__}, an object, and is {value!r}")


def check_unowned(argument: str, network: nn.Module) -> nn.Module:
    """The network itself, if no other model has it.

    Raises
    ------
    TypeError, ValueError
        For what is no module, and for a network that is part of a model already.
    """
    network = check_part(argument, network, nn.Module)
    if getattr(network, "_pyro_name", ""):
        raise ValueError(f"{argument} is a network of another model already: make a new one for each model")
    return network


def check_heads(argument: str, heads: Mapping[str, Tensor], names: Iterable[str], width: str, n: int) -> None:
    """Raise a ValueError unless a network's outputs have these names, each with n (``width`` in words) in a row."""
    for name in names:
        if name not in heads or heads[name].shape[-1] != n:
            found = {head: tuple(value.shape) for head, value in heads.items()}
            raise ValueError(f"the {argument} must return {name!r} of {width} in each row, and has {found}")


def check_positive(**numbers: int) -> None:
    """Raise a ValueError that names the first of these arguments that is no positive integer."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, and is {value!r}")
