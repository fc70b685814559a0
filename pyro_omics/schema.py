"""Schemas, which hold the names in a data set, and protocols of the data for training and queries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Protocol

import numpy as np

from pyro_omics.sizes import DELSizes, Sizes, to_tuples


@dataclass(frozen=True)
class Schema:
    """Names in a data set, such as genes, in the order of a trained model's weights; see `CellSchema`, `DELSchema`.

    Attributes
    ----------
    training_digest
        hash of the names of the training rows, in their order.
    """

    # Entry "kind" of a saved schema, which selects its class.
    kind: ClassVar[str]
    # Fields that describe the training rows, in which other data may differ.
    of_training_rows: ClassVar[tuple[str, ...]] = ("training_digest",)

    training_digest: str = ""

    def __post_init__(self) -> None:
        """Convert lists, as JSON has them, to tuples."""
        for one in fields(self):
            object.__setattr__(self, one.name, to_tuples(getattr(self, one.name)))

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """Name of an axis -> names along it."""
        raise NotImplementedError

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of the counts ``batch.x``."""
        raise NotImplementedError

    def __getitem__(self, name: str) -> Any:
        """A field as a list, or ``"levels"``: axis -> list of names; so earlier versions gave them."""
        if name == "levels":
            return {axis: list(names) for axis, names in self.axes.items()}
        if name not in (known := [field.name for field in fields(self)]):
            raise KeyError(f"{name!r} is not among the fields {known}")
        return _to_lists(getattr(self, name))

    def names(self, axis: str) -> tuple[str, ...]:
        """Names along an axis.

        Raises
        ------
        ValueError
            If the data do not have the axis.
        """
        if axis not in self.axes:
            raise ValueError(f"axis must be one of {list(self.axes)}; got {axis!r}")
        return self.axes[axis]

    def differences(self, other: Schema, training_rows: bool = False) -> list[str]:
        """Names of the fields in which another schema differs, so that trained weights would have another meaning.

        Parameters
        ----------
        other
            schema of other data.
        training_rows
            whether to compare the fields that describe the training rows too; default False.
        """
        known = [one.name for one in fields(self)]
        names = [name for name in known if training_rows or name not in self.of_training_rows]
        if type(other) is not type(self):
            return names
        return [name for name in names if getattr(self, name) != getattr(other, name)]

    def to_dict(self) -> dict[str, Any]:
        """The schema as plain JSON data."""
        return {"kind": self.kind, **{name: _to_lists(value) for name, value in asdict(self).items()}}

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Schema:
        """Make a schema from the result of `to_dict`, of this version of the package or an earlier one.

        Raises
        ------
        ValueError
            If the kind of schema is unknown, or if it does not have one of the fields.
        """
        data = dict(data) if "kind" in data else _from_earlier_version(data)
        data.pop("rows_digest", None)  # of an earlier version
        kinds = {cls.kind: cls for cls in _subclasses(Schema)}
        if (kind := data.pop("kind")) not in kinds:
            raise ValueError(
                f"kind must be one of {list(kinds)}; got {kind!r}: import the module that defines its class"
            )
        known = {one.name for one in fields(kinds[kind])}
        if unknown := sorted(set(data) - known):
            raise ValueError(f"the fields of a {kinds[kind].__name__} must be among {sorted(known)}; got {unknown}")
        return kinds[kind](**data)


@dataclass(frozen=True)
class CellSchema(Schema):
    """Names in a data set of cells.

    Attributes
    ----------
    genes
        genes that are modelled.
    batches, labels
        levels of the batch and of the label, in the order of their codes; ``("all",)`` without a key.
    categorical
        keys of further categorical covariates.
    categories
        levels of each categorical covariate.
    continuous
        keys of continuous covariates.
    proteins
        names of the proteins, () if there are none.
    panels
        for each batch, the proteins that are measured in any of its cells; () without proteins.
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
        """Genes, proteins, and levels of the batch and of the label."""
        return {"genes": self.genes, "proteins": self.proteins, "batch": self.batches, "label": self.labels}

    @property
    def columns(self) -> tuple[str, ...]:
        """The genes."""
        return self.genes

    def sizes(self, n_obs: int, **moments: Any) -> Sizes:
        """Sizes of the data; ``moments`` are the fields of `Sizes` that are computed from the counts."""
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
    """Names in the counts of a DNA-encoded library.

    Attributes
    ----------
    targets, controls, pre_selections
        names of the selections with the target, of those with the matrix alone, and of the pre-selection samples.
    cycles
        names of the cycles.
    synthons
        building blocks of each cycle, in the order of their codes.
    known_yields
        whether the data have the yields.
    mean_counts
        mean count of a compound in each selection (targets, controls, pre-selections).
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
        """Selections of each kind, building blocks of each cycle, and the single column of a score."""
        selections = {"targets": self.targets, "controls": self.controls, "pre-selections": self.pre_selections}
        return {**selections, "scores": ("score",), **dict(zip(self.cycles, self.synthons, strict=True))}

    @property
    def columns(self) -> tuple[str, ...]:
        """The target selections."""
        return self.targets

    def sizes(self, n_obs: int, depth: tuple[float, ...], **widths: Any) -> DELSizes:
        """Sizes of the data.

        Parameters
        ----------
        n_obs
            number of training rows.
        depth
            mean count of a compound in each of `selections`.
        widths
            fields of `DELSizes` that do not follow from the names.
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


def _from_earlier_version(data: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a schema that an earlier version saved, a dictionary with other keys, to the fields of its class."""
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


def _to_lists(value: Any) -> Any:
    return [_to_lists(item) for item in value] if isinstance(value, tuple) else value


class BatchSource(Protocol):
    """Protocol of the rows of a data set, from which minibatches are made."""

    def __getitem__(self, rows: Any, /) -> Any:
        """The minibatch of the rows at these positions."""

    def batches(self, rows: np.ndarray, batch_size: int) -> Iterator[Any]:
        """Minibatches over ``rows``, in order."""


class RowData(Protocol):
    """Protocol of a DataModule for training and posterior queries.

    Attributes
    ----------
    n_obs
        number of training rows.
    schema
        names in the data.
    sizes
        `sizes.Sizes`, `sizes.DELSizes` or another class that the model needs.
    data
        all rows.
    adata
        the AnnData, whose row names queries return.
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
        """Positions of the ``"all"``, ``"training"`` or ``"validation"`` rows, ascending."""

    def aligned(self, schema: Any) -> BatchSource:
        """All rows for a model with another ``schema``, to which they are aligned by name."""

    def example_batch(self) -> Any:
        """A minibatch of two rows."""
