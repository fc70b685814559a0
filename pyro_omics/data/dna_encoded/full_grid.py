"""The full grid of a library: every combination of its building blocks, also those without a read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import natsort
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from pyro_omics.data.dna_encoded.errors import Argument, ArgumentError
from pyro_omics.data.matrices.containers import in_memory
from pyro_omics.data.names import NO_NAMES, list_of

SEPARATOR = "-"
NATURAL = natsort.natsort_keygen()
MEND = (
    "fill them in, with 'none' for a product without this building block, or leave those compounds out; a building "
    "block that is really called so needs another name, such as 'NA_'"
)


def complete_grid(
    adata: AnnData, synthon_keys: Sequence[str] = ("A", "B", "C"), max_compounds: int = 20_000_000
) -> AnnData:
    """Complete the grid of building blocks: add the compounds that ``adata`` omits, with counts of zero.

    Many tables of DEL counts leave out compounds that were never sequenced. Those zeros are data: without them every
    rate is estimated too high, and a Poisson likelihood would have to be truncated at zero.

    The grid is made of the building blocks that occur in ``adata``. Memory is linear in the size of the grid for
    ``obs`` (some 200 bytes a compound), and in the number of non-zero counts for ``X``.

    Parameters
    ----------
    adata
        counts (compounds, selections).
    synthon_keys
        columns of ``adata.obs`` with the building block of each cycle.
    max_compounds
        largest size of the grid.

    Returns
    -------
    A new AnnData, with rows in natural order of the building blocks' names ("B2" before "B10"; the last cycle varies
    fastest). Observed compounds keep their name and their columns of ``obs``; added compounds are named by their
    building blocks, "A001-B001-C001", and have missing values in the other columns.

    Raises
    ------
    ValueError
        If a column does not exist or has missing names, a compound occurs twice, the grid is larger than
        ``max_compounds``, or ``adata`` has layers, obsm or obsp, which added compounds would lack.
    """
    keys = list_of("synthon_keys", synthon_keys)
    for key in keys:
        if key not in adata.obs:
            raise ValueError(f"synthon_keys must be columns of adata.obs, {list(adata.obs.columns)}; got {key!r}")
    if extra := [name for name in ("layers", "obsm", "obsp") if len(getattr(adata, name))]:
        raise ValueError(
            f"adata.{extra[0]} must be empty, since added compounds lack it; got {list(getattr(adata, extra[0]))}: "
            f"call complete_grid first and fill adata.{extra[0]} afterwards"
        )
    check_named(adata.obs, keys)
    blocks = [natural_categorical(adata.obs[key]) for key in keys]
    check_distinct(adata.obs, keys, f"adata.obs.groupby({keys}, observed=True).size() shows them")
    shape = tuple(len(block.categories) for block in blocks)
    size = math.prod(shape)
    if size > max_compounds:
        raise ArgumentError(
            f"the full grid must have at most max_compounds={max_compounds:,} compounds; got "
            f"{' x '.join(map(str, shape))} = {size:,}: if memory allows, pass complete_grid(adata, "
            f"max_compounds={size}), or read only the observed compounds (",
            Argument("complete", False),
            "), whose counts are then truncated at zero",
        )
    position = np.ravel_multi_index([block.codes.astype(np.int64) for block in blocks], shape)
    source = np.full(size, -1, dtype=np.int64)  # the row of adata that each compound of the grid comes from
    source[position] = np.arange(adata.n_obs)
    obs = _obs(adata, dict(zip(keys, blocks, strict=True)), source)
    full = AnnData(_rows(adata.X, position, size), obs=obs, var=adata.var.copy())
    full.uns.update(adata.uns)
    return full


def natural_categorical(names: pd.Series) -> pd.Categorical:
    """A column as a Categorical of the levels that occur, in natural order: "B2" before "B10"."""
    codes, levels = pd.factorize(names.astype(object))
    order = sorted(range(len(levels)), key=lambda i: (NATURAL(str(levels[i])), str(levels[i])))
    rank = np.empty(len(order) + 1, dtype=np.int64)
    rank[order], rank[-1] = np.arange(len(order)), -1  # the last entry is for the code -1, "missing"
    return pd.Categorical.from_codes(rank[codes], categories=pd.Index([str(levels[i]) for i in order], dtype=object))


def check_named(
    obs: pd.DataFrame,
    keys: Sequence[str],
    shown_keys: Sequence[str] | None = None,
    place: Callable[[int], str] = "row {} (counted from 0)".format,
) -> None:
    """Raise a ValueError if a compound lacks the name of a building block, or has "NA" or the like for it.

    Parameters
    ----------
    obs
        the table; its index counts rows from 0 where ``place`` is given.
    keys, shown_keys
        the columns, and as errors show them.
    place
        row -> where it is, for errors.
    """
    for key, name in zip(keys, shown_keys or keys, strict=True):
        missing = (obs[key].isna() | obs[key].isin(NO_NAMES)).to_numpy()
        if missing.any():
            at = int(missing.argmax())
            row = int(obs.index[at]) if isinstance(obs.index[at], int | np.integer) else at
            word = "" if pd.isna(obs[key].iloc[at]) else f", {obs[key].iloc[at]!r}"
            raise ValueError(
                f"the building-block column {name!r} has {int(missing.sum())} missing names, the first in "
                f"{place(row)}{word}: {MEND}"
            )


def check_distinct(obs: pd.DataFrame, keys: Sequence[str], *fix: str | Argument) -> None:
    """Raise a ValueError if two rows have the same building blocks; ``fix`` is the advice in the error."""
    again = obs.duplicated(list(keys)).to_numpy()
    if again.any():
        names = obs.loc[again, list(keys)].astype(str).agg(SEPARATOR.join, axis=1).unique()
        raise ArgumentError(
            f"{int(again.sum())} row(s) repeat the building blocks of another (columns {', '.join(keys)}), such as "
            f"{', '.join(map(repr, names[:3]))}: a compound must have one row; ",
            *fix,
        )


def joined_names(names: Sequence[np.ndarray]) -> np.ndarray:
    """Joined names (a * b * ...,) of every combination of the cycles' names (a,), (b,), ..., the last cycle fastest."""
    joined = np.asarray(names[0], dtype=object)
    for more in names[1:]:
        joined = np.add.outer(joined, SEPARATOR + np.asarray(more, dtype=object)).ravel()
    return joined


def _obs(adata: AnnData, blocks: dict[str, pd.Categorical], source: np.ndarray) -> pd.DataFrame:
    """``adata.obs`` over the grid, with missing values for added compounds except in the building blocks."""
    ids = joined_names([block.categories.to_numpy() for block in blocks.values()])
    seen = source >= 0
    ids[seen] = adata.obs_names.to_numpy()[source[seen]]
    obs = pd.DataFrame(index=pd.Index(ids, dtype=object))
    if not obs.index.is_unique:
        twice = obs.index[obs.index.duplicated()][0]
        raise ValueError(
            f"adata.obs_names: {twice!r} is the name of an observed compound, and the joined building blocks of "
            f"another: rename the observed ones, adata.obs_names = adata.obs[{list(blocks)}].agg({SEPARATOR!r}.join, "
            "axis=1)"
        )
    codes = np.unravel_index(np.arange(len(source)), [len(block.categories) for block in blocks.values()])
    levels = {key: (code, blocks[key].categories) for key, code in zip(blocks, codes, strict=True)}
    for name in adata.obs.columns:
        if name in levels:
            obs[name] = pd.Categorical.from_codes(levels[name][0], categories=levels[name][1])
        else:
            obs[name] = pd.api.extensions.take(adata.obs[name].values, source, allow_fill=True)
    return obs


def _rows(matrix: object, position: np.ndarray, size: int) -> sp.csr_matrix:
    """A matrix of ``size`` rows, with the rows of ``matrix`` at ``position`` and the others empty."""
    rows = sp.csr_matrix(in_memory(matrix, "adata.X"))
    lengths = np.zeros(size + 1, dtype=np.int64)
    lengths[position + 1] = np.diff(rows.indptr)
    rows = rows[np.argsort(position)]
    return sp.csr_matrix((rows.data, rows.indices, lengths.cumsum()), shape=(size, rows.shape[1]))
