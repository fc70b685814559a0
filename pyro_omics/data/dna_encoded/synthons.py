"""Counts of a DNA-encoded library by condition, and summed over the compounds that share building blocks."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

CONDITION = "condition"
N_COMPOUNDS = "n_compounds"


def aggregate(adata: AnnData, keys: str | Sequence[str]) -> AnnData:
    """Counts summed over the compounds that share building blocks: one key gives monosynthons, two disynthons.

    Parameters
    ----------
    adata
        counts (n, selections) in X, sparse or dense, and the building blocks in obs.
    keys
        columns of obs.

    Returns
    -------
    AnnData (synthons, selections), sorted by building block: X the sums, in CSR (float32; float64 if a sum exceeds
    2^24, above which float32 skips integers); obs the keys and "n_compounds", the number of compounds summed, its
    index their names joined by "-", such as "A001-B007"; var that of ``adata``. Aggregating again adds up
    "n_compounds".

    Raises
    ------
    ValueError
        Where X holds no counts; for keys that are no columns of obs, or lack values, or whose joined names are
        not unique.
    """
    code, table = synthons(adata, keys)
    counts = sp.csr_matrix(_checked(_matrix(adata), "adata.X"))
    shape = (len(table), adata.n_obs)
    sums = sp.csr_matrix((np.ones(adata.n_obs), (code, np.arange(adata.n_obs))), shape) @ counts
    table[N_COMPOUNDS] = np.bincount(code, weights=n_compounds(adata)).astype(np.int64)
    exact = sums.data.max(initial=0.0) <= 2**24
    return AnnData(sums.astype(np.float32) if exact else sums, obs=table, var=adata.var.copy())


def synthons(adata: AnnData, keys: str | Sequence[str]) -> tuple[np.ndarray, pd.DataFrame]:
    """The synthon of each row (n,), as a position in the table of synthons, which has the keys as columns.

    Raises
    ------
    ValueError
        As `aggregate` does.
    """
    keys = [keys] if isinstance(keys, str) else list(keys)
    if not keys or len(set(keys)) < len(keys) or not set(keys) <= set(adata.obs.columns):
        there = ", ".join(map(repr, adata.obs.columns)) or "none"
        raise ValueError(f"keys={keys!r} must be columns of adata.obs with building blocks, each once; it has {there}")
    blocks = adata.obs[keys]
    lacking = blocks.isna().any(axis=1).to_numpy()
    if lacking.any():
        raise ValueError(
            f"adata.obs[{keys!r}] lacks a building block for {int(lacking.sum())} row(s), such as "
            f"{adata.obs_names[lacking][0]!r}: give it a name, for example 'none'"
        )
    code = blocks.groupby(keys, observed=True, sort=True).ngroup().to_numpy()
    table = blocks.iloc[np.unique(code, return_index=True)[1]].copy()
    names = [table[key].astype(str) for key in keys]
    table.index = pd.Index(functools.reduce(lambda left, right: left + "-" + right, names).to_numpy())
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise ValueError(f"keys={keys!r} give two synthons the name {twice!r}: rename building blocks that contain '-'")
    return code, table


def pooled_counts(adata: AnnData, argument: str, condition: str) -> np.ndarray:
    """Counts (n,) in double precision, summed over the selections of a condition, which ``argument`` names.

    Raises
    ------
    ValueError
        Where var has no conditions, no selection has this one, or its selections hold no counts, or only zeros.
    """
    if CONDITION not in adata.var:
        there = ", ".join(map(repr, adata.var.columns)) or "none"
        raise ValueError(
            f"adata.var has no column {CONDITION!r}, which says of each selection whether it is 'target', 'control' or "
            f"'pre-selection': there are {there}; add it, adata.var[{CONDITION!r}] = [...]"
        )
    conditions = adata.var[CONDITION].astype(str)
    chosen = (conditions == condition).to_numpy()
    if not chosen.any():
        there = ", ".join(map(repr, conditions.unique()))
        raise ValueError(
            f"{argument}={condition!r} is the condition of no selection: adata.var[{CONDITION!r}] has {there}; "
            f"name one of them, {argument}=..."
        )
    what = f"the selections of {argument}={condition!r}"
    counts = np.asarray(_checked(_matrix(adata)[:, chosen], what).sum(axis=1)).ravel()
    if not counts.any():
        raise ValueError(f"{what} have no counts at all, and so no rates: leave them out, or check how they were read")
    return counts


def n_compounds(adata: AnnData) -> np.ndarray:
    """How many compounds each row sums (n,): 1, unless `aggregate` says otherwise in obs.

    Raises
    ------
    ValueError
        For numbers that are not positive.
    """
    if N_COMPOUNDS not in adata.obs:
        return np.ones(adata.n_obs)
    return positive_values(adata.obs[N_COMPOUNDS].to_numpy(np.float64), f"adata.obs[{N_COMPOUNDS!r}]")


def positive_values(values: np.ndarray, what: str) -> np.ndarray:
    """The values themselves; a ValueError where one is not positive and finite."""
    wrong = values[~((values > 0) & np.isfinite(values))]
    if wrong.size:
        raise ValueError(
            f"{what} has {wrong.size} value(s) that are not positive, such as {wrong[0]:g}: every row of adata needs "
            "one (a Series is matched by name; add 1 to counts)"
        )
    return values


def _matrix(adata: AnnData) -> Any:
    if adata.X is None:
        raise ValueError("adata.X is empty: put the counts there, adata.X = adata.layers[...]")
    if adata.isbacked:
        raise ValueError("adata.X is on disk (a backed AnnData), and is read into memory here: pass adata.to_memory()")
    return adata.X


def _checked(matrix: Any, what: str) -> Any:
    """The matrix in double precision, in which sums are exact, if it holds counts."""
    matrix = matrix.astype(np.float64)
    values = matrix.data if sp.issparse(matrix) else matrix
    wrong = values[~((values >= 0) & (values == np.floor(values)) & np.isfinite(values))]
    if wrong.size:
        raise ValueError(
            f"{what}: {wrong.size} value(s) are no counts, such as {wrong.min():g}; pass reads or UMIs as they were "
            "counted, before a control is subtracted or anything normalised"
        )
    return matrix
