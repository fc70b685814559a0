"""A matrix of counts as kernels in torch operations see it: all entries, and the non-zero ones."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from pyro_omics.kernels import nonzero

BLOCK = 2**17  # entries: some ten operations on so many stay in a core's cache


class Block(NamedTuple):
    """Some rows of the matrix, which of all non-zero counts are theirs, and the positions of these in the block."""

    rows: slice
    nonzero: slice
    position: Tensor

    def of(self, parameter: Tensor) -> Tensor:
        """The block's rows of a parameter (n, g), or the whole of one that all rows share (g,)."""
        return parameter if parameter.ndim == 1 else parameter[self.rows]

    def put(self, matrix: Tensor, values: Tensor) -> Tensor:
        """The block's contiguous ``matrix``, with its entries of ``values`` (nnz,) written at the non-zero counts."""
        matrix.view(-1).scatter_(0, self.position, values[self.nonzero])
        return matrix


class Counts:
    """The counts of ``value``, broadcast to ``shape`` and with all leading dimensions as one, (n, g).

    Parameters
    ----------
    value
        (..., g).
    shape
        the shape of the distribution's entries.
    """

    def __init__(self, value: Tensor, shape: torch.Size) -> None:
        ndim = next((i for i, size in enumerate(value.shape) if size > 1), value.ndim - 1)
        own = value.shape[ndim:]
        if own != shape[len(shape) - len(own) :]:
            value, own = value.expand(shape).contiguous(), shape
        self.value, self.shape = value, shape
        self.repeats = math.prod(shape[: len(shape) - len(own)])  # particles see the same counts

    @cached_property
    def matrix(self) -> Tensor:
        """All counts (n, g)."""
        return self.value.expand(self.shape).reshape(-1, self.shape[-1])

    @property
    def n_rows(self) -> int:
        """How many rows there are."""
        return self.shape[:-1].numel()

    @property
    def own(self) -> Tensor:
        """The counts (m, g) before they were repeated: row i of all is row i % m of these."""
        return self.value.reshape(-1, self.shape[-1])

    @cached_property
    def _own(self) -> Tensor:
        return nonzero.positions(self.value)

    @cached_property
    def x(self) -> Tensor:
        """The counts that are not zero (nnz,)."""
        return self.value.flatten().index_select(0, self._own).repeat(self.repeats)

    @cached_property
    def position(self) -> Tensor:
        """Their positions in the flattened matrix (nnz,)."""
        if self.repeats == 1:
            return self._own
        starts = torch.arange(self.repeats, device=self._own.device) * self.value.numel()
        return (starts.unsqueeze(-1) + self._own).flatten()

    @cached_property
    def column(self) -> Tensor:
        """Their columns (nnz,)."""
        return (self._own % self.shape[-1]).repeat(self.repeats)

    def of(self, parameter: Tensor) -> Tensor:
        """A parameter's entries at them, of an (n, g) matrix or of (g,) columns."""
        if parameter.ndim == 1:
            return parameter.index_select(0, self.column)
        return parameter.flatten().index_select(0, self.position)

    def blocks(self) -> Iterator[Block]:
        """Blocks of rows that fit into a core's cache; on a GPU, or of few rows, all rows at once."""
        n, columns = self.n_rows, self.shape[-1]
        step = max(1, BLOCK // columns) if self.value.device.type == "cpu" else n
        if step >= n:
            yield Block(slice(None), slice(None), self.position)
            return
        starts = torch.arange(0, n, step)
        bounds = torch.searchsorted(self.position, starts * columns).tolist()
        for start, low, high in zip(starts.tolist(), bounds, [*bounds[1:], None], strict=True):
            yield Block(slice(start, start + step), slice(low, high), self.position[low:high] - start * columns)
