"""Minibatches of a DataModule's rows, aligned to a fitted model: the base of every posterior query."""

from __future__ import annotations

import functools
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pandas as pd
import torch
from tqdm.auto import tqdm

from pyro_omics.batch import move_like
from pyro_omics.inference.checks import kind_of
from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.models.base import CountModel
from pyro_omics.parts.other_names import argument_error
from pyro_omics.posterior.axis_labels import AxisLabels
from pyro_omics.schema import RowData, Schema

MAX_NUMBERS = 2**26  # numbers that a query keeps for one minibatch, at most: 256 MB
Class = TypeVar("Class", bound=type)
LONG = 200  # number of minibatch evaluations from which a query shows a progress bar


class PosteriorRows:
    """A fitted model and guide, with the rows of a DataModule in minibatches, aligned to the model.

    Parameters
    ----------
    svi
        a trained `SVIModule`.
    dm
        a DataModule.
    batch_size
        number of rows evaluated at once.

    Raises
    ------
    TypeError
        For an ``svi`` or ``dm`` of another type.
    ValueError
        Where the data lack genes or covariates of the model, or have levels unknown to it.
    """

    def __init__(self, svi: SVIModule, dm: RowData | None = None, batch_size: int = 512) -> None:
        if not isinstance(svi, SVIModule) or dm is None or not hasattr(dm, "schema"):
            raise TypeError(
                f"Posterior(svi, dm) must be given an SVIModule and a DataModule; got {kind_of(svi)} and {kind_of(dm)}"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be a number of rows, 1 or more; got {batch_size}")
        _check_trained(svi)
        self.svi, self.batch_size = svi, batch_size
        self.dm: Any = dm  # Any: tables of DEL models use more than RowData has
        self.model: CountModel = svi.model
        self.schema: Schema = svi.schema or dm.schema
        self.own_data = svi.schema is None or (svi.schema == dm.schema and svi.n_obs == dm.n_obs)
        self.data = dm.data if self.own_data else dm.aligned(self.schema)
        svi.warn_of_other_split(dm, self.data)
        genes = self.schema.axes.get("genes")
        n_genes = getattr(self.model, "n_genes", None)
        if genes is not None and n_genes not in (None, len(genes)):
            raise ValueError(
                f"the model has {n_genes} genes and the data {len(genes)}, and cannot be aligned by name, since the "
                "model was not trained on a DataModule: pass data with the model's genes alone"
            )
        self.width = len(self.schema.columns) or 1
        self.labels = AxisLabels(self.schema, self.model.axes, self.model.levels)

    def _batches(self, split: str, n_evaluations: int, what: str, n_kept: int = 1) -> Iterator[Any]:
        """Minibatches on the model's device and in its precision, with a progress bar for a long query.

        Parameters
        ----------
        split
            which rows: "all", "training" or "validation".
        n_evaluations
            number of evaluations of each minibatch; many show a progress bar.
        what
            label of the progress bar.
        n_kept
            how many numbers the query keeps for each gene (or selection) of a row; many make minibatches smaller.
        """
        rows = self.dm.rows(split)
        if not len(rows):
            raise ValueError(f"split={split!r} has no rows in this DataModule: choose another split")
        size = max(1, min(self.batch_size, MAX_NUMBERS // (n_kept * self.width)))
        total = math.ceil(len(rows) / size)
        batches = self.data.batches(rows, size)
        short = total * n_evaluations < LONG
        for batch in tqdm(batches, total=total, desc=what, disable=short, delay=2, leave=False):
            yield self._for_model(batch)

    def _for_model(self, batch: Any) -> Any:
        """The batch on the model's device; rows of new data are numbered as held-out rows."""
        weights = (p for p in self.svi.parameters() if p.is_floating_point())
        # In the weights' precision, like the batches that Lightning's Trainer passes to a training step.
        batch = move_like(batch, next(weights, torch.empty(0)))
        if self.own_data:
            return batch
        # An index of n_obs or more marks a held-out row, which has no trained parameters of its own.
        return batch._replace(index=batch.row + self.svi.n_obs)

    def _names(self, split: str) -> pd.Index:
        return self.dm.adata.obs_names[self.dm.rows(split)]


def _check_trained(svi: SVIModule) -> None:
    mend = "call trainer.fit(svi, dm) first, or load a fit"
    if not hasattr(svi, "elbo"):
        raise ValueError(f"the SVIModule has no guide yet, which is made from the first data: {mend}")
    if not svi.fitted:
        warnings.warn(
            f"the SVIModule has not been trained, and the answers are those of its starting weights: {mend}",
            UserWarning,
            stacklevel=4,
        )


def check_draws(name: str, value: int) -> None:
    """Raise unless the argument ``name``, a number of draws, is positive."""
    if value < 1:
        raise ValueError(f"{name} must be a number of draws, 1 or more; got {value}")


def with_hints(cls: Class) -> Class:
    """Class decorator: the public methods say what to pass in place of an argument that the table knows."""
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        if not name.startswith("_"):
            setattr(cls, name, hinted(method))
    return cls


def hinted(method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, whose error for an unknown argument says what to pass in its place."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except TypeError as error:
            hint = argument_error(error, kwargs)
            if hint is error:
                raise
            raise hint from error

    return call
