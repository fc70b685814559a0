"""The names in a data set that a model's weights know by position, and what is asked of a DataModule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Protocol

import numpy as np

from pyro_omics.sizes import DELSizes, Sizes, tuples


@dataclass(frozen=True)
class Schema:
    """The names in a data set whose positions a trained model's weights stand for; `CellSchema` and `DELSchema`.

    Attributes
    ----------
    training_digest
        hash of the names of the training rows, in their order.
    """

    # Entry "kind" of a saved schema, by which the class is found again.
    kind: ClassVar[str]
    # Fields that describe the rows a model was trained on: other data may differ in them.
    of_training_rows: ClassVar[tuple[str, ...]] = ("training_digest",)

    training_digest: str = ""

    def __post_init__(self) -> None:
        """Take lists for tuples, as JSON gives them."""
        for field in fields(self):
            object.__setattr__(self, field.name, tuples(getattr(self, field.name)))

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """Name of an axis -> the names along it."""
        raise NotImplementedError

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the counts' columns, ``batch.x``."""
        raise NotImplementedError

    def names(self, axis: str) -> tuple[str, ...]:
        """The names along an axis.

        Raises
        ------
        ValueError
            For an axis that these data do not have.
        """
        if axis not in self.axes:
            raise ValueError(f"axis must be one of {list(self.axes)}; got {axis!r}")
        return self.axes[axis]

    def differences(self, other: Schema, training_rows: bool = False) -> list[str]:
        """The fields in which another schema differs, so that weights trained with this one mean something else there.

        Parameters
        ----------
        other
            of other data.
        training_rows
            compare the fields that describe the training rows too.
        """
        names = [field.name for field in fields(self) if training_rows or field.name not in self.of_training_rows]
        if type(other) is not type(self):
            return names
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    def to_dict(self) -> dict[str, Any]:
        """The schema as plain JSON data."""
        return {"kind": self.kind, **{name: _lists(value) for name, value in asdict(self).items()}}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Schema:
        """The schema that `to_dict` wrote, or that an earlier version of the package did.

        Raises
        ------
        ValueError
            For a kind of schema that is not known, and for other fields than its own.
        """
        data = dict(data) if "kind" in data else _renamed(data)
        kinds = {cls.kind: cls for cls in _subclasses(Schema)}
        if (kind := data.pop("kind")) not in kinds:
            raise ValueError(
                f"kind must be one of {list(kinds)}; got {kind!r}: import the module that defines its class"
            )
        known = {field.name for field in fields(kinds[kind])}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"the fields of a {kinds[kind].__name__} must be among {sorted(known)}; got {unknown}")
        return kinds[kind](**data)


@dataclass(frozen=True)
class CellSchema(Schema):
    """The names in a data set of cells.

    Attributes
    ----------
    genes
        the genes that are modelled.
    batches, labels
        levels of the batch and of the label, in the order of their codes; ``("all",)`` where there is no key.
    categorical
        keys of further categorical covariates.
    categories
        the levels of each of them.
    continuous
        keys of continuous covariates.
    proteins
        names of the proteins, () where there are none.
    panels
        of each batch, the proteins that it measured in any of its cells; () without proteins.
    """

    kind: ClassVar[str] = "cells"
    of_training_rows: ClassVar[tuple[str, ...]] = ("panels", "training_digest")

    genes: tuple[str, ...] = ()
    batches: tuple[str, ...] = ("all",)
    labels: tuple[str, ...] = ("all",)
    categorical: tuple[str, ...] = ()
    categories: tuple[tuple[str, ...], ...] = ()
    continuous: tuple[str, ...] = ()
    proteins: tuple[str, ...] = ()
    panels: tuple[tuple[str, ...], ...] = ()

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """Genes, proteins, and the levels of the batch and of the label."""
        return {"genes": self.genes, "proteins": self.proteins, "batch": self.batches, "label": self.labels}

    @property
    def columns(self) -> tuple[str, ...]:
        """The genes."""
        return self.genes

    def sizes(self, n_obs: int, **moments: Any) -> Sizes:
        """The sizes of the data, with those ``moments`` of the counts (fields of `Sizes`) that names do not tell."""
        return Sizes(
            n_obs=n_obs,
            n_genes=len(self.genes),
            n_batches=len(self.batches),
            n_labels=len(self.labels),
            n_categories=tuple(map(len, self.categories)),
            n_continuous=len(self.continuous),
            n_proteins=len(self.proteins),
            **moments,
        )


@dataclass(frozen=True)
class DELSchema(Schema):
    """The names in the counts of a DNA-encoded library.

    Attributes
    ----------
    targets, controls, pre_selections
        names of the selections with the target, with the matrix alone, and of samples from before the selection.
    cycles
        names of the cycles.
    synthons
        the building blocks of each cycle, in the order of their codes.
    known_yields
        whether the data have the yields.
    mean_counts
        of each selection (targets, controls, pre-selections), its mean count for a compound.
    """

    kind: ClassVar[str] = "compounds"
    of_training_rows: ClassVar[tuple[str, ...]] = ("mean_counts", "training_digest")

    targets: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    pre_selections: tuple[str, ...] = ()
    cycles: tuple[str, ...] = ()
    synthons: tuple[tuple[str, ...], ...] = ()
    known_yields: bool = False
    mean_counts: tuple[float, ...] = ()

    @property
    def selections(self) -> tuple[str, ...]:
        """All selections: targets, controls, pre-selections."""
        return self.targets + self.controls + self.pre_selections

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """Selections of each kind, the building blocks of each cycle, and the one column that a score has."""
        selections = {"targets": self.targets, "controls": self.controls, "pre-selections": self.pre_selections}
        return {**selections, "scores": ("score",), **dict(zip(self.cycles, self.synthons, strict=True))}

    @property
    def columns(self) -> tuple[str, ...]:
        """The target selections."""
        return self.targets

    def sizes(self, n_obs: int, depth: tuple[float, ...], **widths: Any) -> DELSizes:
        """The sizes of the data.

        Parameters
        ----------
        n_obs
            number of training rows.
        depth
            mean count of a compound in each of `selections`.
        widths
            fields of `DELSizes` that names do not tell.
        """
        t, c = len(self.targets), len(self.controls)
        return DELSizes(
            n_obs=n_obs,
            cycles=self.cycles,
            n_synthons=tuple(map(len, self.synthons)),
            depth=depth[:t],
            control_depth=depth[t : t + c],
            pre_depth=depth[t + c :],
            known_yields=self.known_yields,
            **widths,
        )


def _renamed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a schema as it was saved before it had classes: a dictionary with sentences for keys."""
    levels = data["levels"]
    if "genes" in data:
        prefix = "categorical "
        keys = [name for name in levels if name.startswith(prefix)]
        panels = data.get("panels", {})
        return {
            "kind": CellSchema.kind,
            **{name: data[name] for name in ("genes", "continuous", "proteins")},
            "batches": levels["batch"],
            "labels": levels["label"],
            "categorical": [key.removeprefix(prefix) for key in keys],
            "categories": [levels[key] for key in keys],
            "panels": [panels.get(batch, []) for batch in levels["batch"]] if panels else [],
            "training_digest": data["training cells"],
        }
    return {
        "kind": DELSchema.kind,
        **{name: data[name] for name in ("targets", "controls", "cycles")},
        "pre_selections": data["pre-selections"],
        "synthons": [levels[cycle] for cycle in data["cycles"]],
        "known_yields": data["yields"],
        "mean_counts": data["counts of a compound"],
        "training_digest": data["training compounds"],
    }


def _subclasses(cls: type[Schema]) -> Iterator[type[Schema]]:
    for sub in cls.__subclasses__():
        yield sub
        yield from _subclasses(sub)


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


class BatchSource(Protocol):
    """The rows of a data set, of which minibatches are made."""

    def __getitem__(self, rows: Any, /) -> Any:
        """The minibatch of the rows at these positions."""

    def batches(self, rows: np.ndarray, batch_size: int) -> Iterator[Any]:
        """Minibatches over ``rows``, in order."""


class RowData(Protocol):
    """What training and posterior queries ask of a DataModule.

    Attributes
    ----------
    n_obs
        number of training rows.
    schema
        the names that a model knows these data by.
    sizes
        `sizes.Sizes`, `sizes.DELSizes` or others that the model asks for.
    data
        all rows.
    adata
        the AnnData, of which queries take names of rows.
    """

    n_obs: int

    @property
    def schema(self) -> Schema: ...  # noqa: D102

    @property
    def sizes(self) -> Any: ...  # noqa: D102

    @property
    def data(self) -> BatchSource: ...  # noqa: D102

    @property
    def adata(self) -> Any: ...  # noqa: D102

    def rows(self, split: str = "all") -> np.ndarray:
        """Positions of ``"all"``, ``"training"`` or ``"validation"`` rows, ascending."""

    def aligned(self, schema: Any) -> BatchSource:
        """All rows as a model of another ``schema`` must see them, by name."""

    def example_batch(self) -> Any:
        """A minibatch of two rows."""
