"""Building blocks of compounds in columns of obs: their columns, levels and codes, and a check of duplicates."""

from __future__ import annotations

import itertools
import string
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from torch import Tensor

from pyro_omics.data.anndata_io import obs_columns
from pyro_omics.data.dna_encoded.full_grid import MEND, natural_categorical
from pyro_omics.data.names import NO_NAMES, check_names, list_of


def synthon_columns(adata: AnnData, keys: Sequence[str] | None) -> tuple[str, ...]:
    """The columns of obs with the building blocks of each cycle: ``keys``, or for None "A", "B", ... up to the last.

    Raises
    ------
    ValueError
        If a column is missing or given twice, or there are fewer than two.
    """
    if keys is None:
        keys = [*itertools.takewhile(lambda name: name in adata.obs, string.ascii_uppercase)]
    keys = list_of("synthon_keys", keys)
    if missing := [key for key in keys if key not in adata.obs]:
        raise ValueError(f"synthon_keys must be columns of adata.obs, {list(adata.obs.columns)}; got {missing}")
    if len(keys) < 2:
        raise ValueError(
            f"synthon_keys must be the building-block columns of two cycles or more; got {list(keys)}: pass columns of "
            f"adata.obs, {list(adata.obs.columns)}"
        )
    return tuple(keys)


def levels_of(obs: pd.DataFrame, key: str) -> list[str]:
    """Names of the building blocks that occur in a cycle: in the order of its categories, else in natural order.

    Raises
    ------
    ValueError
        If names are missing, empty, or "NA" or the like, or two are the same as text, or but for blanks.
    """
    values = obs_columns.column(obs, "synthon_keys", key, fix="with the building block's name")
    if isinstance(values.dtype, pd.CategoricalDtype):
        levels = [str(level) for level in values.cat.remove_unused_categories().cat.categories]
    else:
        levels = [str(level) for level in natural_categorical(values.astype(str)).categories]
    what = f"the building blocks in adata.obs[{key!r}]"
    check_names(levels, what, "rename one")
    if missing := [level for level in levels if level in NO_NAMES]:
        raise ValueError(f"{what} must have no missing names; got {missing[0]!r}: {MEND}")
    return levels


def codes_of(obs: pd.DataFrame, key: str, levels: list[str]) -> np.ndarray:
    """The code (n,) of each compound's building block: its position in ``levels``.

    Raises
    ------
    ValueError
        For a building block that is not among them.
    """
    values = obs_columns.column(obs, "synthon_keys", key, fix="with the building block's name").astype(str)
    found = pd.Categorical(values, categories=levels).codes
    if (found < 0).any():
        unknown = sorted(set(values[found < 0]))
        raise ValueError(f"the column {key!r} must hold the model's {len(levels)} building blocks; got {unknown[:5]}")
    return found.astype(np.int64)


def check_duplicates(adata: AnnData, cycles: Sequence[str], codes: Tensor) -> None:
    """Raise a ValueError if two rows have the same building blocks."""
    frame = pd.DataFrame(codes.numpy())
    if (twice := frame.duplicated(keep=False)).any():
        names = list(adata.obs_names[twice][:4])
        raise ValueError(
            f"{int(twice.sum())} rows share their building blocks {list(cycles)} with another row, such as {names}: "
            "sum the counts of each compound first"
        )
