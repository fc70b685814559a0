"""Columns of ``adata.obs`` as categories, codes and numbers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pyro_omics.data.names import check_names, same_but_for_blanks

MANY = 20  # up to so many levels, a small data set may have one for each row; a column with more identifies rows


def column(
    obs: pd.DataFrame, argument: str, key: str, fix: str = "(adata.obs[key].astype(object).fillna('unknown'))"
) -> pd.Series:
    """The column ``obs[key]``, which must have no missing values.

    Parameters
    ----------
    obs
        the table.
    argument
        name of the argument that ``key`` was passed as, for the error.
    key
        name of the column.
    fix
        how to fill missing values, for the error.

    Raises
    ------
    ValueError
        If there is no such column, or it has missing values.
    """
    if key not in obs:
        twins = same_but_for_blanks([key], obs.columns)
        hint = f": {twins[1]!r} differs in blanks, rename it" if twins else ""
        raise ValueError(f"{argument} must be a column of adata.obs, {list(obs.columns)}; got {key!r}{hint}")
    values = obs[key]
    if values.ndim > 1:
        raise ValueError(f"{argument}={key!r} must be one column of adata.obs; got {values.shape[1]} of this name")
    if missing := int(values.isna().sum()):
        first = obs.index[values.isna()][0]
        raise ValueError(
            f"{argument}={key!r} has {missing} missing values (NaN), the first at {first!r}: fill them "
            f"{fix}, or leave those rows out"
        )
    return values


def categories(obs: pd.DataFrame, argument: str, key: str) -> list[str]:
    """The levels that occur in a column, as text: in the order of its categories, else sorted.

    Raises
    ------
    ValueError
        If the column identifies rows (levels for more than half of them), two levels have the same text or differ only
        in blanks, or a level is empty.
    """
    values = column(obs, argument, key)
    if isinstance(values.dtype, pd.CategoricalDtype):
        levels = _text(values.cat.remove_unused_categories().cat.categories)
    else:
        levels = _text(sorted(values.unique().tolist(), key=lambda level: (str(type(level)), level)))
    if len(set(levels)) < len(levels):
        raise ValueError(
            f"{argument}={key!r} must have levels that differ as text; got {levels}, of mixed types: use "
            "adata.obs[key].astype(str)"
        )
    check_names(levels, f"the levels of {argument}={key!r}", "rename one")
    if len(levels) > max(MANY, len(obs) / 2):
        each = "one each" if len(levels) == len(obs) else "nearly one each"
        raise ValueError(
            f"{argument}={key!r} has {len(levels)} levels for {len(obs)} cells, {each}, such as {levels[0]!r}: it "
            "identifies cells; pass the column of the batch (donor, run, plate)"
        )
    return levels


def warn_of_one_level(argument: str, key: str | None, levels: Sequence[str]) -> None:
    """Warn of a column with one level only, which carries no information for a model that is made of these data."""
    if key is not None and len(levels) == 1:
        warnings.warn(f"{argument}={key!r} has one level only, {levels[0]!r}: it is dropped", UserWarning, stacklevel=5)


def codes(obs: pd.DataFrame, argument: str, key: str, levels: list[str]) -> np.ndarray:
    """The code (n,) of each row: the position of its level in ``levels``.

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
            f"{argument}={key!r} must have levels that the model was trained with, {levels}; got {unseen}: rename "
            "them, or train with them"
        )
    return found.astype(np.int64)


def _text(values: Any) -> list[str]:
    # Element by element: pandas writes dates differently when it converts a whole column.
    return [str(value) for value in (values if isinstance(values, list) else values.tolist())]


def numbers(obs: pd.DataFrame, argument: str, keys: Iterable[str]) -> np.ndarray:
    """Numeric columns, stacked (n, d).

    Raises
    ------
    ValueError
        For a column that is missing, not numeric or not finite.
    """
    parts = []
    for key in keys:
        values = column(obs, argument, key, fix="with numbers")
        if not pd.api.types.is_numeric_dtype(values) or values.dtype.kind == "c":
            raise ValueError(f"{argument}={key!r} must be numeric; got {values.dtype}: pass it in categorical_keys")
        array = values.to_numpy(np.float32)
        if not np.isfinite(array).all():
            n = int((~np.isfinite(array)).sum())
            raise ValueError(f"{argument}={key!r} must be finite; got {n} infinite values: replace them")
        parts.append(array)
    return np.stack(parts, 1)
