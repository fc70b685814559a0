"""What a model must know of its data before it is made: their sizes, as plain numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
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
            object.__setattr__(self, name, tuples(getattr(self, name)))

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
            object.__setattr__(self, name, tuples(getattr(self, name)))

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


def tuples(value: Any) -> Any:
    """A value with tuples for the lists in it."""
    return tuple(tuples(item) for item in value) if isinstance(value, list | tuple) else value
