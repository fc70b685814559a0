"""Which rows train and which are held out, and in what order they come."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler


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


class EpochSampler(Sampler[int]):
    """Rows in an order that depends on (seed, epoch) alone, so that a resumed epoch is the same epoch.

    Parameters
    ----------
    rows
        positions to go through.
    seed
        of the order.
    shuffle
        or in the order given.
    """

    def __init__(self, rows: Tensor, seed: int, shuffle: bool) -> None:
        self.rows, self.seed, self.shuffle, self.epoch = rows, seed, shuffle, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning says which epoch begins."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        """The rows of one epoch."""
        if not self.shuffle:
            return iter(self.rows.tolist())
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.rows))
        return iter(self.rows[torch.from_numpy(order)].tolist())
