"""What layers take in: transformed counts, covariates, and values of global latents beside rows.

Pyro gives a global latent with events of shape E one of these shapes:

- E itself, in a usual run;
- (particles, 1, *E) inside a plate of particles (``vectorize_particles=True``, ``Predictive(parallel=True)``): the 1 is
  the place of the rows, in whose plate the latent is not drawn;
- (1, *E) in ``Predictive(parallel=False)`` with a guide;
- (draws, *E) where a model in a plate of draws is conditioned on draws from MCMC, which lack the place of the rows.

`beside_rows`, `at_levels`, `at_entries` and `row_product` take them all. A parameter is a global value of shape E.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pyro_omics.batch import CellBatch
from pyro_omics.kernels.dense_rows import log1p
from pyro_omics.layers.module import FastPyroModule
from pyro_omics.serialization.arguments import RecordsArguments
from pyro_omics.sizes import Sizes


class Covariates(FastPyroModule, RecordsArguments):
    """Covariates of a minibatch as one matrix: one-hot batch, one-hot categories, continuous covariates.

    A categorical covariate with one level is dropped.

    Parameters
    ----------
    sizes
        numbers of levels and of continuous covariates.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.n_batches = sizes.n_batches
        self.n_categories = tuple(sizes.n_categories)
        self.n_out = sum(n for n in (sizes.n_batches, *sizes.n_categories) if n > 1) + sizes.n_continuous

    def forward(self, batch: CellBatch) -> Tensor | None:
        """Return the covariates (n, n_out), or None if there are none."""
        parts = []
        if self.n_batches > 1:
            parts.append(_one_hot("batch", batch.batch, self.n_batches, batch.x))
        for column, n_levels in enumerate(self.n_categories):
            if n_levels > 1:
                codes = None if batch.categorical is None else batch.categorical[:, column]
                parts.append(_one_hot("categorical", codes, n_levels, batch.x))
        if batch.continuous is not None:
            parts.append(batch.continuous)
        return torch.cat(parts, -1) if parts else None


def _one_hot(name: str, codes: Tensor | None, n_levels: int, like: Tensor) -> Tensor:
    if codes is None:
        raise ValueError(
            f"batch.{name} must hold codes of {n_levels} levels, for which the model was made; got None: pass data "
            "with this covariate"
        )
    return functional.one_hot(codes, n_levels).to(like.dtype)


def log_counts(x: Tensor, scale_n1: Tensor | None = None) -> Tensor:
    """log(1 + scale x) of counts (..., n, g), with a scale for each row (..., n, 1), or 1."""
    return log1p(x, scale_n1)


def log_normalised(counts: Tensor, measured: Tensor | None = None) -> Tensor:
    """log(1 + x / (1 + mean x)) of counts x (..., n, t), the input of totalVI's encoder.

    The mean is over each row's columns at which ``measured`` (..., n, t) is True; None for all. Other columns give 0.
    """
    if measured is None:
        return log_counts(counts, 1 / (1 + counts.mean(-1, keepdim=True)))
    counts = counts * measured
    mean = counts.sum(-1, keepdim=True) / measured.sum(-1, keepdim=True).clamp(min=1)
    return torch.log1p(counts / (1 + mean))


# Values of global latents ---------------------------------------------------------------------------------------------


def beside_rows(value: Tensor, event_dim: int) -> Tensor:
    """A global value that broadcasts with values of rows (..., n, *event): (*event), or (..., 1, *event).

    Parameters
    ----------
    value
        value of a global latent, (*event) or (..., *event).
    event_dim
        number of dimensions of its events.
    """
    if value.ndim == event_dim or value.shape[-event_dim - 1] == 1:
        return value
    return value.unsqueeze(-event_dim - 1)


def at_levels(table: Tensor, codes: Tensor, event_dim: int) -> Tensor:
    """Entries (..., n, *rest) of a global table (..., levels, *rest) at the level of each row.

    Parameters
    ----------
    table
        value of a global latent, with events (levels, *rest).
    codes
        (..., n) level of each row.
    event_dim
        number of dimensions of the table's events.
    """
    if table.ndim == event_dim:
        return table[codes]
    table = beside_rows(table, event_dim)
    return table[(*_positions(table.shape[: table.ndim - event_dim], 0, table), codes)]


def at_entries(table: Tensor, codes: Tensor) -> Tensor:
    """Entries (..., n, t) of a global table (..., levels, t) at the level of each row and column (n, t)."""
    if table.ndim == 2:
        return table.gather(0, codes)
    table = beside_rows(table, 2)
    return table[(*_positions(table.shape[:-2], 1, table), codes, torch.arange(table.shape[-1], device=table.device))]


def row_product(x: Tensor, weight: Tensor) -> Tensor:
    """The product x W (..., n, o) of rows x (..., n, i) and a global matrix W (i, o) or (..., i, o).

    ``x @ W`` would match dimensions of particles with the wrong ones where W has them too.
    """
    if weight.ndim > 2 and weight.shape[-3] == 1:
        weight = weight.squeeze(-3)
    return x @ weight


def _positions(batch: torch.Size, n_columns: int, like: Tensor) -> list[Tensor]:
    """For each leading dimension of a table, its positions, to be indexed together with codes (..., n, *columns)."""
    return [
        torch.arange(size, device=like.device).reshape(-1, *(1,) * (len(batch) - 1 - i + n_columns))
        for i, size in enumerate(batch)
    ]
