"""Count matrices as tensors, and the checks that they are counts."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch import Tensor


class CountMatrix:
    """Counts (n, g) in compressed rows, whose minibatches are made dense as tensors.

    Parameters
    ----------
    matrix
        (n, g) non-negative integers: CSR, CSC, another SciPy format, or dense.
    """

    def __init__(self, matrix: Any) -> None:
        csr = sp.csr_matrix(matrix)
        if not csr.has_canonical_format:
            csr = csr.copy()  # it shares its arrays with the AnnData's
            csr.sum_duplicates()
        self.shape: tuple[int, int] = csr.shape
        self.indptr = torch.from_numpy(csr.indptr.astype(np.int64))
        self.indices = torch.from_numpy(csr.indices.astype(np.int64))
        self.values = torch.from_numpy(csr.data.astype(np.float32))

    def rows(self, index: Tensor) -> Tensor:
        """The rows ``index`` as a dense (len(index), g) float tensor."""
        start = self.indptr[index]
        length = self.indptr[index + 1] - start
        row = torch.repeat_interleave(torch.arange(len(index)), length)
        # Position of each stored value: its row's start, and its rank within the row.
        rank = torch.arange(len(row)) - (length.cumsum(0) - length)[row]
        position = start[row] + rank
        out = torch.zeros(len(index), self.shape[1])
        out[row, self.indices[position]] = self.values[position]
        return out

    @functools.cached_property
    def totals(self) -> Tensor:
        """Each row's sum (n,), in double precision."""
        row = torch.repeat_interleave(torch.arange(self.shape[0]), self.indptr.diff())
        return torch.zeros(self.shape[0], dtype=torch.float64).index_add_(0, row, self.values.double())


def matrix_of(adata: AnnData, layer: str | None) -> Any:
    """X, or the named layer.

    Raises
    ------
    ValueError
        Where there is no such matrix.
    """
    if layer is None:
        if adata.X is None:
            raise ValueError(f"adata.X is empty: name the layer with the counts, layer=...; there are {_layers(adata)}")
        return adata.X
    if layer not in adata.layers:
        raise ValueError(f"layer={layer!r} is not in adata.layers: there are {_layers(adata)}")
    return adata.layers[layer]


def check_counts(adata: AnnData, layer: str | None, rows: str = "cells", columns: str = "genes") -> None:
    """Raise unless the matrix holds finite, non-negative integers, and at least one row and column of them.

    Raises
    ------
    ValueError
        That names the matrix, the value seen and where, and the layer that does look like counts if there is one.
    """
    name = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    matrix = matrix_of(adata, layer)
    if adata.isbacked:
        raise ValueError(f"{name} is on disk (a backed AnnData), and is read into memory here: pass adata.to_memory()")
    for what, length in zip((rows, columns), matrix.shape, strict=True):
        if length == 0:
            raise ValueError(f"{name} has 0 {what} (shape {matrix.shape}): check how adata was filtered")
    problem = _problem(matrix)
    if problem is None:
        return
    raise ValueError(f"{name} does not hold counts: {problem}. {_where_counts_are(adata, layer)}")


def _stored(matrix: Any) -> np.ndarray:
    return np.asarray(matrix.data if sp.issparse(matrix) else matrix)


def _problem(matrix: Any) -> str | None:
    values = _stored(matrix)
    if not values.any():
        return "all of it is zero"
    if values.dtype.kind not in "biuf":
        return f"its values are of type {values.dtype}"
    if values.dtype.kind == "f" and np.isnan(values).any():
        return f"it has {int(np.isnan(values).sum())} NaN"
    if values.dtype.kind == "f" and np.isinf(values).any():
        return f"it has {int(np.isinf(values).sum())} infinite values"
    if (values < 0).any():
        return f"it has negative values, the lowest {values.min():g}"
    fraction = values[values != np.floor(values)] if values.dtype.kind == "f" else values[:0]
    if fraction.size:
        # Log-transformed expression stays small; normalised expression does not.
        guess = "log-transformed" if values.max() < 20 else "normalised"
        return (
            f"it has {fraction.size} non-integer values, such as {fraction[0]:.4g} (largest {values.max():.4g}): it "
            f"looks {guess}"
        )
    if values.size and values.max() > 2**24:
        return f"its largest value is {values.max():g}, above 2^24, which float32 does not count exactly"
    return None


def _where_counts_are(adata: AnnData, layer: str | None) -> str:
    places = {f"layer={name!r}": matrix for name, matrix in adata.layers.items() if name != layer}
    if layer is not None and adata.X is not None:
        places["layer=None (adata.X)"] = adata.X
    fitting = [place for place, matrix in places.items() if _problem(matrix) is None]
    if fitting:
        return f"This one looks like counts: {fitting[0]}"
    if adata.raw is not None and _problem(adata.raw.X) is None:
        return "adata.raw looks like counts: pass adata.raw.to_adata()"
    return "Pass the raw counts (UMIs or reads), before any normalisation or log"


def _layers(adata: AnnData) -> str:
    return ", ".join(repr(name) for name in adata.layers) or "no layers"
