"""The counts of an AnnData in memory, in any container and type, checked and as a `CountMatrix`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

from pyro_omics.data.matrices.containers import in_memory
from pyro_omics.data.matrices.count_checks import (
    check_layer,
    check_shape,
    matrix_of,
    name_of,
    problem_of,
    raise_not_counts,
)
from pyro_omics.data.matrices.memory import CountMatrix


class LoadedCounts:
    """The counts of an AnnData in memory; `backed.BackedCounts` has the same methods.

    Parameters
    ----------
    adata
        the AnnData.
    layer
        name of the layer; None for X.
    rows, columns
        what rows and columns are, for errors.
    """

    def __init__(self, adata: AnnData, layer: str | None, rows: str = "cells", columns: str = "genes") -> None:
        self.adata, self.layer, self.rows, self.columns = adata, layer, rows, columns
        self._checked: Any = None

    def check(self, genes: np.ndarray | None = None) -> None:
        """Check that the matrix has rows and columns, and holds finite, non-negative integers, not all zero.

        Raises
        ------
        ValueError
            If not; the error names the matrix, a value that is wrong, and a layer that looks like counts if there is
            one.
        """
        if self.adata.isbacked:
            raise ValueError(f"{name_of(self.layer)} must be in memory; got a backed AnnData: pass adata.to_memory()")
        viewed = _viewed(self.adata)
        whole = self.adata if viewed is None else viewed  # X of a view is cut out each time
        check_layer(self.layer, whole.X is not None, whole.layers)
        check_shape(self.layer, self.adata.shape, self.rows, self.columns)
        self._checked = self._read()
        if (problem := problem_of(self._checked)) is not None:
            raise_not_counts(self.layer, problem, self._what_looks_like_counts())

    def matrix(self, columns: np.ndarray | None) -> CountMatrix:
        """The counts of the columns at these positions; of all for None."""
        # What was checked is used once and let go: a view or a dask array would otherwise be kept in memory.
        found, self._checked = self._checked, None
        found = self._read() if found is None else found
        return CountMatrix(found if columns is None else found[:, columns])

    def _read(self) -> Any:
        name = name_of(self.layer)
        return in_memory(element(self.adata, lambda adata: matrix_of(adata, self.layer), name, has_columns=True), name)

    def _what_looks_like_counts(self) -> str:
        adata = self.adata
        places = {f"layer={name!r}": matrix for name, matrix in adata.layers.items() if name != self.layer}
        if self.layer is not None and adata.X is not None:
            places["layer=None (adata.X)"] = adata.X
        for place, matrix in places.items():
            if _is_counts(matrix):
                return f"This one looks like counts: {place}"
        if adata.raw is not None and _is_counts(adata.raw.X):
            return "adata.raw looks like counts: pass adata.raw.to_adata()"
        return ""


def element(adata: AnnData, get: Callable[[AnnData], Any], name: str, has_columns: bool = False) -> Any:
    """An element of an AnnData, ``get(adata)``.

    In views, a masked array keeps its mask, which AnnData drops, and a sparse matrix is checked before it is cut.

    Parameters
    ----------
    adata
        the AnnData.
    get
        returns the element.
    name
        name of the element, for errors.
    has_columns
        whether the element's second axis is var, as of X and layers.

    Raises
    ------
    ValueError
        If the matrix of which this is a view cannot be read (`in_memory`).
    """
    whole = _viewed(adata)
    found = None if whole is None else get(whole)
    if sp.issparse(found):
        found = in_memory(found, name)
    elif not isinstance(found, np.ma.MaskedArray):
        return get(adata)
    found = found[adata._oidx]
    return found[:, adata._vidx] if has_columns else found


def _viewed(adata: AnnData) -> AnnData | None:
    """The AnnData that this is a view of; None if it is no view."""
    return getattr(adata, "_adata_ref", None) if getattr(adata, "is_view", False) else None


def _is_counts(matrix: Any) -> bool:
    try:
        return problem_of(in_memory(matrix, "")) is None
    except ValueError:  # not readable, so not to be recommended
        return False
