"""What a model must know of its data: sizes, as plain numbers, and the names that its weights know by position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

import torch

from pyro_omics.batch import CellBatch, DELBatch
from pyro_omics.serialization.arguments import RecordsArguments


@dataclass(frozen=True)
class Sizes(RecordsArguments):
    """What a model must know of its data before it is made.

    Attributes
    ----------
    n_obs
        number of training rows: the plate's size.
    n_genes
        number of genes modelled.
    n_batches, n_labels
        number of batches and labels (1 where there is no key).
    n_categories
        number of levels of each further categorical covariate.
    n_continuous
        number of continuous covariates.
    log_library
        per batch, mean and variance of the natural log of the training cells' total counts.
    n_proteins
        number of proteins, 0 where there are none.
    protein_cells
        per batch and protein, the number of training cells in which the protein was measured.
    protein_background
        per batch and protein, mean and standard deviation of the lower of two Normal components of log(1 + counts).
    n_latent
        dimension of z; set by the model, for the parts that it builds.
    """

    # What a trained model cannot do without: the rest are starting values.
    fixed: ClassVar[tuple[str, ...]] = (
        "n_genes", "n_batches", "n_labels", "n_categories", "n_continuous", "n_proteins",
    )  # fmt: skip

    n_obs: int
    n_genes: int
    n_batches: int = 1
    n_labels: int = 1
    n_categories: tuple[int, ...] = ()
    n_continuous: int = 0
    log_library: tuple[tuple[float, float], ...] = ()
    n_proteins: int = 0
    protein_cells: tuple[tuple[int, ...], ...] = ()
    protein_background: tuple[tuple[tuple[float, float], ...], ...] = ()
    n_latent: int | None = None

    def __post_init__(self) -> None:
        """Take lists for tuples, as JSON gives them."""
        for name in ("n_categories", "log_library", "protein_cells", "protein_background"):
            object.__setattr__(self, name, _tuples(getattr(self, name)))

    def description(self) -> dict[str, Any]:
        """The data's part of these, as plain data: arguments that make them again."""
        return asdict(replace(self, n_latent=None))

    def example_batch(self) -> CellBatch:
        """Two cells (one, if there is only one) with a count of 1 in each gene, at level 0 of each covariate.

        Proteins are not measured in the first, so that what a program does without them is tried too.
        """
        n = min(2, self.n_obs)
        rows = torch.arange(n)
        zeros = torch.zeros_like(rows)
        return CellBatch(
            x=torch.ones(n, self.n_genes),
            row=rows,
            index=rows,
            batch=zeros if self.n_batches > 1 else None,
            label=zeros if self.n_labels > 1 else None,
            categorical=torch.zeros(n, len(self.n_categories), dtype=torch.long) if self.n_categories else None,
            continuous=torch.zeros(n, self.n_continuous) if self.n_continuous else None,
            size_factor=torch.ones(n, 1),
            y=torch.ones(n, self.n_proteins) if self.n_proteins else None,
            measured=(rows > 0).unsqueeze(-1).expand(-1, self.n_proteins) if self.n_proteins else None,
        )


@dataclass(frozen=True)
class DELSizes(RecordsArguments):
    """What a model must know of a DNA-encoded library's counts before it is made.

    Attributes
    ----------
    n_obs
        number of training rows: the plate's size.
    cycles
        names of the cycles.
    n_synthons
        number of building blocks of each cycle.
    depth, control_depth, pre_depth
        of each target, control and pre-selection sample, its mean count for a compound.
    n_features
        width of the features, 0 where there are none.
    pose_shape
        poses and their width, () where there are none.
    known_yields
        whether the data have the yields.
    """

    fixed: ClassVar[tuple[str, ...]] = (
        "cycles", "n_synthons", "n_target", "n_control", "n_pre", "n_features", "pose_shape", "known_yields",
    )  # fmt: skip

    n_obs: int
    cycles: tuple[str, ...]
    n_synthons: tuple[int, ...]
    depth: tuple[float, ...]
    control_depth: tuple[float, ...] = ()
    pre_depth: tuple[float, ...] = ()
    n_features: int = 0
    pose_shape: tuple[int, ...] = ()
    known_yields: bool = False

    def __post_init__(self) -> None:
        """Take lists for tuples, as JSON gives them."""
        for name in ("cycles", "n_synthons", "depth", "control_depth", "pre_depth", "pose_shape"):
            object.__setattr__(self, name, _tuples(getattr(self, name)))

    @property
    def n_target(self) -> int:
        """Number of target selections."""
        return len(self.depth)

    @property
    def n_control(self) -> int:
        """Number of control selections."""
        return len(self.control_depth)

    @property
    def n_pre(self) -> int:
        """Number of samples from before the selection."""
        return len(self.pre_depth)

    def of(self, n_columns: int) -> Sizes:
        """The sizes that a likelihood of ``n_columns`` selections is built for."""
        return Sizes(self.n_obs, n_columns)

    def description(self) -> dict[str, Any]:
        """These as plain data: arguments that make them again."""
        return asdict(self)

    def example_batch(self) -> DELBatch:
        """Two compounds (one, if there is only one) with a count of 1 in each sample, of the first building blocks."""
        n = min(2, self.n_obs)
        rows = torch.arange(n)
        return DELBatch(
            x=torch.ones(n, self.n_target),
            row=rows,
            index=rows,
            synthons=torch.zeros(n, len(self.cycles), dtype=torch.long),
            control=torch.ones(n, self.n_control) if self.n_control else None,
            pre=torch.ones(n, self.n_pre) if self.n_pre else None,
            features=torch.ones(n, self.n_features) if self.n_features else None,
            poses=torch.ones(n, *self.pose_shape) if self.pose_shape else None,
            yields=torch.full((n, len(self.cycles)), 0.7) if self.known_yields else None,
        )


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
            object.__setattr__(self, field.name, _tuples(getattr(self, field.name)))

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


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
