"""Counts of a DNA-encoded library, summed over compounds that share building blocks or over selections."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from pyro_omics.data.matrices.containers import in_memory
from pyro_omics.data.matrices.count_checks import matrix_of, name_of
from pyro_omics.data.names import list_of

CONDITION = "condition"
N_COMPOUNDS = "n_compounds"


def aggregate(adata: AnnData, keys: str | Sequence[str]) -> AnnData:
    """Sum counts over the compounds that share building blocks: one key gives monosynthons, two give disynthons.

    Parameters
    ----------
    adata
        counts (n, selections) in X, sparse or dense, and the building blocks in obs.
    keys
        columns of obs with building blocks.

    Returns
    -------
    AnnData (synthons, selections), sorted by building block. X has the sums in CSR (float32; float64 if a sum exceeds
    2^24, above which float32 skips integers). obs has the keys and "n_compounds", the number of summed compounds; its
    index joins the names of the building blocks, such as "A001-B007". var is that of ``adata``. Aggregating again adds
    up "n_compounds".

    Raises
    ------
    ValueError
        If X does not hold counts, keys are not columns of obs or have missing values, or joined names are not unique.
    """
    code, table = synthons(adata, keys)
    counts = sp.csr_matrix(_checked_counts(_matrix(adata), "adata.X"))
    shape = (len(table), adata.n_obs)
    sums = sp.csr_matrix((np.ones(adata.n_obs), (code, np.arange(adata.n_obs))), shape) @ counts
    table[N_COMPOUNDS] = np.bincount(code, weights=n_compounds(adata)).astype(np.int64)
    exact = sums.data.max(initial=0.0) <= 2**24
    return AnnData(sums.astype(np.float32) if exact else sums, obs=table, var=adata.var.copy())


def synthons(adata: AnnData, keys: str | Sequence[str]) -> tuple[np.ndarray, pd.DataFrame]:
    """Code (n,) of each row's synthon, and the table of synthons, which has the keys as columns.

    Raises
    ------
    ValueError
        As `aggregate`, for the keys.
    """
    keys = [keys] if isinstance(keys, str) else list_of("keys", keys, repeats=True)
    if not keys or len(set(keys)) < len(keys) or not set(keys) <= set(adata.obs.columns):
        raise ValueError(f"keys must be distinct columns of adata.obs, {list(adata.obs.columns)}; got {keys!r}")
    blocks = adata.obs[keys]
    lacking = blocks.isna().any(axis=1).to_numpy()
    if lacking.any():
        raise ValueError(
            f"adata.obs[{keys!r}] lacks a building block for {int(lacking.sum())} row(s), such as "
            f"{adata.obs_names[lacking][0]!r}: fill in a name, for example 'none'"
        )
    code = blocks.groupby(keys, observed=True, sort=True).ngroup().to_numpy()
    table = blocks.iloc[np.unique(code, return_index=True)[1]].copy()
    names = [table[key].astype(str) for key in keys]
    table.index = pd.Index(functools.reduce(lambda left, right: left + "-" + right, names).to_numpy())
    if not table.index.is_unique:
        twice = table.index[table.index.duplicated()][0]
        raise ValueError(f"keys={keys!r} give two synthons the name {twice!r}: rename building blocks that contain '-'")
    return code, table


def pooled_counts(adata: AnnData, argument: str, condition: str, layer: str | None = None) -> np.ndarray:
    """Counts (n,) in double precision, summed over the selections of a condition.

    Parameters
    ----------
    adata
        counts (n, selections) in X or in ``layer``, and the conditions in var.
    argument
        name of the argument that ``condition`` was passed as, for errors.
    condition
        the condition.
    layer
        the layer with the counts; None for X.

    Raises
    ------
    ValueError
        If var has no conditions, no selection has this one, or its selections do not hold counts, or only zeros.
    """
    if CONDITION not in adata.var:
        raise ValueError(
            f"adata.var must have a column {CONDITION!r}, with 'target', 'control' or 'pre-selection' for each "
            f"selection; got {list(adata.var.columns)}: set adata.var[{CONDITION!r}] = [...]"
        )
    conditions = adata.var[CONDITION].astype(str)
    chosen = (conditions == condition).to_numpy()
    if not chosen.any():
        raise ValueError(
            f"{argument} must be a condition in adata.var[{CONDITION!r}], {[*conditions.unique()]}; got {condition!r}"
        )
    name = f"the selections of {argument}={condition!r}"
    counts = np.asarray(_checked_counts(_matrix(adata, layer)[:, chosen], name).sum(axis=1)).ravel()
    if not counts.any():
        raise ValueError(f"{name} have no counts at all, and so no rates: leave them out, or check how they were read")
    return counts


def n_compounds(adata: AnnData) -> np.ndarray:
    """Number of compounds (n,) that each row sums: 1, or the column that `aggregate` added to obs.

    Raises
    ------
    ValueError
        If a number is not positive.
    """
    if N_COMPOUNDS not in adata.obs:
        return np.ones(adata.n_obs)
    return positive_values(adata.obs[N_COMPOUNDS].to_numpy(np.float64), f"adata.obs[{N_COMPOUNDS!r}]")


def positive_values(values: np.ndarray, name: str) -> np.ndarray:
    """Return the values, or raise a ValueError if one is not positive and finite; the error calls them ``name``."""
    wrong = values[~((values > 0) & np.isfinite(values))]
    if wrong.size:
        raise ValueError(
            f"{name} must be positive for every row of adata; got {wrong.size} value(s) that are not, such as "
            f"{wrong[0]:g}: a Series is matched by name; add 1 to counts"
        )
    return values


def _matrix(adata: AnnData, layer: str | None = None) -> Any:
    name = name_of(layer)
    if adata.X is None and layer is None:
        raise ValueError("adata.X must hold the counts; got None: set adata.X = adata.layers[...]")
    if adata.isbacked:
        raise ValueError(f"{name} must be in memory; got a backed AnnData: pass adata.to_memory()")
    return in_memory(matrix_of(adata, layer), name)


def _checked_counts(matrix: Any, name: str) -> Any:
    """The matrix in double precision, where sums are exact; a ValueError if it does not hold counts."""
    matrix = matrix.astype(np.float64)
    values = matrix.data if sp.issparse(matrix) else matrix
    wrong = values[~((values >= 0) & (values == np.floor(values)) & np.isfinite(values))]
    if wrong.size:
        raise ValueError(
            f"{name} must hold counts; got {wrong.size} other value(s), such as {wrong.min():g}: pass reads or UMIs as "
            "they were counted, before normalisation or subtraction of a control"
        )
    return matrix
