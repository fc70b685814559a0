"""Columns of ``adata.obs`` as codes, with their categories kept."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

MANY = 20  # so many levels may be one for each row of a small data set; more are an identifier


def column(
    obs: pd.DataFrame, argument: str, key: str, mend: str = "(adata.obs[key].astype(object).fillna('unknown'))"
) -> pd.Series:
    """``obs[key]``, complete.

    Raises
    ------
    ValueError
        Where there is no such column, or it has missing values.
    """
    if key not in obs:
        there = ", ".join(map(repr, obs.columns)) or "none"
        raise ValueError(f"{argument}={key!r} is not a column of adata.obs: there are {there}")
    values = obs[key]
    if missing := int(values.isna().sum()):
        first = obs.index[values.isna()][0]
        raise ValueError(
            f"{argument}={key!r} has {missing} missing values (NaN), the first at {first!r}: fill them "
            f"{mend}, or leave those cells out"
        )
    return values


def categories(obs: pd.DataFrame, argument: str, key: str) -> list[str]:
    """The levels that occur in a column, as text, in a stable order.

    Raises
    ------
    ValueError
        Where each row has a level of its own.

    Warns
    -----
    UserWarning
        Where there is one level only: it says nothing, and is dropped.
    """
    values = column(obs, argument, key)
    if isinstance(values.dtype, pd.CategoricalDtype):
        levels = _text(values.cat.remove_unused_categories().cat.categories)
    else:
        levels = _text(sorted(values.unique().tolist(), key=lambda level: (str(type(level)), level)))
    if len(set(levels)) < len(levels):
        raise ValueError(
            f"{argument}={key!r} mixes types: {levels} hold the same text twice; make it adata.obs[key].astype(str)"
        )
    if len(levels) > max(MANY, len(obs) / 2):
        each = "one each" if len(levels) == len(obs) else "nearly one each"
        raise ValueError(
            f"{argument}={key!r} has {len(levels)} levels for {len(obs)} cells, {each}, such as {levels[0]!r}: it "
            "identifies cells; name the column of the batch (donor, run, plate)"
        )
    if len(levels) == 1:
        warnings.warn(f"{argument}={key!r} has one level only, {levels[0]!r}: it is dropped", UserWarning, stacklevel=4)
    return levels


def codes(obs: pd.DataFrame, argument: str, key: str, levels: list[str]) -> np.ndarray:
    """The position (n,) in ``levels`` of each row's level.

    Raises
    ------
    ValueError
        For a level that is not among them.
    """
    text = _text(column(obs, argument, key))
    found = pd.Categorical(text, categories=levels).codes
    if (found < 0).any():
        unseen = sorted(set(text) - set(levels))
        raise ValueError(
            f"{argument}={key!r} has levels {unseen} that the model was not trained with: it knows {levels}; rename "
            "them to known ones, or train with them"
        )
    return found.astype(np.int64)


def _text(values: Any) -> list[str]:
    # Element by element: a whole column of dates, made text at once, is written otherwise.
    return [str(value) for value in (values if isinstance(values, list) else values.tolist())]


def numbers(obs: pd.DataFrame, argument: str, keys: Iterable[str]) -> np.ndarray:
    """Numeric columns side by side (n, d), finite.

    Raises
    ------
    ValueError
        For a column that is not numeric or not finite.
    """
    parts = []
    for key in keys:
        values = column(obs, argument, key, mend="with numbers")
        if not pd.api.types.is_numeric_dtype(values):
            raise ValueError(f"{argument}: {key!r} is of type {values.dtype}, not numeric: use categorical_keys for it")
        array = values.to_numpy(np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"{argument}: {key!r} has {int((~np.isfinite(array)).sum())} infinite values: mend them")
        parts.append(array)
    return np.stack(parts, 1)
