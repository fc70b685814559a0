"""Count matrices in memory or on a device, which give dense minibatches."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from pyro_omics.data.matrices.row_codes import codes_of, weighted_sums
from pyro_omics.kernels.dense_rows import dense_rows

CHUNK_ROWS = 4096  # number of rows that are hashed, or summed, at once


class CountMatrix:
    """Counts (n, g) in compressed rows in memory.

    Parameters
    ----------
    matrix
        (n, g) non-negative integers: any SciPy sparse format, or dense.
    """

    def __init__(self, matrix: Any) -> None:
        self.csr = canonical(matrix)
        self.shape: tuple[int, int] = self.csr.shape

    def rows(self, index: Tensor) -> Tensor:
        """The rows ``index`` as a dense (len(index), g) float tensor."""
        return dense_rows(index, self.csr.indptr, self.csr.indices, self.csr.data, self.shape[1])

    @functools.cached_property
    def totals(self) -> Tensor:
        """Each row's sum (n,), in double precision."""
        ones = np.ones(self.shape[1])
        chunks = (self.csr[start : start + CHUNK_ROWS] for start in chunk_starts(self.shape[0]))
        parts = [chunk.astype(np.float64) @ ones for chunk in chunks]
        return torch.from_numpy(np.concatenate([np.empty(0), *parts]))

    def column_sums(self, rows: Tensor) -> Tensor:
        """Each column's sum (g,) over ``rows``, in double precision."""
        part = self.csr[rows.numpy()]
        return torch.from_numpy(np.bincount(part.indices, weights=part.data, minlength=self.shape[1]).astype(float))

    @functools.cached_property
    def digest(self) -> str:
        """Hash of the counts."""
        return digest_of(self.csr[start : start + CHUNK_ROWS] for start in chunk_starts(self.shape[0]))

    def codes(self, rows: Tensor) -> np.ndarray:
        """The code of each of ``rows``, see `row_codes`."""
        parts = [weighted_sums(self.csr[part.numpy()]) for part in rows.split(CHUNK_ROWS)]
        return codes_of(np.concatenate([np.empty(0), *parts]))

    @property
    def n_bytes(self) -> int:
        """Size of the compressed rows, in bytes."""
        return sum(part.nbytes for part in (self.csr.data, self.csr.indices, self.csr.indptr))

    def to_device(self, device: torch.device, max_bytes: int) -> DenseOnDevice | RowsOnDevice | None:
        """A copy on a device: dense if that needs at most ``max_bytes``, else compressed if that does, else None."""
        if 4 * self.shape[0] * self.shape[1] <= max_bytes:
            return DenseOnDevice(self, device)
        return RowsOnDevice(self, device) if self.n_bytes <= max_bytes else None


class DenseOnDevice:
    """All counts (n, g), dense on a device: indexing a minibatch does not wait for the device.

    Parameters
    ----------
    matrix
        the counts.
    device
        the device.
    """

    CHUNK = 4096  # number of rows that are dense on the host at once

    def __init__(self, matrix: CountMatrix, device: torch.device) -> None:
        self.shape = matrix.shape
        self.values = torch.empty(self.shape, device=device)
        for rows in torch.arange(self.shape[0]).split(self.CHUNK):
            self.values[int(rows[0]) : int(rows[-1]) + 1] = matrix.rows(rows).to(device)
        self.n_bytes = self.values.nbytes

    def rows(self, index: Tensor) -> Tensor:
        """The rows ``index``, which may be on the host, as a dense (len(index), g) float tensor on the device."""
        return self.values[index.to(self.values.device, non_blocking=True)]


class RowsOnDevice:
    """All counts (n, g) in compressed rows on a device, where minibatches are made dense.

    Parameters
    ----------
    matrix
        the counts.
    device
        the device.
    """

    def __init__(self, matrix: CountMatrix, device: torch.device) -> None:
        self.shape = matrix.shape
        # On the host, where lengths are known without waiting for the device.
        self.indptr = torch.from_numpy(matrix.csr.indptr.astype(np.int64))
        self.start = self.indptr.to(device)
        self.indices = torch.from_numpy(matrix.csr.indices).to(device)
        self.values = torch.from_numpy(matrix.csr.data).to(device)
        self.n_bytes = matrix.n_bytes

    def rows(self, index: Tensor) -> Tensor:
        """The rows ``index``, on the host, as a dense (len(index), g) float tensor on the device."""
        n, g = len(index), self.shape[1]
        stored_here = int((self.indptr[index + 1] - self.indptr[index]).sum())
        device = self.values.device
        at = index.to(device, non_blocking=True)
        start = self.start[at]
        length = self.start[at + 1] - start
        # The place of a stored value in the matrix: its number in the minibatch, shifted by where its row starts in the
        # matrix less where it starts in the minibatch.
        shift = torch.repeat_interleave(start - (length.cumsum(0) - length), length, output_size=stored_here)
        place = shift + torch.arange(stored_here, device=device)
        first = torch.arange(0, n * g, g, device=device)
        position = torch.repeat_interleave(first, length, output_size=stored_here) + self.indices[place]
        return torch.zeros(n * g, device=device).index_copy_(0, position, self.values[place]).view(n, g)


def canonical(matrix: Any) -> sp.csr_matrix:
    """Compressed float32 rows with ascending, distinct columns and no stored zeros, without a copy if possible.

    Pointers and columns are not checked here, but where a matrix comes in (`containers.in_memory`, `disk.MatrixFile`).
    """
    csr = sp.csr_matrix(matrix)
    if not csr.has_canonical_format:
        # A copy, since the arrays are the AnnData's; in double precision, since sums of small integers would overflow.
        csr = sp.csr_matrix((csr.data.astype(np.float64), csr.indices.copy(), csr.indptr.copy()), shape=csr.shape)
        csr.sum_duplicates()
    if not csr.data.all():
        csr = csr.copy()
        csr.eliminate_zeros()
    parts = (csr.data.astype(np.float32, copy=False), csr.indices, csr.indptr)
    shared = sp.csr_matrix(parts, shape=csr.shape)  # SciPy uses 32-bit indices where they suffice
    shared.has_canonical_format = True
    return shared


def digest_of(chunks: Iterable[sp.csr_matrix]) -> str:
    """Hash of `canonical` rows, given in chunks of `CHUNK_ROWS` rows."""
    code = hashlib.sha256()
    for chunk in chunks:
        code.update(np.diff(chunk.indptr).astype(np.int64).tobytes())
        code.update(chunk.indices.astype(np.int32).tobytes())
        code.update(chunk.data.tobytes())
    return code.hexdigest()


def chunk_starts(n: int) -> range:
    """First row of each chunk of `CHUNK_ROWS` rows."""
    return range(0, n, CHUNK_ROWS)
