"""What models and guides see of the data: minibatches as NamedTuples of tensors, and the sizes of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyro_omics.recipe import Recipe


class CellBatch(NamedTuple):
    """A minibatch of cells; n is its number of rows.

    Lightning moves it to the trainer's device; a field that the data do not have is ``None``.

    Attributes
    ----------
    x
        (n, g) counts, as floats.
    row
        (n,) position in the AnnData.
    index
        (n,) training rows are numbered 0 .. n_obs - 1, held-out rows from n_obs on.
    batch
        (n,) code of the batch (``batch_key``), or None where there is one batch.
    label
        (n,) code of the label (``label_key``), or None.
    categorical
        (n, c) codes of further categorical covariates, or None.
    continuous
        (n, d) continuous covariates, or None.
    size_factor
        (n, 1) a given library size, or None.
    y
        (n, t) protein counts, as floats, 0 where not measured; or None.
    measured
        (n, t) whether each protein was measured in each cell; None where all were.
    """

    x: Tensor
    row: Tensor
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index, which nobody calls on a batch
    batch: Tensor | None = None
    label: Tensor | None = None
    categorical: Tensor | None = None
    continuous: Tensor | None = None
    size_factor: Tensor | None = None
    y: Tensor | None = None
    measured: Tensor | None = None

    def in_batch(self, code: int) -> CellBatch:
        """The cells as they would be in another batch: proteins counted elsewhere were not counted there."""
        measured = None
        if self.y is not None:
            there = torch.ones_like(self.index) if self.batch is None else self.batch == code
            measured = there.bool().unsqueeze(-1).expand_as(self.y)
            measured = measured if self.measured is None else measured & self.measured
        return self._replace(batch=torch.full_like(self.index, code), measured=measured)


@dataclass(frozen=True)
class Sizes(Recipe):
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


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value
