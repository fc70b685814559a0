"""Protein counts from an AnnData's obsm: their checks, which were measured, and starts of their background."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch import Tensor

from pyro_omics.data.anndata_io.loaded import element
from pyro_omics.data.anndata_io.reading import aligned, booleans
from pyro_omics.data.matrices.containers import dense, native
from pyro_omics.data.names import check_names, same_but_for_blanks

MAX_MIXTURE_CELLS = 2000  # a background's mixture is fitted to at most so many cells
MIN_MIXTURE_CELLS = 20  # fewer cells are described by one Normal, without a mixture


class ProteinTable:
    """Protein counts of all rows.

    Parameters
    ----------
    names
        names of the t proteins.
    counts
        (n, t) counts, NaN where not measured.
    """

    def __init__(self, names: list[str], counts: np.ndarray) -> None:
        self.names, self.counts = names, counts

    @classmethod
    def missing(cls, names: Sequence[str], n: int) -> ProteinTable:
        """The table of n cells in which no protein was measured."""
        return cls(list(names), np.full((n, len(names)), np.nan, dtype=np.float32))

    @classmethod
    def read(cls, adata: AnnData, key: str | None, mask: Any) -> ProteinTable | None:
        """The table at ``obsm[key]``, with NaN where ``mask`` is False; None without a key.

        Raises
        ------
        ValueError
            If the table or the mask is missing, does not match the cells, or does not hold counts or booleans.
        """
        if key is None:
            if mask is not None:
                raise ValueError("protein_mask needs protein counts: pass protein_obsm_key")
            return None
        obsm = _tables(adata)
        if key not in obsm:
            raise ValueError(f"protein_obsm_key must be a key of adata.obsm, {list(obsm)}; got {key!r}")
        name = f"adata.obsm[{key!r}]"
        table = element(adata, lambda adata: adata.obsm[key], name)
        names = _names(table, key)
        if isinstance(table, pd.DataFrame):
            _check_rows(table, adata.obs_names, key)
            table = _numeric(table, key)
        raw = dense(table, name, masked="nan")
        if raw.dtype.kind not in "iuf":
            raise ValueError(f"protein_obsm_key={key!r}: {name} must hold numbers; got {raw.dtype}")
        _check_counts(raw, names, key)
        counts = np.array(raw, dtype=np.float32)
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
        """Counts (n, t), 0 where not measured, and booleans (n, t), True where measured, or None if all were.

        Parameters
        ----------
        names
            names of the model's proteins; those that are not in this table were not measured.
        code
            (n,) code of each row's batch; None for a single batch.
        batches
            names of the batches.
        panels
            batch -> the proteins that it measured in the data a model was trained on: of these, zeros in all cells are
            counts, unless all counts of the batch are zero.

        Raises
        ------
        ValueError
            If none of the proteins is in this table.

        Warns
        -----
        UserWarning
            If some are not, by name.
        """
        position = pd.Index(self.names).get_indexer(pd.Index(names))
        if (position < 0).all():
            raise ValueError(
                f"the data must have some of the model's proteins, such as {names[:3]}; got {self.names[:3]}: rename "
                "the columns"
            )
        missing = [name for name, at in zip(names, position, strict=True) if at < 0]
        if twins := same_but_for_blanks(missing, self.names):
            raise ValueError(
                f"the model's protein {twins[0]!r} is {twins[1]!r} in these data, which differs in blanks: rename the "
                "column"
            )
        if missing:
            others = [name for name in self.names if name not in set(names)]
            mend = f"; the model does not have {others[:5]}: if they are the same, rename the columns" if others else ""
            warnings.warn(
                f"the proteins {missing} of the model are not in these data, and are imputed as not measured{mend}",
                UserWarning,
                stacklevel=5,
            )
        counts = np.where(position >= 0, self.counts[:, position], np.nan)
        if code is not None:
            counts[_zero_batches(counts, names, code.numpy(), batches, panels or {})] = np.nan
        measured = ~np.isnan(counts)
        filled = torch.from_numpy(np.nan_to_num(counts).astype(np.float32))
        return filled, None if measured.all() else torch.from_numpy(measured)


def check_training_proteins(names: Sequence[str], y: Tensor, measured: Tensor | None) -> None:
    """Check that each protein was measured in a training cell and varies among those where it was.

    Raises
    ------
    ValueError
        If not; the error names the proteins.
    """
    seen = torch.ones_like(y, dtype=torch.bool) if measured is None else measured
    if not seen.any():
        raise ValueError("no training cell has any protein measured: use SCVI, which needs none")
    if never := [name for name, found in zip(names, seen.any(0).tolist(), strict=True) if not found]:
        raise ValueError(
            f"the proteins {never} were measured in no training cell (NaN, masked, or zero in every batch): "
            "leave them out of the table"
        )
    low = torch.where(seen, y, torch.inf).amin(0)
    high = torch.where(seen, y, -torch.inf).amax(0)
    if constant := [name for name, same in zip(names, (low == high).tolist(), strict=True) if same]:
        raise ValueError(
            f"the proteins {constant} have the same count in all cells where they were measured (zero variance), "
            "which says nothing of their background: leave them out of the table"
        )


def _tables(adata: AnnData) -> Any:
    try:
        return adata.obsm
    except ValueError as error:  # AnnData's own check, whose message only prints both indexes
        raise ValueError(
            "a table in adata.obsm has its rows in another order than adata.obs_names, or other rows: assign it in "
            "that order, adata.obsm[key] = table.loc[adata.obs_names]"
        ) from error


def _names(table: Any, key: str) -> list[str]:
    if isinstance(table, pd.DataFrame):
        names = list(table.columns)
    elif getattr(table, "ndim", 0) == 2:
        names = [f"protein{i}" for i in range(table.shape[1])]
    else:
        raise ValueError(f"protein_obsm_key={key!r} must hold a DataFrame or a matrix; got a {type(table).__name__}")
    if not names:
        raise ValueError(f"protein_obsm_key={key!r} must have a column for each protein; got none")
    check_names(names, f"the columns of adata.obsm[{key!r}] (protein_obsm_key)", "rename one")
    return [str(name) for name in names]


def _check_rows(table: pd.DataFrame, obs_names: pd.Index, key: str) -> None:
    if table.index.equals(obs_names):
        return
    if len(table) == len(obs_names) and set(table.index) == set(obs_names):
        at = int(np.flatnonzero(np.asarray(table.index) != np.asarray(obs_names))[0])
        raise ValueError(
            f"protein_obsm_key={key!r} must have its rows in the order of adata.obs_names; got {table.index[at]!r} in "
            f"row {at} and not {obs_names[at]!r}: use adata.obsm[{key!r}] = table.loc[adata.obs_names]"
        )
    raise ValueError(
        f"protein_obsm_key={key!r} must have adata.obs_names as row names, such as {obs_names[0]!r}; got "
        f"{table.index[0]!r}: use table.reindex(adata.obs_names)"
    )


def _numeric(table: pd.DataFrame, key: str) -> pd.DataFrame:
    """The table, with numbers for columns of Python's numbers (dtype object)."""
    found = table.copy(deep=False)
    for name, dtype in table.dtypes.items():
        if dtype.kind == "O":
            found[name] = native(table[name].to_numpy(), f"protein_obsm_key={key!r}: the column {str(name)!r}")
        elif not pd.api.types.is_numeric_dtype(dtype):
            raise ValueError(f"protein_obsm_key={key!r} must hold numbers; got {dtype} in the column {str(name)!r}")
    return found


def _check_counts(counts: np.ndarray, names: list[str], key: str) -> None:
    for wrong, what in (
        (np.isinf(counts), "infinite"),
        (counts < 0, "negative"),
        (np.nan_to_num(counts, posinf=0, neginf=0) % 1 != 0, "non-integer"),
        (counts > 2**24, "above 2^24, where float32 skips integers"),
    ):
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ValueError(
                f"adata.obsm[{key!r}] (protein_obsm_key) does not hold counts: {int(wrong.sum())} values are {what}, "
                f"such as {counts[row, column]:g} of {names[column]!r} in row {row}. Pass the raw counts, before any "
                "normalisation, with NaN where not measured"
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
                f"protein_mask must be a key of adata.obsm, {list(adata.obsm)}, or a column of adata.obs, "
                f"{list(adata.obs.columns)}; got {mask!r}"
            )
    if isinstance(found, pd.DataFrame | pd.Series):
        found = aligned("protein_mask", found, adata.obs_names, "adata.obs_names")
    if isinstance(found, pd.DataFrame):
        if missing := sorted(set(names) - set(map(str, found.columns))):
            raise ValueError(
                f"protein_mask must have a column for each protein; got none for {missing[:3]}: its columns are "
                f"{list(found.columns)}"
            )
        found = found.rename(columns=str)[names]
        if all(map(pd.api.types.is_bool_dtype, found.dtypes)) and not found.isna().any(axis=None):
            found = found.to_numpy(dtype=bool)
    found = _booleans(found, adata.obs_names)
    if found.shape == shape[:1]:
        found = np.repeat(found[:, None], shape[1], 1)
    if found.dtype != bool or found.shape != shape:
        raise ValueError(
            f"protein_mask must be booleans (cells, proteins) {shape} or (cells,), True where measured; got "
            f"{found.dtype} of shape {found.shape}"
        )
    return found


def _booleans(mask: Any, names: pd.Index) -> np.ndarray:
    if sp.issparse(mask):
        return mask.toarray()
    if hasattr(mask, "__dask_graph__"):
        mask = mask.compute()
    if isinstance(mask, np.ma.MaskedArray) and np.ma.getmaskarray(mask).any():
        raise ValueError("protein_mask must have no masked entries of its own: fill them")
    return booleans("protein_mask", mask, names, "adata.obs_names")


def _zero_batches(
    counts: np.ndarray, names: list[str], code: np.ndarray, batches: Sequence[str], panels: Mapping[str, Sequence[str]]
) -> np.ndarray:
    """Booleans (n, t), True for the entries of proteins that are zero in all cells of their batch."""
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
                f"batch {batches[b]!r}: {which} are zero in all of its {int(rows.sum())} cells, and are taken as not "
                "measured there and imputed; set them to NaN to avoid this warning",
                UserWarning,
                stacklevel=5,
            )
    return zero


def initial_background(y: Tensor, measured: Tensor | None, code: Tensor, n_batches: int) -> tuple[Any, Any]:
    """Numbers of cells that measured each protein, and mean and standard deviation of its background's log counts.

    The background is the lower of two Normal components of log(1 + y). A batch that did not measure a protein gets the
    values of the batch that measured it in most cells.

    Parameters
    ----------
    y
        (n, t) protein counts.
    measured
        (n, t) whether each was measured; None where all were.
    code
        (n,) code of each cell's batch.
    n_batches
        number of batches.

    Returns
    -------
    Tuples (n_batches, t) of numbers of cells, and (n_batches, t, 2) of mean and standard deviation.

    Source: Gayoso et al. 2021, Methods (there one mixture per cell over its proteins; here per protein over cells).
    """
    logs, codes = torch.log1p(y).double().numpy(), code.numpy()
    seen = np.ones(logs.shape, dtype=bool) if measured is None else measured.numpy()
    cells = np.stack([(seen & (codes == b)[:, None]).sum(0) for b in range(n_batches)])
    moments = np.empty((*cells.shape, 2))
    for t in range(logs.shape[1]):
        for b in np.argsort(-cells[:, t], kind="stable"):
            first = np.argmax(cells[:, t])
            own = logs[(codes == b) & seen[:, t], t]
            moments[b, t] = _lower_component(own) if len(own) else ((0.0, 1.0) if b == first else moments[first, t])
    return tuple(map(tuple, cells.tolist())), tuple(tuple(map(tuple, row)) for row in moments.tolist())


def _lower_component(logs: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the lower of two Normal components; of all values if there are too few."""
    if len(logs) < MIN_MIXTURE_CELLS or len(np.unique(logs)) < 3:
        return float(logs.mean()), float(max(logs.std(), 0.1))
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    if len(logs) > MAX_MIXTURE_CELLS:
        logs = np.random.default_rng(0).choice(logs, MAX_MIXTURE_CELLS, replace=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # only a start of training, so convergence is not needed
        mixture = GaussianMixture(2, random_state=0).fit(logs[:, None])
    low = int(mixture.means_.argmin())
    return float(mixture.means_[low, 0]), float(max(np.sqrt(mixture.covariances_[low, 0, 0]), 0.1))
