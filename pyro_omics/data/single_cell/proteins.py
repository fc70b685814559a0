"""Protein counts from an AnnData's obsm: which were measured, the checks, and where their background starts."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from pyro_omics.data.anndata_io.reading import dense

MOST_CELLS = 2000  # that a background's mixture is fitted to
FEWEST_CELLS = 20  # below which there is no mixture to fit


class ProteinTable:
    """Protein counts of all rows.

    Parameters
    ----------
    names
        of the t proteins.
    counts
        (n, t), NaN where not measured.
    """

    def __init__(self, names: list[str], counts: np.ndarray) -> None:
        self.names, self.counts = names, counts

    @classmethod
    def missing(cls, names: Sequence[str], n: int) -> ProteinTable:
        """No protein measured in any of n cells."""
        return cls(list(names), np.full((n, len(names)), np.nan, dtype=np.float32))

    @classmethod
    def read(cls, adata: AnnData, key: str | None, mask: Any) -> ProteinTable | None:
        """The table at ``obsm[key]``, with what ``mask`` does not name set to NaN; None without a key.

        Raises
        ------
        ValueError
            That names the argument, what is wrong and where, and the mend.
        """
        if key is None:
            if mask is not None:
                raise ValueError("protein_mask is given without protein counts: name them, protein_obsm_key=...")
            return None
        obsm = _tables(adata)
        if key not in obsm:
            there = ", ".join(map(repr, obsm)) or "none"
            raise ValueError(f"protein_obsm_key={key!r} is not in adata.obsm: there are {there}")
        table = obsm[key]
        names = _names(table, key)
        if isinstance(table, pd.DataFrame):
            _check_rows(table, adata.obs_names, key)
            _check_numeric(table, key)
            table = table.to_numpy(dtype=np.float32, na_value=np.nan)
        raw = dense(table)
        if raw.dtype.kind not in "biuf":
            raise ValueError(f"protein_obsm_key={key!r} is of type {raw.dtype}, and not of numbers")
        counts = np.array(raw, dtype=np.float32)
        _check_counts(counts, names, key)
        if mask is not None:
            counts[~_mask(adata, mask, names)] = np.nan
        return cls(names, counts)

    def tensors(
        self,
        names: list[str],
        code: Tensor | None,
        batches: Sequence[str],
        panels: Mapping[str, Sequence[str]] | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Counts (n, t) of these proteins, 0 where not measured, and whether they were, or None where all were.

        Parameters
        ----------
        names
            of a model's proteins; those that are not here were not measured.
        code
            (n,) each row's batch, or None.
        batches
            their names.
        panels
            batch -> the proteins that it is known to have measured, for data of a model that was trained: there, zeros
            are counts, unless all of a batch's are.

        Raises
        ------
        ValueError
            Where none of the proteins is here.
        """
        position = pd.Index(self.names).get_indexer(pd.Index(names))
        if (position < 0).all():
            raise ValueError(
                f"none of the model's proteins, such as {names[:3]}, is among the data's, such as {self.names[:3]}: "
                "rename the columns"
            )
        counts = np.where(position >= 0, self.counts[:, position], np.nan)
        if code is not None:
            counts[_zero_batches(counts, names, code.numpy(), batches, panels or {})] = np.nan
        measured = ~np.isnan(counts)
        filled = torch.from_numpy(np.nan_to_num(counts).astype(np.float32))
        return filled, None if measured.all() else torch.from_numpy(measured)


def check_training(names: Sequence[str], y: Tensor, measured: Tensor | None) -> None:
    """Raise unless each protein was measured in one of these training cells, and varies.

    Raises
    ------
    ValueError
        That names the protein.
    """
    seen = torch.ones_like(y, dtype=torch.bool) if measured is None else measured
    if not seen.any():
        raise ValueError("no training cell has any protein measured; use SCVI, without proteins")
    if never := [name for name, found in zip(names, seen.any(0).tolist(), strict=True) if not found]:
        raise ValueError(
            f"the proteins {never} were measured in no training cell (NaN, masked, or zero in every batch): "
            "leave them out of the table"
        )
    low = torch.where(seen, y, torch.inf).amin(0)
    high = torch.where(seen, y, -torch.inf).amax(0)
    if constant := [name for name, same in zip(names, (low == high).tolist(), strict=True) if same]:
        raise ValueError(
            f"the proteins {constant} have zero variance, the same count in all cells where they were measured: "
            "they say nothing, and a background cannot be told from them; leave them out of the table"
        )


def _tables(adata: AnnData) -> Any:
    try:
        return adata.obsm
    except ValueError as error:  # AnnData's own check, whose message is the two indexes
        raise ValueError(
            "a table in adata.obsm has its rows in another order than adata.obs_names, or other rows: put them right "
            "before it is assigned, adata.obsm[key] = table.loc[adata.obs_names]"
        ) from error


def _names(table: Any, key: str) -> list[str]:
    if isinstance(table, pd.DataFrame):
        names = [str(name) for name in table.columns]
    elif getattr(table, "ndim", 0) == 2:
        names = [f"protein{i}" for i in range(table.shape[1])]
    else:
        raise ValueError(f"protein_obsm_key={key!r} holds a {type(table).__name__}: a DataFrame or a matrix is needed")
    if not names:
        raise ValueError(f"protein_obsm_key={key!r} has no columns: there are no proteins")
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"protein_obsm_key={key!r} has columns of the same name, {twice[:3]}: rename them")
    return names


def _check_rows(table: pd.DataFrame, obs_names: pd.Index, key: str) -> None:
    if table.index.equals(obs_names):
        return
    if len(table) == len(obs_names) and set(table.index) == set(obs_names):
        at = int(np.flatnonzero(np.asarray(table.index) != np.asarray(obs_names))[0])
        raise ValueError(
            f"protein_obsm_key={key!r}: its rows are in another order than adata.obs_names, row {at} is "
            f"{table.index[at]!r} and not {obs_names[at]!r}: adata.obsm[{key!r}] = table.loc[adata.obs_names]"
        )
    raise ValueError(
        f"protein_obsm_key={key!r}: its row names are not adata.obs_names, such as {table.index[0]!r} for "
        f"{obs_names[0]!r}: give each cell its own row, table.reindex(adata.obs_names)"
    )


def _check_numeric(table: pd.DataFrame, key: str) -> None:
    for name, dtype in table.dtypes.items():
        if not pd.api.types.is_numeric_dtype(dtype):
            raise ValueError(f"protein_obsm_key={key!r}: {str(name)!r} is of type {dtype}, and not of numbers")


def _check_counts(counts: np.ndarray, names: list[str], key: str) -> None:
    for wrong, what in (
        (np.isinf(counts), "infinite"),
        (counts < 0, "negative"),
        (np.nan_to_num(counts, posinf=0, neginf=0) % 1 != 0, "non-integer"),
        (counts > 2**24, "above 2^24, which float32 does not count exactly:"),
    ):
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ValueError(
                f"protein_obsm_key={key!r} does not hold counts: {int(wrong.sum())} values are {what}, such as "
                f"{counts[row, column]:g} of {names[column]!r} in row {row}. Pass the raw counts, before any "
                "normalisation; NaN for what was not measured"
            )


def _mask(adata: AnnData, mask: Any, names: list[str]) -> np.ndarray:
    """The mask (n, t), its rows and columns matched by name where it has names."""
    found, shape = mask, (adata.n_obs, len(names))
    if isinstance(mask, str):
        if mask in adata.obsm:
            found = adata.obsm[mask]
        elif mask in adata.obs:
            found = adata.obs[mask]
        else:
            raise ValueError(
                f"protein_mask={mask!r} is neither in adata.obsm, {list(adata.obsm)}, nor a column of adata.obs"
            )
    if isinstance(found, pd.DataFrame | pd.Series) and not found.index.equals(adata.obs_names):
        raise ValueError("protein_mask has other rows than adata.obs_names, or in another order: reindex it")
    if isinstance(found, pd.DataFrame):
        if missing := sorted(set(names) - set(map(str, found.columns))):
            raise ValueError(f"protein_mask has no column for the proteins {missing[:3]}: it has {list(found.columns)}")
        found = found.rename(columns=str)[names]
    found = np.asarray(found)
    if found.shape == shape[:1]:
        found = np.repeat(found[:, None], shape[1], 1)
    if found.dtype != bool or found.shape != shape:
        raise ValueError(
            f"protein_mask must be booleans (cells, proteins) {shape} or (cells,), True where measured, and is "
            f"{found.dtype} of shape {found.shape}"
        )
    return found


def _zero_batches(
    counts: np.ndarray, names: list[str], code: np.ndarray, batches: Sequence[str], panels: Mapping[str, Sequence[str]]
) -> np.ndarray:
    """Entries of proteins that are zero in all cells of their batch: not measured there."""
    zero = np.zeros(counts.shape, dtype=bool)
    for b in np.unique(code):
        rows = code == b
        seen = ~np.isnan(counts[rows])
        none = seen.any(0) & ~np.nan_to_num(counts[rows]).any(0)
        if not none[seen.any(0)].all():
            none &= ~np.isin(names, list(panels.get(batches[b], ())))
        if none.any():
            zero[np.ix_(rows, none)] = True
            which = "all proteins" if none.all() else f"the proteins {[names[i] for i in np.flatnonzero(none)]}"
            warnings.warn(
                f"batch {batches[b]!r}: {which} are zero in all of its {int(rows.sum())} cells, so they count as not "
                "measured there, and are imputed (NaN says the same, without this message)",
                UserWarning,
                stacklevel=5,
            )
    return zero


def background_start(y: Tensor, measured: Tensor | None, code: Tensor, n_batches: int) -> tuple[Any, Any]:
    """Per batch and protein, the cells that measured it, and mean and sd of its background's log counts.

    The background is the lower of two Normal components of log(1 + y). Batches that did not measure a protein borrow
    the numbers of the one that measured it in most cells.

    Source: Gayoso et al. 2021, Methods (there one mixture per cell over its proteins; here per protein over cells).
    """
    logs, codes = torch.log1p(y).double().numpy(), code.numpy()
    seen = np.ones(logs.shape, dtype=bool) if measured is None else measured.numpy()
    cells = np.stack([(seen & (codes == b)[:, None]).sum(0) for b in range(n_batches)])
    moments = np.empty((*cells.shape, 2))
    for t in range(logs.shape[1]):
        for b in np.argsort(-cells[:, t], kind="stable"):
            first = np.argmax(cells[:, t])
            mine = logs[(codes == b) & seen[:, t], t]
            moments[b, t] = _lower_component(mine) if len(mine) else ((0.0, 1.0) if b == first else moments[first, t])
    return tuple(map(tuple, cells.tolist())), tuple(tuple(map(tuple, row)) for row in moments.tolist())


def _lower_component(logs: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the lower of two Normal components."""
    if len(logs) < FEWEST_CELLS or len(np.unique(logs)) < 3:
        return float(logs.mean()), float(max(logs.std(), 0.1))
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    if len(logs) > MOST_CELLS:
        logs = np.random.default_rng(0).choice(logs, MOST_CELLS, replace=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a start, which training moves on from
        mixture = GaussianMixture(2, random_state=0).fit(logs[:, None])
    low = int(mixture.means_.argmin())
    return float(mixture.means_[low, 0]), float(max(np.sqrt(mixture.covariances_[low, 0, 0]), 0.1))
