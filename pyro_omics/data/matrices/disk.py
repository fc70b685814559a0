"""Counts in a .h5ad file or a .zarr store, whose rows are read when they are needed."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
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
from pyro_omics.data.matrices.containers import MEND, check_chunks, check_indices, check_pointers, native
from pyro_omics.data.matrices.count_checks import CHUNK, CountSummary
from pyro_omics.data.matrices.memory import CHUNK_ROWS, CountMatrix, canonical, chunk_starts, digest_of
from pyro_omics.data.matrices.row_codes import codes_of, column_weights, weighted_sums

GAP = 32  # up to so many unwanted rows are read and dropped rather than start another read


class ArrayFile:
    """An array in a file, opened for reading once in each process.

    Parameters
    ----------
    array
        array of h5py or zarr.
    """

    def __init__(self, array: Any) -> None:
        self.hdf5 = isinstance(array, h5py.Dataset)
        self.place = (os.path.abspath(array.file.filename), array.name) if self.hdf5 else _with_absolute_path(array)
        self._open: tuple[int, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open file, which cannot be sent to another process."""
        return {**self.__dict__, "_open": None}

    def __getitem__(self, at: slice) -> np.ndarray:
        """The entries, or rows, of a slice."""
        if not self.hdf5:
            return np.asarray(self.place[at])
        if self._open is None or self._open[0] != os.getpid():
            path, name = self.place
            self._open = (os.getpid(), h5py.File(path, "r")[name])
        return self._open[1][at]


def _with_absolute_path(array: Any) -> Any:
    """The zarr array opened by its absolute path, which stays valid when the working directory changes."""
    root = getattr(array.store, "root", None)
    if not isinstance(root, Path) or root.is_absolute():
        return array
    return zarr.open_array(root.absolute() / array.path, mode="r")


class MatrixFile:
    """A matrix (n, g) in a file, in compressed rows or dense.

    Parameters
    ----------
    node
        group or array of h5py or zarr.
    name
        name of the matrix, for errors.

    Raises
    ------
    ValueError
        If it is in compressed columns, or its row pointers are not right. Columns are checked when rows are read.
    """

    def __init__(self, node: Any, name: str) -> None:
        self.indptr: np.ndarray | None = None
        self.name = f"{name} of {_file_of(node)!r}"
        if hasattr(node, "dtype"):
            self.data, self.dtype = ArrayFile(node), np.dtype(node.dtype)
            self.shape: tuple[int, int] = tuple(node.shape)
            return
        try:
            dataset = sparse_dataset(node)
            shape, parts = tuple(dataset.shape), [node[part] for part in ("data", "indices", "indptr")]
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{self.name} is no matrix of anndata ({error!r}): {MEND}") from error
        if any(len(part.shape) != 1 for part in parts):
            raise ValueError(f"{self.name}: its data, indices and indptr must have one dimension: {MEND}")
        by_rows = dataset.format == "csr"
        indptr = self._try(lambda: np.asarray(parts[2][:]), "its pointers")
        lines, line = (shape[0], "row") if by_rows else (shape[1], "column")
        check_pointers(indptr, lines, (parts[0].shape[0], parts[1].shape[0]), self.name, line)
        if not by_rows:
            raise ValueError(
                f"{name} must be stored by rows (CSR) or dense to stay on disk; got columns (CSC): write it by rows, "
                "adata.X = adata.X.tocsr(); adata.write_h5ad(path), or read it into memory (backed=False)"
            )
        self.shape, self.dtype = shape, np.dtype(parts[0].dtype)
        self.data, self.indices = ArrayFile(parts[0]), ArrayFile(parts[1])
        self.indptr = indptr.astype(np.int64)
        check_chunks(node, self.name)

    def read(self, first: int, end: int) -> sp.csr_matrix:
        """The rows first .. end - 1, with all columns.

        Raises
        ------
        ValueError
            If columns are out of range, or the file cannot be read there.
        """
        if self.indptr is None:
            return sp.csr_matrix(self.values(first, end))
        at = slice(int(self.indptr[first]), int(self.indptr[end]))
        indptr = self.indptr[first : end + 1] - at.start
        indices = self._try(lambda: self.indices[at], f"the columns of its rows {first} to {end - 1}")
        if indices.dtype.kind not in "iu":
            raise ValueError(f"{self.name}: its columns must be whole numbers; got {indices.dtype}: {MEND}")
        check_indices(indices, indptr, self.shape[1], self.name, first=first)
        return sp.csr_matrix((self.values(first, end), indices, indptr), shape=(end - first, self.shape[1]))

    def values(self, first: int, end: int) -> np.ndarray:
        """The stored values of the rows first .. end - 1."""
        at = slice(first, end)
        if self.indptr is not None:
            at = slice(int(self.indptr[first]), int(self.indptr[end]))
        return native(self._try(lambda: self.data[at], f"the values of its rows {first} to {end - 1}"), self.name)

    def _try(self, read: Callable[[], np.ndarray], what: str) -> np.ndarray:
        """Read a part of the file; h5py and zarr raise errors of many kinds where it is cut short."""
        try:
            return read()
        except Exception as error:
            raise ValueError(f"{self.name}: {what} cannot be read ({error}): {MEND}") from error

    def row_ranges(self) -> Iterator[tuple[int, int]]:
        """Ranges (first, end) of rows with at most `count_checks.CHUNK` stored values, or of one row."""
        stored = np.arange(self.shape[0] + 1) * self.shape[1] if self.indptr is None else self.indptr
        first = 0
        while first < self.shape[0]:
            end = int(np.searchsorted(stored, stored[first] + CHUNK, side="right")) - 1
            end = min(max(first + 1, end), first + Blocks.longest)
            yield first, end
            first = end

    def first_summary(self) -> CountSummary:
        """Summary of the values in the first range of rows."""
        for rows in self.row_ranges():
            return CountSummary().add(self.values(*rows))
        return CountSummary()

    def summarize(self, columns: np.ndarray | None) -> tuple[CountSummary, Tensor]:
        """Summary of all values, and each row's sums (n, 2) over ``columns``, in one pass over the file.

        The first sum is that of the counts, the second that of `row_codes`.
        """
        at = np.arange(self.shape[1]) if columns is None else columns
        keep = np.zeros((self.shape[1], 2))
        keep[at, 0], keep[at, 1] = 1.0, column_weights(len(at))
        summary, sums = CountSummary().add(np.empty(0, self.dtype)), np.empty((self.shape[0], 2))
        for first, end in self.row_ranges() if self.dtype.kind in "biuf" else ():
            rows = self.read(first, end)
            summary.add(rows.data)
            sums[first:end] = rows.astype(np.float64) @ keep
        return summary, torch.from_numpy(sums)


def _file_of(node: Any) -> str:
    """The path of the file or store that a node is in."""
    if hasattr(node, "file"):  # h5py
        return str(node.file.filename)
    return str(getattr(node.store, "root", getattr(node.store, "path", node.store)))


class StoredMatrix:
    """Counts (n, g) on disk, with the interface of `memory.CountMatrix`.

    Parameters
    ----------
    source
        the matrix in its file.
    columns
        positions of the g columns, in their order; None for all.
    sums
        (n, 2) sums of each row over these columns, of `MatrixFile.summarize`, if known.
    """

    def __init__(self, source: MatrixFile, columns: np.ndarray | None = None, sums: Tensor | None = None) -> None:
        self.source, self.columns = source, columns
        self.shape = (source.shape[0], source.shape[1] if columns is None else len(columns))
        if sums is not None:
            self.__dict__["sums"] = sums

    def rows(self, index: Tensor) -> Tensor:
        """The rows ``index`` as a dense (len(index), g) float tensor."""
        csr, at = self.read(index)
        return CountMatrix(csr).rows(at)

    def read(self, index: Tensor) -> tuple[sp.csr_matrix, Tensor]:
        """Read the rows ``index``, and unwanted rows between them where one read is faster than two.

        Returns
        -------
        Compressed rows in the file's order, and the position in them of each row of ``index``.

        Raises
        ------
        RuntimeError
            If rows do not sum to their ``totals``; zarr reads zeros from a store that was removed.
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
        parts.clear()  # so that at most two copies of the rows are in memory
        rows = np.concatenate(found)
        csr = canonical(joined if self.columns is None else joined[:, self.columns])
        known = self.__dict__.get("sums")
        if known is not None and not np.array_equal(csr @ np.ones(self.shape[1]), known[:, 0].numpy()[rows]):
            raise RuntimeError(
                "counts on disk have changed since the DataModule was made: the file or store was moved, removed or "
                "written to; make the DataModule again"
            )
        return csr, torch.from_numpy(np.searchsorted(rows, wanted))

    @functools.cached_property
    def sums(self) -> Tensor:
        """Each row's sums (n, 2), of `MatrixFile.summarize`."""
        return self.source.summarize(self.columns)[1]

    @property
    def totals(self) -> Tensor:
        """Each row's sum (n,), in double precision."""
        return self.sums[:, 0]

    def codes(self, rows: Tensor) -> np.ndarray:
        """The code of each of ``rows``, see `row_codes`; rows are read only where their sums are not known."""
        if "sums" in self.__dict__:
            return codes_of(self.sums[rows, 1].numpy())
        parts = []
        for part in rows.split(CHUNK_ROWS):
            csr, at = self.read(part)
            parts.append(weighted_sums(csr)[at.numpy()])
        return codes_of(np.concatenate([np.empty(0), *parts]))

    @functools.cached_property
    def digest(self) -> str:
        """Hash of the counts, the same as in memory."""
        n = self.shape[0]
        return digest_of(self.read(torch.arange(start, min(start + CHUNK_ROWS, n)))[0] for start in chunk_starts(n))


def _runs(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Ascending rows, cut into runs with no gap above `GAP` that span at most `Blocks.longest` rows."""
    for near in np.split(rows, np.flatnonzero(np.diff(rows) > GAP) + 1):
        while len(near):
            n = int(np.searchsorted(near, near[0] + Blocks.longest))
            yield near[:n]
            near = near[n:]
