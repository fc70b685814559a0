"""The building blocks of compounds, as columns of obs: which columns, what levels, and that no compound comes twice."""

from __future__ import annotations

import itertools
import string
from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from torch import Tensor

from pyro_omics.data.anndata_io import obs_columns
from pyro_omics.data.dna_encoded.full_grid import natural_categorical


def synthon_columns(adata: AnnData, keys: Sequence[str] | None) -> tuple[str, ...]:
    """The columns of obs with the cycles' building blocks: ``keys``, or "A", "B", ... as far as there are any.

    Raises
    ------
    ValueError
        Where they are not there, or fewer than two.
    """
    if isinstance(keys, str):
        raise ValueError(f"synthon_keys must be a list of columns, and is the text {keys!r}")
    if keys is None:
        keys = [*itertools.takewhile(lambda name: name in adata.obs, string.ascii_uppercase)]
    if missing := [key for key in keys if key not in adata.obs]:
        raise ValueError(f"synthon_keys names {missing}, not columns of adata.obs: there are {list(adata.obs.columns)}")
    if len(keys) < 2 or len(set(keys)) < len(keys):
        raise ValueError(
            f"synthon_keys must name the building-block columns of two cycles or more, and is {list(keys)}; "
            f"adata.obs has {list(adata.obs.columns)}"
        )
    return tuple(keys)


def levels_of(obs: pd.DataFrame, key: str) -> list[str]:
    """The building blocks of a cycle that occur, sorted by name."""
    values = obs_columns.column(obs, "synthon_keys", key, mend="with the building block's name")
    if isinstance(values.dtype, pd.CategoricalDtype):
        return [str(level) for level in values.cat.remove_unused_categories().cat.categories]
    return [str(level) for level in natural_categorical(values.astype(str)).categories]


def codes_of(obs: pd.DataFrame, key: str, levels: list[str]) -> np.ndarray:
    """The position (n,) of each compound's building block among ``levels``.

    Raises
    ------
    ValueError
        For a building block that is not among them.
    """
    values = obs_columns.column(obs, "synthon_keys", key, mend="with the building block's name").astype(str)
    found = pd.Categorical(values, categories=levels).codes
    if (found < 0).any():
        unknown = sorted(set(values[found < 0]))
        raise ValueError(f"the building blocks {unknown[:5]} of {key!r} are not among the {len(levels)} of the model")
    return found.astype(np.int64)


def check_duplicates(adata: AnnData, cycles: Sequence[str], codes: Tensor) -> None:
    """Raise where two rows are of the same building blocks."""
    frame = pd.DataFrame(codes.numpy())
    if (twice := frame.duplicated(keep=False)).any():
        names = list(adata.obs_names[twice][:4])
        raise ValueError(
            f"{int(twice.sum())} rows share their building blocks {list(cycles)} with another row, such as {names}: "
            "sum the counts of each compound first"
        )
