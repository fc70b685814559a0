"""Base class of the swappable parts of a model, and checks of their arguments."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from pyro_omics.batch import RowBatch
from pyro_omics.layers.module import FastPyroModule
from pyro_omics.schema import RowData
from pyro_omics.serialization.arguments import RecordsArguments
from pyro_omics.serialization.class_names import class_name, public_classes

P = TypeVar("P")


class EncodingModel(Protocol):
    """The model as its parts see it: its encoders and their inputs. `models.CountModel` is one.

    Attributes
    ----------
    encoders
        name of a local site -> its encoder, for the encoders made so far.
    """

    encoders: Any

    @property
    def latent_site(self) -> str:
        """Name of the local site that the prior over z belongs to."""

    def example_batch(self) -> Any:
        """A tiny batch of the right shapes."""

    def encoder_inputs(self, batch: RowBatch) -> Tensor:
        """Inputs of the encoders for a batch (n, n_in)."""

    def encoder_covariates(self, batch: RowBatch) -> Tensor | None:
        """Covariates for the encoders' layers (n, n_cov), or None."""

    def require_encoder(self, site: str, n_out: int) -> None:
        """Create the encoder of a local site if there is none."""

    def run_encoder(self, site: str, inputs: Tensor, cov: Tensor | None) -> tuple[Tensor, Tensor]:
        """Location and scale that the encoder of a local site returns for these inputs."""


class Part(FastPyroModule, RecordsArguments):
    """A swappable part of a model: created without sizes, and completed once by its model."""

    def __init__(self) -> None:
        super().__init__()
        self.built = False

    def build(self, sizes: Any) -> None:
        """Create the parameters for these sizes; an override calls ``super().build(sizes)`` first.

        Raises
        ------
        ValueError
            When the part has been built before: a second model would replace the first one's parameters.
        """
        self.check_unbuilt()
        self.built = True

    def check_unbuilt(self) -> None:
        """Raise a ValueError if a model has been made with the part."""
        if self.built:
            raise ValueError(
                f"this {type(self).__name__} belongs to a model already, and so do its parameters: pass a new "
                f"{type(self).__name__}() to each model"
            )

    def warm_start(self, model: EncodingModel, dm: RowData) -> None:
        """Initialize from the data, once, before training; does nothing by default.

        Parameters
        ----------
        model
            the model that holds the part.
        dm
            the DataModule of the training data: ``dm.data`` holds its rows, ``dm.rows("training")`` lists those to use.
        """


def check_part(argument: str, value: Any, kind: type[P]) -> P:
    """Return ``value`` if it is an instance of ``kind``.

    Raises
    ------
    TypeError
        If it is a class, a name or anything else.
    ValueError
        If it is a part of another model.
    """
    if isinstance(value, Part):
        value.check_unbuilt()  # before it is attached: Pyro has an error of its own for a module that has run
    if isinstance(value, kind):
        return value
    got = repr(value)
    if isinstance(value, type) and issubclass(value, kind):
        got = f"the class {value.__name__}: pass an instance, {value.__name__}()"
    elif isinstance(value, str):
        got = f"the text {value!r}: {_advice(value, kind)}"
    article = "an" if kind.__name__[0] in "AEIOU" else "a"
    raise TypeError(f"{argument} must be {article} {kind.__name__} object; got {got}")


def _advice(text: str, kind: type) -> str:
    """Which object to pass in place of a text: one whose class has this name, or these initials."""
    found = [cls for cls in public_classes().values() if issubclass(kind, Part) and issubclass(cls, kind)]
    names = {cls.__name__: class_name(cls).partition(".")[2] for cls in found if cls is not kind}
    wanted = re.sub("[^a-z0-9]", "", text.lower())
    for name, path in names.items():
        if wanted in (name.lower(), re.sub("[^A-Z]", "", name).lower()):
            return f"pass {path}()"
    near = [path for name, path in names.items() if len(wanted) > 2 and wanted in name.lower()]
    if near or names:
        return "pass an object, such as " + " or ".join(f"{path}()" for path in (near or list(names.values()))[:5])
    return "pass an object"


def check_unowned(argument: str, network: nn.Module) -> nn.Module:
    """Return ``network`` if it does not belong to a model yet.

    Raises
    ------
    TypeError
        If it is not a module.
    ValueError
        If it is already part of a model.
    """
    network = check_part(argument, network, nn.Module)
    if getattr(network, "_pyro_name", ""):
        raise ValueError(f"{argument} belongs to another model already: make a new network for each model")
    return network


def check_heads(argument: str, heads: Mapping[str, Tensor], names: Iterable[str], width: str, n: int) -> None:
    """Raise a ValueError unless a network returns an output of each name with n columns; ``width`` describes n."""
    for name in names:
        if name not in heads or heads[name].shape[-1] != n:
            found = {head: tuple(value.shape) for head, value in heads.items()}
            raise ValueError(f"{argument} must return {name!r} of {width} for each row; got {found}")


def check_positive(**numbers: int) -> None:
    """Raise a ValueError that names the first argument that is not a positive integer."""
    check_at_least(1, **numbers)


def check_at_least(minimum: int, **numbers: int) -> None:
    """Raise a ValueError that names the first argument that is not an integer of at least ``minimum``."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < minimum:
            raise ValueError(f"{name} must be an integer of at least {minimum}; got {value!r}")
