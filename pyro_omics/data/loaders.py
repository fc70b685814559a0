"""`EpochLoader` for rows in memory, and `BlockLoader` for rows on disk, which reads ahead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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
Rows = tuple[sp.csr_matrix, Tensor]  # a buffer in memory, and the positions of the minibatches' rows in it


class Resumable:
    """Mixin of loaders whose position within an epoch is in Lightning's checkpoints."""

    sampler: Any
    taken = 0  # minibatches of the epoch that were given so far

    def state_dict(self) -> dict[str, Any]:
        """The position, if the sampler is an `EpochSampler`."""
        return self.sampler.state(self.taken) if isinstance(self.sampler, EpochSampler) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Begin the epoch of ``state`` at its position."""
        if isinstance(self.sampler, EpochSampler):
            self.sampler.resume(state)

    def _counted(self, minibatches: Iterable[Any]) -> Iterator[Any]:
        first = self.taken = self.sampler.first if isinstance(self.sampler, EpochSampler) else 0
        for minibatch in minibatches:
            if self.taken == first:
                self.load_state_dict({})  # all readers have begun, and the next pass is a whole one
            self.taken += 1
            yield minibatch


class EpochLoader(Resumable, DataLoader[Any]):
    """A DataLoader that starts its sampler and workers at the first minibatch, not when its iterator is made.

    For a resumed fit Lightning makes the iterator before it sets the epoch, so that workers started at once would read
    rows of the wrong epoch.
    """

    sampler: EpochSampler

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """The minibatches of one epoch."""
        self.sampler.start_pass()
        yield from self._counted(super().__iter__())


class BlockLoader(Resumable):
    """Loader of minibatches from disk: the next buffer of rows is read while minibatches are made from this one.

    Parameters
    ----------
    data
        `RowTensors` whose ``counts`` are a `disk.StoredMatrix`.
    sampler
        sampler of the minibatches' rows; each of its ``buffers`` is read at once.
    num_workers
        number of processes that read; with 0, a thread reads. The minibatches are the same.
    device
        device of the trainer. To a GPU, counts are moved in compressed rows and made dense there.
    """

    batch_sampler = None  # Lightning reads it of every loader with a sampler

    def __init__(self, data: Any, sampler: EpochSampler, num_workers: int, device: torch.device) -> None:
        self.data, self.sampler, self.num_workers, self.device = data, sampler, num_workers, device
        self._readers: DataLoader[Any] | None = None

    def __len__(self) -> int:
        """Number of minibatches."""
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        """The minibatches of one epoch."""
        self.sampler.start_pass()
        yield from self._counted(self._minibatches())

    def _minibatches(self) -> Iterator[Any]:
        for minibatches, (csr, at) in self._read_by_workers() if self.num_workers else self._read_by_thread():
            counts: Any = CountMatrix(csr)
            if self.device.type == "cuda":
                counts = RowsOnDevice(counts, self.device)
            places = at.split([len(rows) for rows in minibatches])
            for rows, place in zip(minibatches, places, strict=True):
                yield self.data.minibatch(rows, counts.rows(place))

    def _read_by_thread(self) -> Iterator[tuple[Minibatches, Rows]]:
        with ThreadPoolExecutor(1, "rows") as reader:
            ahead: Any = None
            for minibatches in self.sampler.buffers():
                following = minibatches, reader.submit(self.data.counts.read, torch.cat(minibatches))
                if ahead is not None:
                    yield ahead[0], ahead[1].result()
                ahead = following
            if ahead is not None:
                yield ahead[0], ahead[1].result()

    def _read_by_workers(self) -> Iterator[tuple[Minibatches, Rows]]:
        if self._readers is None:
            self._readers = DataLoader(
                _BufferReader(self.data.counts),
                batch_size=None,
                sampler=_BufferSampler(self.sampler),
                collate_fn=_identity,
                generator=torch.Generator(),
                num_workers=self.num_workers,
                prefetch_factor=1,
                persistent_workers=True,
            )
        # Both iterators follow one sampler, so their order is the same and minibatches need not be sent to workers.
        for minibatches, (at, shape, *parts) in zip(self.sampler.buffers(), self._readers, strict=True):
            yield minibatches, (sp.csr_matrix(tuple(part.numpy() for part in parts), shape=shape), at)


class _BufferReader(Dataset[Any]):
    """Dataset of buffers, read by workers; tensors reach the main process in shared memory."""

    def __init__(self, counts: StoredMatrix) -> None:
        self.counts = counts

    def __getitem__(self, rows: np.ndarray) -> tuple[Any, ...]:
        csr, at = self.counts.read(torch.from_numpy(rows))
        parts = (torch.from_numpy(part) for part in (csr.data, csr.indices, csr.indptr))
        return (at, csr.shape, *parts)


class _BufferSampler(Sampler[np.ndarray]):
    """Sampler of the rows of each buffer of an epoch."""

    def __init__(self, sampler: EpochSampler) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[np.ndarray]:
        for minibatches in self.sampler.buffers():
            yield torch.cat(minibatches).numpy()


def _identity(item: Any) -> Any:
    return item
