"""Evaluate a model's own query at posterior draws, and summarise the draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from pyro import poutine
from scipy.stats import rankdata
from torch import Tensor

from pyro_omics.inference.draws import GuideDraws
from pyro_omics.models.base import CountModel
from pyro_omics.posterior.axis_labels import AxisLabels
from pyro_omics.sites import latent_values


class Summary(NamedTuple):
    """Posterior mean and bounds of the central credible interval, as DataFrames with the same labels."""

    mean: pd.DataFrame
    lower: pd.DataFrame
    upper: pd.DataFrame


class ModelQuery:
    """One query of a model, for chosen columns, averaged over the batches that rows are decoded in.

    Parameters
    ----------
    model
        the model.
    name
        name of the query.
    labels
        names along the axes.
    columns
        axis -> positions to return, in the order of the query's tensors.
    codes
        codes of the batches to decode in; None for each row's own batch.
    options
        options of the model's method.
    """

    def __init__(
        self,
        model: CountModel,
        name: str,
        labels: AxisLabels,
        columns: dict[str, np.ndarray],
        codes: Sequence[int | None],
        options: dict[str, Any],
    ) -> None:
        self.model, self.name, self.labels = model, name, labels
        self.columns, self.codes, self.options = columns, codes, options

    def draw(self, draws: GuideDraws, batch: Any, s: int) -> Tensor:
        """Draw s of the query's tensors, concatenated: (n, columns of all axes)."""
        guide = draws.guide(batch, s)
        latents = latent_values(guide)
        method, totals = getattr(self.model, self.name), [torch.zeros(())] * len(self.columns)
        # Replayed on the guide, so that latent network weights take the drawn values.
        with poutine.block(), poutine.replay(trace=guide):
            for code in self.codes:
                value = method(batch if code is None else batch.in_batch(code), latents, **self.options)
                values = value if isinstance(value, tuple) else (value,)
                totals = [total + part for total, part in zip(totals, values, strict=True)]
        chosen = zip(totals, self.columns.values(), strict=True)
        return torch.cat([total[:, at] / len(self.codes) for total, at in chosen], -1)

    def frames(self, values: np.ndarray, rows: pd.Index) -> list[pd.DataFrame]:
        """Values (n, columns of all axes) as one DataFrame per axis."""
        ends = np.cumsum([len(column) for column in self.columns.values()])
        parts = np.split(values, ends[:-1], axis=1)
        return [pd.DataFrame(part, index=rows, columns=names) for part, names in zip(parts, self._names(), strict=True)]

    def index(self, several: bool) -> pd.Index:
        """The names of all columns; with their axis, if there are several axes."""
        if not several:
            return pd.Index(self._names()[0])
        pairs = [(axis, name) for axis, names in zip(self.columns, self._names(), strict=True) for name in names]
        return pd.MultiIndex.from_tuples(pairs, names=["kind", "name"])

    def _names(self) -> list[np.ndarray]:
        """The names of each axis' columns."""
        return [np.asarray(self.labels.names(axis))[column] for axis, column in self.columns.items()]


def summarise(draws: Iterator[Tensor], num: int, bounds: tuple[float, float] | None) -> list[Tensor]:
    """The mean of ``num`` draws, and, with ``bounds``, their two quantiles at these probabilities."""
    if bounds is None:
        return [sum(draws, torch.zeros(())) / num]
    stacked = torch.stack(list(draws))
    # NumPy's quantile: torch.quantile refuses more than 2^24 numbers.
    lower, upper = np.quantile(stacked.cpu().numpy(), bounds, axis=0)
    return [stacked.mean(0).cpu(), torch.from_numpy(lower), torch.from_numpy(upper)]


def interval_bounds(credible_interval: float | None, num_samples: int) -> tuple[float, float] | None:
    """Probabilities of the quantiles that bound a central interval; None for no interval.

    Raises
    ------
    ValueError
        For a credible_interval outside (0, 1), and for a single draw.
    """
    if credible_interval is None:
        return None
    if not 0 < credible_interval < 1:
        raise ValueError(
            f"credible_interval must be a probability between 0 and 1, such as 0.9; got {credible_interval}"
        )
    if num_samples < 2:
        raise ValueError(f"num_samples must be 2 or more for a credible interval; got {num_samples}: pass 100 or so")
    return (1 - credible_interval) / 2, (1 + credible_interval) / 2


def correlation(values: np.ndarray, method: str) -> np.ndarray:
    """Correlations (d, d) of the columns of (n, d) values; of their ranks, if ``method`` is "spearman".

    NaN for a constant column. The result is that of `pandas.DataFrame.corr`, which takes minutes for 3,000 rows of
    2,000 columns, where a matrix product takes seconds.
    """
    ranked = rankdata(values, axis=0) if method == "spearman" else values
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.atleast_2d(np.corrcoef(ranked, rowvar=False))
