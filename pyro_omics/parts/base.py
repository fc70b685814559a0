"""What the swappable parts of a model have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from pyro_omics.batch import RowBatch
from pyro_omics.layers.module import FastPyroModule
from pyro_omics.schema import RowData
from pyro_omics.serialization.arguments import RecordsArguments

P = TypeVar("P")


class EncodingModel(Protocol):
    """What a part may ask of the model that holds it: its encoders and what they see. `models.CountModel` is one.

    Attributes
    ----------
    encoders
        name of a local site -> its encoder, those that were made.
    """

    encoders: Any

    @property
    def latent_site(self) -> str:
        """The local site that a prior over z is of."""

    def example_batch(self) -> Any:
        """A tiny batch of the right shapes."""

    def encoder_inputs(self, batch: RowBatch) -> Tensor:
        """What the encoders see of a batch (n, n_in)."""

    def encoder_covariates(self, batch: RowBatch) -> Tensor | None:
        """Covariates for the encoders' layers (n, n_cov), or None."""

    def require_encoder(self, site: str, n_out: int) -> None:
        """Make the encoder of a local site if there is none."""

    def encoded(self, site: str, inputs: Tensor, cov: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the encoder of a local site makes of these inputs: location and scale."""


class Part(FastPyroModule, RecordsArguments):
    """A piece of a model that can be exchanged: made without sizes, and completed once by its model."""

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

    def warm_start(self, model: EncodingModel, dm: RowData) -> None:
        """Take a start from the data, once, before training; by default there is none.

        Parameters
        ----------
        model
            holds the part.
        dm
            the DataModule that is trained on: ``dm.data`` are its rows, ``dm.rows("training")`` those to use.
        """


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
    raise TypeError(f"{argument} must be a {kind.__name__}, an object; got {value!r}")


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
            raise ValueError(f"the {argument} must return {name!r} of {width} in each row; got {found}")


def check_positive(**numbers: int) -> None:
    """Raise a ValueError that names the first of these arguments that is no positive integer."""
    check_at_least(1, **numbers)


def check_at_least(minimum: int, **numbers: int) -> None:
    """Raise a ValueError that names the first of these arguments that is no integer of at least ``minimum``."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
            raise ValueError(f"{name} must be an integer of at least {minimum}; got {value!r}")
