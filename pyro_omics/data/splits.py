"""Training and held-out rows, and the order of minibatches in an epoch."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, distributed
from torch.utils.data import DistributedSampler, SequentialSampler

from pyro_omics.data.blocks import Blocks


class Split(NamedTuple):
    """Ascending positions of the training and held-out rows of an AnnData, and each row's `batch.CellBatch.index`."""

    training: Tensor
    validation: Tensor
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index

    def rows(self, split: str) -> Tensor:
        """Positions of the ``"all"``, ``"training"`` or ``"validation"`` rows."""
        if split == "all":
            return torch.arange(len(self.index))
        if split not in ("training", "validation"):
            raise ValueError(f"split must be 'all', 'training' or 'validation'; got {split!r}")
        return self.training if split == "training" else self.validation


def split_rows(n: int, size: float, indices: Iterable[int] | None, seed: int) -> Split:
    """Hold out the rows ``indices``, in any container, or a share ``size`` of the n rows, drawn with ``seed``.

    Raises
    ------
    ValueError
        If no row would be left to train on, or indices are not distinct positions of rows.

    Warns
    -----
    UserWarning
        If a share above 0 holds out no row.
    """
    if indices is None:
        if not isinstance(size, Real) or not 0 <= size < 1:
            raise ValueError(f"validation_size must be a share of the rows, in [0, 1); got {size!r}")
        held_out = np.random.default_rng(seed).permutation(n)[: int(n * size)]
        if size and not len(held_out):
            message = f"validation_size={size} holds out none of {n} rows: pass a larger share, or 0"
            warnings.warn(message, UserWarning, stacklevel=3)
    else:
        held_out = _checked_positions(_array(indices), n)
    mask = np.zeros(n, dtype=bool)
    mask[held_out] = True
    training, validation = np.flatnonzero(~mask), np.flatnonzero(mask)
    if not len(training):
        raise ValueError(f"validation_indices must leave rows to train on; got all {n} rows: pass fewer")
    index = np.empty(n, dtype=np.int64)
    index[training] = np.arange(len(training))
    index[validation] = np.arange(len(training), n)
    return Split(torch.from_numpy(training), torch.from_numpy(validation), torch.from_numpy(index))


def hold_out_all(n: int, n_obs: int) -> Split:
    """All n rows held out, for a model that was trained on ``n_obs`` other rows."""
    rows = torch.arange(n)
    return Split(training=rows[:0], validation=rows, index=rows + n_obs)


def _array(indices: Any) -> np.ndarray:
    """Positions as an array, from a list, set, array (also of pandas or pyarrow) or generator."""
    if isinstance(indices, str) or not hasattr(indices, "__iter__"):
        raise ValueError(f"validation_indices must be integer positions of rows; got {indices!r}: pass a list")
    if hasattr(indices, "to_pylist"):
        indices = indices.to_pylist()
    return np.asarray(indices if hasattr(indices, "__array__") else list(indices))


def _checked_positions(held_out: np.ndarray, n: int) -> np.ndarray:
    if held_out.dtype == object and held_out.size and pd.api.types.infer_dtype(held_out, skipna=False) == "integer":
        held_out = held_out.astype(np.int64)  # pandas' nullable integers
    if held_out.ndim != 1:
        raise ValueError(f"validation_indices must be a list of positions; got the shape {held_out.shape}")
    if held_out.size and held_out.dtype.kind not in "iu":
        raise ValueError(
            f"validation_indices must be integer positions of rows; got {held_out.dtype}: of a boolean mask pass "
            "np.flatnonzero(mask)"
        )
    held_out = held_out.astype(np.int64)
    if held_out.size and (held_out.min() < 0 or held_out.max() >= n):
        raise ValueError(f"validation_indices must lie in 0 .. {n - 1}; got {held_out.min()} .. {held_out.max()}")
    if len(np.unique(held_out)) != len(held_out):
        raise ValueError(
            "validation_indices must be distinct; got a row more than once: pass np.unique(validation_indices)"
        )
    return held_out


class PassCounter:
    """Number of passes over the training rows by loops of one's own, with all loaders of a DataModule together."""

    def __init__(self) -> None:
        self.passes = 0

    def take(self) -> int:
        """The number of this pass, from 0."""
        self.passes += 1
        return self.passes - 1


class EpochSampler(DistributedSampler[Any]):
    """Sampler of minibatches, in an order that depends on (seed, epoch) alone: a resumed epoch is the same epoch.

    Lightning sets the epoch, by `set_epoch`. In a loop of one's own, which does not, each pass is the next epoch.

    When W processes train together, each takes every W-th row of that order: together, their minibatches hold the rows
    of one process's minibatch of W times the size. No row is given twice; the DistributedSamplers of torch and
    Lightning repeat rows to make the shares equal. In training (``shuffle``) the last n mod W rows of the epoch's order
    are left out, different ones in each epoch, so that all processes take equally many steps on minibatches of one
    size, and the mean of their gradients is that of all rows. In validation and prediction every row is given once.

    Parameters
    ----------
    rows
        positions of the rows.
    batch_size
        rows in a minibatch of one process.
    seed
        seed of the order.
    shuffle
        whether to shuffle the rows; False keeps their order.
    blocks
        shuffle in blocks of neighbouring rows, see `Blocks`; None shuffles all rows.
    counter
        counts the passes that nobody set the epoch of; None leaves the epoch at 0 until it is set.

    Raises
    ------
    ValueError
        For fewer rows than processes.
    """

    # Lightning does not replace a DistributedSampler. torch's __init__, which pads, is not called.
    def __init__(
        self,
        rows: Tensor,
        batch_size: int,
        seed: int,
        shuffle: bool,
        blocks: Blocks | None = None,
        counter: PassCounter | None = None,
    ) -> None:
        self.rows, self.seed, self.shuffle, self.blocks, self.epoch = rows, seed, shuffle, blocks, 0
        self._resumed: dict[str, Any] = {}
        self.counter = counter
        self.rank, self.num_replicas = _rank_and_world_size()
        if len(rows) < self.num_replicas:
            raise ValueError(
                f"{len(rows)} {'training' if shuffle else 'held-out'} rows cannot be shared by {self.num_replicas} "
                "processes: train on fewer devices, or hold out a different share of the rows"
            )
        self.batch_size = batch_size if shuffle else _even_batch_size(len(rows), self.num_replicas, batch_size)

    def __len__(self) -> int:
        """Number of minibatches of this process."""
        n, world = len(self.rows), self.num_replicas
        share = n // world if self.shuffle else len(range(self.rank, n, world))
        return -(-share // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; from then on passes are not counted."""
        self.epoch, self.counter = epoch, None

    def start_pass(self) -> None:
        """Take the next epoch, unless epochs are set; a loader calls this at the start of each pass."""
        if self.counter is not None:
            self.epoch = self.counter.take()

    def order(self) -> Tensor:
        """The rows of all processes, in this epoch's order."""
        if not self.shuffle:
            return self.rows
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.blocks is None:
            order = rng.permutation(len(self.rows))
        else:
            order = self.blocks.order(len(self.rows), self.batch_size * self.num_replicas, rng)
        return self.rows[torch.from_numpy(order[: len(order) - len(order) % self.num_replicas])]

    def __iter__(self) -> Iterator[Tensor]:
        """The positions of each minibatch of this process, from `first` on."""
        return iter(self._minibatches()[self.first :])

    def _minibatches(self) -> tuple[Tensor, ...]:
        return self.order()[self.rank :: self.num_replicas].split(self.batch_size)

    def state(self, taken: int) -> dict[str, Any]:
        """State after ``taken`` minibatches of this epoch, for `resume`; plain numbers."""
        order = {"seed": self.seed, "rows": len(self.rows), "batch_size": self.batch_size * self.num_replicas}
        return {**order, "epoch": self.epoch, "taken": taken}

    def resume(self, state: dict[str, Any]) -> None:
        """Leave out the minibatches that were taken when ``state`` was made, in its epoch."""
        self._resumed = state

    @property
    def first(self) -> int:
        """Number of this epoch's minibatches that were taken before the fit was resumed.

        Raises
        ------
        ValueError
            If the epoch was begun in another order.
        """
        taken = self._resumed.get("taken", 0) if self._resumed.get("epoch") == self.epoch else 0
        if taken:
            now = self.state(taken)
            if differ := {name: value for name, value in self._resumed.items() if now.get(name) != value}:
                raise ValueError(
                    f"the checkpoint was saved within an epoch with {differ} (batch_size over all processes); got "
                    f"{ {name: now.get(name) for name in differ} }: resume with the same DataModule, or from a "
                    "checkpoint saved at the end of an epoch"
                )
        return taken

    def buffers(self) -> Iterator[tuple[Tensor, ...]]:
        """The minibatches of this process from `first` on, grouped by the buffer that they are read in."""
        if self.blocks is None:
            raise ValueError("blocks must be given for rows on disk; got None: pass Blocks()")
        n_together = self.blocks.n_minibatches(self.batch_size * self.num_replicas)
        minibatches, first = self._minibatches(), self.first
        for start in range(0, len(minibatches), n_together):
            if left := minibatches[max(start, first) : start + n_together]:
                yield left


class OrderedSampler(EpochSampler, SequentialSampler):  # type: ignore[misc]  # whose items are single rows
    """`EpochSampler` in the order of the rows, by a class that Lightning knows not to shuffle.

    For ``Trainer(overfit_batches=...)`` it replaces any other sampler by one of single rows of all data.

    Parameters
    ----------
    rows, batch_size, blocks
        as in `EpochSampler`.
    """

    def __init__(self, rows: Tensor, batch_size: int, blocks: Blocks | None = None) -> None:
        super().__init__(rows, batch_size, seed=0, shuffle=False, blocks=blocks)


def _even_batch_size(n: int, world: int, size: int) -> int:
    """The smallest batch size from ``size`` up with which ``world`` processes get equally many minibatches of n rows.

    Processes wait for one another at each step, also in validation: with 9 rows, 2 processes and minibatches of 4 rows,
    one process would take a step more than the other.
    """
    while n % world and (n // world) % size == 0:
        size += 1
    return size


def _rank_and_world_size() -> tuple[int, int]:
    """Rank of this process, and the number of processes."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()
