"""`BlockLoader`: minibatches of rows that stay on disk, read ahead of the training."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pyro_omics.data.matrices.disk import StoredMatrix
from pyro_omics.data.matrices.memory import CountMatrix, RowsOnDevice
from pyro_omics.data.splits import EpochSampler

Minibatches = tuple[Tensor, ...]
Rows = tuple[sp.csr_matrix, Tensor]  # in memory, and where in them the minibatches' are


class EpochLoader(DataLoader[Any]):
    """A DataLoader that asks for its rows when it is asked for the first minibatch, and not before.

    Lightning makes a resumed fit's iterator first, and then says which epoch it is: workers would have read ahead.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """The minibatches of one epoch."""
        yield from super().__iter__()


class BlockLoader:
    """What a DataLoader is for rows in memory: a buffer of rows is read while minibatches are made of the one before.

    Parameters
    ----------
    data
        dataset with a method ``batch(rows, x)``, whose ``counts`` are a `disk.StoredMatrix`.
    sampler
        the minibatches' rows; its ``buffers`` are what is read at once.
    num_workers
        processes that read; with 0, a thread does. The minibatches are the same.
    device
        where the trainer is: on a GPU, counts are moved in compressed rows, and made dense there.
    """

    batch_sampler = None  # Lightning asks for it where there is a sampler

    def __init__(self, data: Any, sampler: EpochSampler, num_workers: int, device: torch.device) -> None:
        self.data, self.sampler, self.num_workers, self.device = data, sampler, num_workers, device
        self._readers: DataLoader[Any] | None = None

    def __len__(self) -> int:
        """Number of minibatches."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        """The minibatches of one epoch."""
        torch.empty((), dtype=torch.int64).random_()  # as a DataLoader does: training then draws the same noise
        for minibatches, (csr, at) in self._by_workers() if self.num_workers else self._by_thread():
            counts: Any = CountMatrix(csr)
            if self.device.type == "cuda":
                counts = RowsOnDevice(counts, self.device)
            places = at.split([len(rows) for rows in minibatches])
            for rows, place in zip(minibatches, places, strict=True):
                yield self.data.batch(rows, counts.rows(place))

    def _by_thread(self) -> Iterator[tuple[Minibatches, Rows]]:
        with ThreadPoolExecutor(1, "rows") as reader:
            ahead: Any = None
            for minibatches in self.sampler.buffers():
                following = minibatches, reader.submit(self.data.counts.read, torch.cat(minibatches))
                if ahead is not None:
                    yield ahead[0], ahead[1].result()
                ahead = following
            if ahead is not None:
                yield ahead[0], ahead[1].result()

    def _by_workers(self) -> Iterator[tuple[Minibatches, Rows]]:
        if self._readers is None:
            self._readers = DataLoader(
                _Reading(self.data.counts),
                batch_size=None,
                sampler=_Buffers(self.sampler),
                collate_fn=_as_it_is,
                generator=torch.Generator(),
                num_workers=self.num_workers,
                prefetch_factor=1,
                persistent_workers=True,
            )
        # Of one sampler, so in one order: the minibatches stay here, and are not sent there and back.
        for minibatches, (at, shape, *parts) in zip(self.sampler.buffers(), self._readers, strict=True):
            yield minibatches, (sp.csr_matrix(tuple(part.numpy() for part in parts), shape=shape), at)


class _Reading(Dataset[Any]):
    """What a worker does: the rows of a buffer, as tensors, which go to the main process in shared memory."""

    def __init__(self, counts: StoredMatrix) -> None:
        self.counts = counts

    def __getitem__(self, rows: np.ndarray) -> tuple[Any, ...]:
        csr, at = self.counts.read(torch.from_numpy(rows))
        parts = (torch.from_numpy(part) for part in (csr.data, csr.indices, csr.indptr))
        return (at, csr.shape, *parts)


class _Buffers(Sampler[np.ndarray]):
    """The rows of each buffer of an epoch."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[np.ndarray]:
        for minibatches in self.sampler.buffers():
            yield torch.cat(minibatches).numpy()


def _as_it_is(item: Any) -> Any:
    return item
