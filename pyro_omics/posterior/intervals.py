"""Summaries of posterior draws."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor


class Summary(NamedTuple):
    """A posterior mean with the bounds of its central credible interval, each labelled alike."""

    mean: pd.DataFrame
    lower: pd.DataFrame
    upper: pd.DataFrame


def summarise(draws: Iterator[Tensor], num: int, bounds: tuple[float, float] | None) -> list[Tensor]:
    """The mean of ``num`` draws, and their quantiles at ``bounds`` if there are any."""
    if bounds is None:
        return [sum(draws, torch.zeros(())) / num]
    stacked = torch.stack(list(draws))
    # NumPy's: torch.quantile refuses more than 2^24 numbers.
    lower, upper = np.quantile(stacked.cpu().numpy(), bounds, axis=0)
    return [stacked.mean(0).cpu(), torch.from_numpy(lower), torch.from_numpy(upper)]


def correlation(values: np.ndarray, method: str) -> np.ndarray:
    """Correlations (d, d) of the columns of (n, d) values, of their ranks where ``method`` is "spearman"."""
    ranked = rankdata(values, axis=0) if method == "spearman" else values
    with np.errstate(invalid="ignore", divide="ignore"):  # a constant column has none: NaN
        return np.atleast_2d(np.corrcoef(ranked, rowvar=False))


def interval_bounds(credible_interval: float | None, num_samples: int) -> tuple[float, float] | None:
    """The quantiles that bound a central interval of this probability.

    Raises
    ------
    ValueError
        For a number that is no probability inside (0, 1), and for a single draw.
    """
    if credible_interval is None:
        return None
    if not 0 < credible_interval < 1:
        raise ValueError(f"credible_interval is a probability, such as 0.9, and is {credible_interval}")
    if num_samples < 2:
        raise ValueError(f"a credible interval needs draws to be of, and num_samples is {num_samples}: pass 100 or so")
    return (1 - credible_interval) / 2, (1 + credible_interval) / 2


def check_draws(name: str, value: int) -> None:
    """Raise where a number of draws is not positive."""
    if value < 1:
        raise ValueError(f"{name} is a number of draws, at least 1, and is {value}")
