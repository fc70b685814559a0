"""Counts that stay on disk: a .h5ad file or a .zarr store, of which rows are read as they are asked for."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp
import torch
import zarr
from anndata.io import sparse_dataset
from torch import Tensor

from pyro_omics.data.blocks import Blocks
from pyro_omics.data.matrices.count_checks import PIECE, CountSummary
from pyro_omics.data.matrices.memory import HASHED, CountMatrix, canonical, digest_of, starts

GAP = 32  # rows that are read and left out rather than begin another read


class Array:
    """An array in a file, opened for reading in each process that asks for it.

    Parameters
    ----------
    array
        of h5py or zarr.
    """

    def __init__(self, array: Any) -> None:
        self.hdf5 = isinstance(array, h5py.Dataset)
        self.place = (os.path.abspath(array.file.filename), array.name) if self.hdf5 else _at_home(array)
        self._open: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """An open file is not sent to another process."""
        return {**self.__dict__, "_open": None}

    def __getitem__(self, at: slice) -> np.ndarray:
        """The entries (or rows) at a slice."""
        if not self.hdf5:
            return np.asarray(self.place[at])
        if self._open is None or self._open[0] != os.getpid():
            path, name = self.place
            self._open = (os.getpid(), h5py.File(path, "r")[name])
        return self._open[1][at]


def _at_home(array: Any) -> Any:
    """An array of zarr whose folder is found from wherever the process goes."""
    root = getattr(array.store, "root", None)
    if not isinstance(root, Path) or root.is_absolute():
        return array
    return zarr.open_array(root.absolute() / array.path, mode="r")


class Source:
    """A matrix (n, g) on disk, in compressed rows or dense.

    Parameters
    ----------
    node
        group or array of h5py or zarr.
    name
        what a user calls it.

    Raises
    ------
    ValueError
        Where it is in compressed columns.
    """

    def __init__(self, node: Any, name: str) -> None:
        self.indptr: np.ndarray | None = None
        if hasattr(node, "dtype"):
            self.data = Array(node)
            self.shape: tuple[int, int] = tuple(node.shape)
            return
        dataset = sparse_dataset(node)
        if dataset.format != "csr":
            raise ValueError(
                f"{name} is stored by columns (CSC) on disk, of which rows cannot be read: write it by rows once, "
                "adata.X = adata.X.tocsr(); adata.write_h5ad(path), or read it into memory (backed=False)"
            )
        self.shape = tuple(dataset.shape)
        self.data, self.indices = Array(node["data"]), Array(node["indices"])
        self.indptr = np.asarray(node["indptr"][:]).astype(np.int64)

    def read(self, first: int, end: int) -> sp.csr_matrix:
        """The rows first .. end - 1, as they are stored."""
        if self.indptr is None:
            return sp.csr_matrix(self.data[first:end])
        at = slice(int(self.indptr[first]), int(self.indptr[end]))
        parts = (self.data[at], self.indices[at], self.indptr[first : end + 1] - at.start)
        return sp.csr_matrix(parts, shape=(end - first, self.shape[1]))

    def values(self, first: int, end: int) -> np.ndarray:
        """The values that are stored of these rows."""
        if self.indptr is None:
            return self.data[first:end]
        return self.data[int(self.indptr[first]) : int(self.indptr[end])]

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Ranges of rows that hold about `count_checks.PIECE` stored values, or one row."""
        stored = np.arange(self.shape[0] + 1) * self.shape[1] if self.indptr is None else self.indptr
        first = 0
        while first < self.shape[0]:
            end = int(np.searchsorted(stored, stored[first] + PIECE, side="right")) - 1
            end = min(max(first + 1, end), first + Blocks.longest)
            yield first, end
            first = end

    def look(self) -> CountSummary:
        """What the first piece's values are."""
        for piece in self.pieces():
            return CountSummary().add(self.values(*piece))
        return CountSummary()

    def survey(self, columns: np.ndarray | None) -> tuple[CountSummary, Tensor]:
        """What all values are, and each row's sum over ``columns`` (n,): the file is read once, in pieces."""
        keep = np.ones(self.shape[1])
        if columns is not None:
            keep[:] = 0
            keep[columns] = 1
        summary, totals = CountSummary(), np.empty(self.shape[0])
        for first, end in self.pieces():
            piece = self.read(first, end)
            summary.add(piece.data)
            if piece.data.dtype.kind in "biuf":
                totals[first:end] = piece.astype(np.float64) @ keep
        return summary, torch.from_numpy(totals)


class StoredMatrix:
    """Counts (n, g) on disk, with the interface of `memory.CountMatrix`: nothing is kept in memory.

    Parameters
    ----------
    source
        the matrix.
    columns
        positions of the g columns, in their order; None for all.
    totals
        each row's sum over them, if it is known.
    """

    def __init__(self, source: Source, columns: np.ndarray | None = None, totals: Tensor | None = None) -> None:
        self.source, self.columns = source, columns
        self.shape = (source.shape[0], source.shape[1] if columns is None else len(columns))
        if totals is not None:
            self.__dict__["totals"] = totals

    def rows(self, index: Tensor) -> Tensor:
        """The rows ``index`` as a dense (len(index), g) float tensor."""
        csr, at = self.read(index)
        return CountMatrix(csr).rows(at)

    def read(self, index: Tensor) -> tuple[sp.csr_matrix, Tensor]:
        """Compressed rows in memory, in the file's order, that have the rows ``index`` among them, and where.

        Raises
        ------
        RuntimeError
            Where rows do not sum to their ``totals``: zarr reads zeros where a store is gone.
        """
        wanted = index.numpy()
        found, parts = [], []
        for rows in _runs(np.unique(wanted)):
            first, end = int(rows[0]), int(rows[-1]) + 1
            part = self.source.read(first, end)
            if 2 * len(rows) < end - first:
                part = part[rows - first]
            else:
                rows = np.arange(first, end)
            found.append(rows)
            parts.append(part)
        if not parts:
            return sp.csr_matrix((0, self.shape[1]), dtype=np.float32), index
        joined = sp.vstack(parts, format="csr")
        parts.clear()  # no more than twice the rows are in memory at once
        rows = np.concatenate(found)
        csr = canonical(joined if self.columns is None else joined[:, self.columns])
        known = self.__dict__.get("totals")
        if known is not None and not np.array_equal(csr @ np.ones(self.shape[1]), known.numpy()[rows]):
            raise RuntimeError(
                "counts on disk are not what they were when the DataModule was made: the file or store was moved, "
                "removed or written to since; make the DataModule anew"
            )
        return csr, torch.from_numpy(np.searchsorted(rows, wanted))

    @functools.cached_property
    def totals(self) -> Tensor:
        """Each row's sum (n,), in double precision."""
        return self.source.survey(self.columns)[1]

    @functools.cached_property
    def digest(self) -> str:
        """A hash of the counts, the same as in memory."""
        n = self.shape[0]
        return digest_of(self.read(torch.arange(start, min(start + HASHED, n)))[0] for start in starts(n))


def _runs(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Ascending rows, cut where many lie between two, and such that none spans more than `Blocks.longest`."""
    for near in np.split(rows, np.flatnonzero(np.diff(rows) > GAP) + 1):
        while len(near):
            n = int(np.searchsorted(near, near[0] + Blocks.longest))
            yield near[:n]
            near = near[n:]
