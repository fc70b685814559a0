"""Which rows train and which are held out, and in what order they come."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, distributed
from torch.utils.data import DistributedSampler

from pyro_omics.data.blocks import Blocks


class Split(NamedTuple):
    """Rows of an AnnData by use, as ascending positions, and each row's number (`batch.CellBatch.index`)."""

    training: Tensor
    validation: Tensor
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index

    def rows(self, split: str) -> Tensor:
        """The positions of ``"all"``, ``"training"`` or ``"validation"`` rows."""
        if split == "all":
            return torch.arange(len(self.index))
        if split not in ("training", "validation"):
            raise ValueError(f"split={split!r} is not one of 'all', 'training', 'validation'")
        return self.training if split == "training" else self.validation


def split_rows(n: int, size: float, indices: Sequence[int] | None, seed: int) -> Split:
    """Hold out ``indices``, or a share ``size`` of the n rows drawn with ``seed``.

    Raises
    ------
    ValueError
        Where nothing would be left to train on, or positions are not rows.
    """
    if indices is None:
        if not 0 <= size < 1:
            raise ValueError(f"validation_size is a share of the cells, in [0, 1), and is {size}")
        held_out = np.random.default_rng(seed).permutation(n)[: int(n * size)]
        if size and not len(held_out):
            warnings.warn(f"validation_size={size} of {n} cells holds out none", UserWarning, stacklevel=3)
    else:
        held_out = _checked(np.asarray(indices), n)
    mask = np.zeros(n, dtype=bool)
    mask[held_out] = True
    training, validation = np.flatnonzero(~mask), np.flatnonzero(mask)
    if not len(training):
        raise ValueError(f"validation_indices holds out all {n} cells, and none is left to train on: name fewer")
    index = np.empty(n, dtype=np.int64)
    index[training] = np.arange(len(training))
    index[validation] = np.arange(len(training), n)
    return Split(torch.from_numpy(training), torch.from_numpy(validation), torch.from_numpy(index))


def hold_out_all(n: int, n_obs: int) -> Split:
    """All n rows held out, for a model that was trained on n_obs others."""
    rows = torch.arange(n)
    return Split(training=rows[:0], validation=rows, index=rows + n_obs)


def _checked(held_out: np.ndarray, n: int) -> np.ndarray:
    if held_out.size and held_out.dtype.kind not in "iu":
        raise ValueError(
            f"validation_indices must be integer positions of cells, and are {held_out.dtype}: np.flatnonzero(mask) "
            "makes them of booleans"
        )
    held_out = held_out.astype(np.int64)
    if held_out.size and (held_out.min() < 0 or held_out.max() >= n):
        raise ValueError(f"validation_indices must lie in 0 .. {n - 1}, and reach {held_out.min()} .. {held_out.max()}")
    if len(np.unique(held_out)) != len(held_out):
        raise ValueError("validation_indices names a cell more than once")
    return held_out


class EpochSampler(DistributedSampler[Any]):
    """Minibatches of rows, in an order that depends on (seed, epoch) alone, so that a resumed epoch is the same epoch.

    With several processes, each takes its share of every ``batch_size`` times so many rows, and no row is taken twice;
    where fewer rows than processes are left at the end of a shuffled epoch, they are left out. (As a
    ``DistributedSampler``, it is left as it is by Lightning, which would deal out minibatches that differ in size.)

    Parameters
    ----------
    rows
        positions to go through.
    batch_size
        of them in a minibatch.
    seed
        of the order.
    shuffle
        or in the order given.
    blocks
        shuffle in blocks of neighbours, see there; None for all alike.
    """

    def __init__(self, rows: Tensor, batch_size: int, seed: int, shuffle: bool, blocks: Blocks | None = None) -> None:
        self.rows, self.batch_size, self.seed, self.shuffle, self.blocks = rows, batch_size, seed, shuffle, blocks
        self.epoch = 0

    def __len__(self) -> int:
        """Number of minibatches of this process."""
        rank, n_processes = _place()
        whole, rest = divmod(len(self.rows), self.batch_size * n_processes)
        return whole + (rest >= n_processes if self.shuffle else rest > rank)

    def order(self) -> Tensor:
        """All rows, in this epoch's order."""
        if not self.shuffle:
            return self.rows
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.blocks is None:
            order = rng.permutation(len(self.rows))
        else:
            order = self.blocks.order(len(self.rows), self.batch_size * _place()[1], rng)
        return self.rows[torch.from_numpy(order)]

    def __iter__(self) -> Iterator[Tensor]:
        """The positions of each minibatch of this process."""
        rank, n_processes = _place()
        together = self.order().split(self.batch_size * n_processes)
        return iter([rows[rank::n_processes] for rows in together][: len(self)])

    def buffers(self) -> Iterator[tuple[Tensor, ...]]:
        """The minibatches of this process, as many together as are read at once."""
        if self.blocks is None:
            raise ValueError("rows in memory are read in no blocks")
        n_together = self.blocks.n_minibatches(self.batch_size * _place()[1])
        minibatches = list(self)
        for start in range(0, len(minibatches), n_together):
            yield tuple(minibatches[start : start + n_together])


def _place() -> tuple[int, int]:
    """The rank of this process, and the number of processes."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1
