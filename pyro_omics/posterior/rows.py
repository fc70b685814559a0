"""The rows of a DataModule as a fitted model sees them: the base of every posterior query."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from pyro_omics.batch import move_like
from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.models.base import CountModel
from pyro_omics.posterior.axis_labels import AxisLabels
from pyro_omics.schema import RowData, Schema

MAX_HELD = 2**26  # numbers that a query holds for one minibatch: 256 MB
LONG = 200  # evaluations of minibatches from which a query shows a progress bar


class PosteriorRows:
    """A fitted model and guide, and the rows of a DataModule in minibatches, aligned to the model.

    Parameters
    ----------
    svi
        a trained `SVIModule`.
    dm
        a DataModule.
    batch_size
        rows evaluated at once.

    Raises
    ------
    ValueError
        Where the data lack genes or covariates of the model, or have levels that it does not know.
    """

    def __init__(self, svi: SVIModule, dm: RowData, batch_size: int = 512) -> None:
        if not isinstance(svi, SVIModule) or not hasattr(dm, "schema"):
            raise TypeError(
                "Posterior(svi, dm) must be given an SVIModule and a DataModule; got a "
                f"{type(svi).__name__} and a {type(dm).__name__}"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be a number of rows, 1 or more; got {batch_size}")
        self.svi, self.batch_size = svi, batch_size
        self.dm: Any = dm  # tables of DEL models ask for more than RowData has
        self.model: CountModel = svi.model
        self.schema: Schema = svi.schema or dm.schema
        self.own_data = svi.schema is None or (svi.schema == dm.schema and svi.n_obs == dm.n_obs)
        self.data = dm.data if self.own_data else dm.aligned(self.schema)
        genes = self.schema.axes.get("genes")
        n_genes = getattr(self.model, "n_genes", None)
        if genes is not None and n_genes not in (None, len(genes)):
            raise ValueError(
                f"the model has {n_genes} genes and the data {len(genes)}, and the model was not trained on a "
                "DataModule whose gene names could align them"
            )
        self.width = len(self.schema.columns) or 1
        self.labels = AxisLabels(self.schema, self.model.axes, self.model.levels)

    def _batches(self, split: str, n_evaluations: int, what: str, n_kept: int = 1) -> Iterator[Any]:
        """Minibatches on the model's device and in its precision.

        Parameters
        ----------
        split
            which rows.
        n_evaluations
            how often each minibatch is evaluated; a progress bar shows where that is often.
        what
            the name at the progress bar.
        n_kept
            numbers that are kept for each gene (or selection) of a row: minibatches are smaller where they are many.
        """
        rows = self.dm.rows(split)
        if not len(rows):
            raise ValueError(f"split={split!r} has no rows in this DataModule")
        size = max(1, min(self.batch_size, MAX_HELD // (n_kept * self.width)))
        total = math.ceil(len(rows) / size)
        batches = self.data.batches(rows, size)
        short = total * n_evaluations < LONG
        for batch in tqdm(batches, total=total, desc=what, disable=short, delay=2, leave=False):
            yield self._placed(batch)

    def _placed(self, batch: Any) -> Any:
        weights = (p for p in self.svi.parameters() if p.is_floating_point())
        # In the weights' precision, as Lightning's Trainer gives the data in training.
        placed = move_like(batch, next(weights, torch.empty(0)))
        if self.own_data:
            return placed
        # Rows of other data are held-out rows, whatever their numbers: they have no trained parameters of their own.
        return placed._replace(index=placed.row + self.svi.n_obs)

    def _names(self, split: str) -> pd.Index:
        return self.dm.adata.obs_names[self.dm.rows(split)]


def check_draws(name: str, value: int) -> None:
    """Raise where a number of draws is not positive."""
    if value < 1:
        raise ValueError(f"{name} must be a number of draws, 1 or more; got {value}")
