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

    Where W processes train together, each takes every W-th row of that order: what their minibatches hold together is
    what one process's would at W times the size. No row is given twice, as torch's own DistributedSampler and
    Lightning's do to even the shares out. In training (``shuffle``) the n mod W rows at the end of the epoch's order,
    other ones in each epoch, are left out, so that all processes take as many steps, on minibatches of one size: the
    mean of their gradients is then that of all rows. In validation and prediction every row is given once.

    Parameters
    ----------
    rows
        positions to go through.
    batch_size
        of them in a minibatch of one process.
    seed
        of the order.
    shuffle
        or in the order given.
    blocks
        shuffle in blocks of neighbours, see there; None for all alike.

    Raises
    ------
    ValueError
        For fewer rows than processes.
    """

    # A DistributedSampler is what Lightning leaves as it is; torch's __init__ is what would pad.
    def __init__(self, rows: Tensor, batch_size: int, seed: int, shuffle: bool, blocks: Blocks | None = None) -> None:
        self.rows, self.seed, self.shuffle, self.blocks, self.epoch = rows, seed, shuffle, blocks, 0
        self.rank, self.num_replicas = _place()
        if len(rows) < self.num_replicas:
            raise ValueError(
                f"{len(rows)} {'training' if shuffle else 'held-out'} rows cannot be shared by {self.num_replicas} "
                "processes: train on fewer devices, or hold out another share of the rows"
            )
        self.batch_size = batch_size if shuffle else _even(len(rows), self.num_replicas, batch_size)

    def __len__(self) -> int:
        """Number of minibatches of this process."""
        n, world = len(self.rows), self.num_replicas
        share = n // world if self.shuffle else len(range(self.rank, n, world))
        return -(-share // self.batch_size)

    def order(self) -> Tensor:
        """The rows that all processes go through, in this epoch's order."""
        if not self.shuffle:
            return self.rows
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.blocks is None:
            order = rng.permutation(len(self.rows))
        else:
            order = self.blocks.order(len(self.rows), self.batch_size * self.num_replicas, rng)
        return self.rows[torch.from_numpy(order[: len(order) - len(order) % self.num_replicas])]

    def __iter__(self) -> Iterator[Tensor]:
        """The positions of each minibatch of this process."""
        return iter(self.order()[self.rank :: self.num_replicas].split(self.batch_size))

    def buffers(self) -> Iterator[tuple[Tensor, ...]]:
        """The minibatches of this process, as many together as are read at once."""
        if self.blocks is None:
            raise ValueError("rows in memory are read in no blocks")
        n_together = self.blocks.n_minibatches(self.batch_size * self.num_replicas)
        minibatches = list(self)
        for start in range(0, len(minibatches), n_together):
            yield tuple(minibatches[start : start + n_together])


def _even(n: int, world: int, size: int) -> int:
    """``size``, or the next that gives every one of ``world`` processes as many minibatches of its share of n rows.

    Processes wait for one another in each step, of validation too: with 9 rows, 2 processes and minibatches of 4, one
    would take a step more than the other.
    """
    while n % world and (n // world) % size == 0:
        size += 1
    return size


def _place() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()
