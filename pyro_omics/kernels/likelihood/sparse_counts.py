"""A matrix of counts for kernels: all entries, and the non-zero ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_omics.kernels import nonzero

BLOCK = 2**17  # entries of a block: what some ten operations read and write fits into a core's cache


class Block(NamedTuple):
    """Some rows of the matrix.

    Attributes
    ----------
    rows
        their positions in the matrix.
    nonzero
        which of all non-zero counts lie in them.
    position
        positions of these counts in the flattened block.
    """

    rows: slice
    nonzero: slice
    position: Tensor

    def rows_of(self, parameter: Tensor) -> Tensor:
        """The block's rows of a parameter (n, g); a parameter (g,), which all rows share, is returned whole."""
        return parameter if parameter.ndim == 1 else parameter[self.rows]

    def write_nonzero(self, matrix: Tensor, values: Tensor) -> Tensor:
        """Write the block's entries of ``values`` (nnz,) at the non-zero counts of its contiguous ``matrix``."""
        matrix.view(-1).scatter_(0, self.position, values[self.nonzero])
        return matrix


class Counts:
    """Counts ``value`` broadcast to ``shape``, with all leading dimensions flattened into one, (n, g).

    Parameters
    ----------
    value
        (..., g).
    shape
        shape of the distribution's entries.
    """

    def __init__(self, value: Tensor, shape: torch.Size) -> None:
        start = next((i for i, size in enumerate(value.shape) if size > 1), value.ndim - 1)
        tail = value.shape[start:]
        if tail != shape[len(shape) - len(tail) :]:
            value, tail = value.expand(shape).contiguous(), shape
        self.value, self.shape = value, shape
        self.repeats = math.prod(shape[: len(shape) - len(tail)])  # several particles share the same counts

    @cached_property
    def matrix(self) -> Tensor:
        """All counts (n, g)."""
        return self.value.expand(self.shape).reshape(-1, self.shape[-1])

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.shape[:-1].numel()

    @property
    def distinct(self) -> Tensor:
        """The counts (m, g) before they are repeated: row i of the matrix is row i % m of these."""
        return self.value.reshape(-1, self.shape[-1])

    @cached_property
    def _distinct_position(self) -> Tensor:
        return nonzero.positions(self.value)

    @cached_property
    def x(self) -> Tensor:
        """The counts that are not zero (nnz,)."""
        return self.value.flatten().index_select(0, self._distinct_position).repeat(self.repeats)

    @cached_property
    def position(self) -> Tensor:
        """Positions of the non-zero counts in the flattened matrix (nnz,)."""
        if self.repeats == 1:
            return self._distinct_position
        starts = torch.arange(self.repeats, device=self._distinct_position.device) * self.value.numel()
        return (starts.unsqueeze(-1) + self._distinct_position).flatten()

    @cached_property
    def column(self) -> Tensor:
        """Columns of the non-zero counts (nnz,)."""
        return (self._distinct_position % self.shape[-1]).repeat(self.repeats)

    def at_nonzero(self, parameter: Tensor) -> Tensor:
        """Entries (nnz,) of a parameter, (n, g) or (g,), at the non-zero counts."""
        if parameter.ndim == 1:
            return parameter.index_select(0, self.column)
        return parameter.flatten().index_select(0, self.position)

    def blocks(self) -> Iterator[Block]:
        """Blocks of rows that fit into a core's cache; all rows at once on a GPU, or where there are few."""
        n, columns = self.n_rows, self.shape[-1]
        step = max(1, BLOCK // columns) if self.value.device.type == "cpu" else n
        if step >= n:
            yield Block(slice(None), slice(None), self.position)
            return
        starts = torch.arange(0, n, step)
        bounds = torch.searchsorted(self.position, starts * columns).tolist()
        for start, low, high in zip(starts.tolist(), bounds, [*bounds[1:], None], strict=True):
            yield Block(slice(start, start + step), slice(low, high), self.position[low:high] - start * columns)
