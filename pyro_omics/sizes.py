"""Sizes of data sets, which a model needs when it is made, as plain numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch

from pyro_omics.batch import CellBatch, DELBatch
from pyro_omics.serialization.arguments import RecordsArguments


@dataclass(frozen=True)
class Sizes(RecordsArguments):
    """Sizes of a data set of cells, which a model needs when it is made.

    Attributes
    ----------
    n_obs
        number of training rows, the size of the plate.
    n_genes
        number of genes modelled.
    n_batches, n_labels
        number of batches and labels (1 where there is no key).
    n_categories
        number of levels of each further categorical covariate.
    n_continuous
        number of continuous covariates.
    log_library
        for each batch, mean and variance of the natural log of the training cells' total counts.
    n_proteins
        number of proteins, 0 where there are none.
    protein_cells
        for each batch and protein, number of training cells in which the protein was measured.
    protein_background
        for each batch and protein, mean and standard deviation of the lower of two Normals in log(1 + counts).
    n_latent
        dimension of z; the model sets it for the parts that it builds.
    """

    # Sizes that other data must share for a trained model; the others only give starting values.
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
        """Convert lists, as JSON has them, to tuples."""
        for name in ("n_categories", "log_library", "protein_cells", "protein_background"):
            object.__setattr__(self, name, to_tuples(getattr(self, name)))

    def description(self) -> dict[str, Any]:
        """The constructor arguments that make the sizes again, as plain data, with ``n_latent`` unset."""
        return asdict(replace(self, n_latent=None))

    def example_batch(self) -> CellBatch:
        """Two cells (one, if there is only one) with a count of 1 in each gene, at level 0 of each covariate.

        Proteins are not measured in the first cell, so that a program is tried with missing proteins too.
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
    """Sizes of the counts of a DNA-encoded library, which a model needs when it is made.

    Attributes
    ----------
    n_obs
        number of training rows, the size of the plate.
    cycles
        names of the cycles.
    n_synthons
        number of building blocks of each cycle.
    depth, control_depth, pre_depth
        mean count of a compound in each target, control and pre-selection sample.
    n_features
        width of the features, 0 if there are none.
    pose_shape
        number of poses and width of their features, () if there are none.
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
        """Convert lists, as JSON has them, to tuples."""
        for name in ("cycles", "n_synthons", "depth", "control_depth", "pre_depth", "pose_shape"):
            object.__setattr__(self, name, to_tuples(getattr(self, name)))

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
        """Number of pre-selection samples."""
        return len(self.pre_depth)

    def for_columns(self, n_columns: int) -> Sizes:
        """Sizes for which a likelihood of ``n_columns`` selections is built."""
        return Sizes(self.n_obs, n_columns)

    def description(self) -> dict[str, Any]:
        """The constructor arguments that make the sizes again, as plain data."""
        return asdict(self)

    def example_batch(self) -> DELBatch:
        """Two compounds (one, if there is only one) of the first building blocks, with a count of 1 in each sample."""
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


def to_tuples(value: Any) -> Any:
    """Convert lists in ``value``, nested ones too, to tuples."""
    return tuple(to_tuples(item) for item in value) if isinstance(value, list | tuple) else value
