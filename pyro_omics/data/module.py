"""What all DataModules share: rows that train, rows held out, and minibatches of either."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, TypeVar

import numpy as np
import pytorch_lightning as pl
import torch
from anndata import AnnData
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyro_omics.batch import RowBatch
from pyro_omics.data.blocks import Blocks
from pyro_omics.data.loaders import BlockLoader, EpochLoader
from pyro_omics.data.matrices.memory import CountMatrix
from pyro_omics.data.splits import EpochSampler, Split, hold_out_all
from pyro_omics.parts.base import check_positive
from pyro_omics.schema import Schema

B = TypeVar("B")


class RowDataModule(pl.LightningDataModule):
    """Minibatches of the rows of an AnnData; a subclass sets ``split`` and ``data``, in its ``__init__``.

    ``data`` is a dataset whose items are whole minibatches (``data[rows]``), with ``batches(rows, batch_size)``.

    Where the trainer is on a GPU, data in memory that take no more than half of what is free there are moved once,
    dense or else in compressed rows, and minibatches are made there; larger ones are made on the host, by the workers
    if there are any, in pinned memory. On a CPU workers seldom pay: a minibatch is made faster than it is sent. They
    share the data's memory with the main process (where processes are forked, as on Linux).

    Parameters
    ----------
    batch_size
        rows in a minibatch.
    seed
        of the order of the training rows.
    num_workers
        worker processes of the loaders.
    """

    split: Split
    data: Any
    adata: AnnData
    n_obs: int
    schema: Schema
    sizes_type: ClassVar[type]

    def __init__(self, batch_size: int, seed: int, num_workers: int) -> None:
        super().__init__()
        check_positive(batch_size=batch_size)
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers
        self.blocks: Blocks | None = None
        self._moved: Any = None

    def rows(self, split: str = "all") -> np.ndarray:
        """Positions in the AnnData, ascending: ``"all"``, ``"training"`` or ``"validation"`` rows."""
        return self.split.rows(split).numpy()

    def aligned(self, schema: Any) -> RowTensors[Any]:
        """All rows as a model of another ``schema`` must see them, by name."""
        raise NotImplementedError

    def adopt(self, schema: Schema, n_obs: int, sizes: dict[str, Any] | None = None) -> None:
        """Become data for a model that was trained on others: aligned to its ``schema``, and all rows held out.

        Parameters
        ----------
        schema, n_obs
            the model's.
        sizes
            fields of the sizes (`sizes.Sizes`, `sizes.DELSizes`) that the model was made for, where it is to be made
            again; None takes those of these data, which may have other moments, and lack what the model's data had.

        Raises
        ------
        ValueError
            As `aligned` does.
        """
        data = self.aligned(schema)
        self.split = hold_out_all(self.adata.n_obs, n_obs)
        data.index = self.split.index
        self.data, self.schema, self.n_obs = data, schema, n_obs
        self.__dict__.pop("sizes", None)  # they were of the data before
        if sizes is not None:
            self.__dict__["sizes"] = self.sizes_type(**sizes)

    def example_batch(self) -> Any:
        """The first two training rows, or, of adopted data, which have none, the first two."""
        rows = self.split.training if len(self.split.training) else self.split.rows("all")
        return self.data[rows[:2]]

    def _loader(self, rows: Tensor, shuffle: bool) -> DataLoader[Any] | BlockLoader:
        sampler = EpochSampler(rows, self.batch_size, self.seed, shuffle, self.blocks)
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        if self.blocks is not None:
            return BlockLoader(self.data, sampler, self.num_workers, device)
        data = self._on(device) if device.type == "cuda" else None
        num_workers = self.num_workers if data is None else 0
        return EpochLoader(
            self.data if data is None else data,
            batch_size=None,  # an item is a minibatch
            sampler=sampler,
            collate_fn=_already_a_batch,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=data is None and device.type == "cuda",
        )

    def _on(self, device: torch.device) -> RowTensors[Any] | None:
        """The data on a GPU, if they take no more than half of what is free there; they are moved once."""
        if self._moved is None or self._moved[:2] != (self.data, device):
            room = torch.cuda.mem_get_info(device)[0] // 2
            self._moved = self.data, device, self.data.placed(device, room)
        return self._moved[2]

    def transfer_batch_to_device(self, batch: RowBatch, device: torch.device, dataloader_idx: int) -> Any:
        """The batch on the device: itself, where it is there already, and as Lightning moves it where not."""
        if isinstance(batch, tuple) and all(field is None or _is_on(field, device) for field in batch):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def train_dataloader(self) -> DataLoader[Any] | BlockLoader:
        """Training rows in an order drawn from (seed, epoch)."""
        return self._loader(self.split.training, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | BlockLoader | Iterator[Any]:
        """Held-out rows, in order."""
        if not len(self.split.validation):
            return iter(())  # an empty loader with a length has Lightning warn at each epoch
        return self._loader(self.split.validation, shuffle=False)

    def test_dataloader(self) -> DataLoader[Any] | BlockLoader:
        """The held-out rows: those of validation, which nothing here tunes on unless you stop a fit by them."""
        if not len(self.split.validation):
            raise ValueError("no rows are held out to test on: give validation_size or validation_indices")
        return self._loader(self.split.validation, shuffle=False)

    def predict_dataloader(self) -> DataLoader[Any] | BlockLoader:
        """All rows, in AnnData's order."""
        return self._loader(self.split.rows("all"), shuffle=False)


class RowTensors(Dataset[B]):
    """The data as tensors: whole minibatches are indexed, never the AnnData. A subclass says what an item is.

    Parameters
    ----------
    counts
        (n, columns), in memory, on a device or on disk.
    fields
        other tensors over all rows; some may be compressed rows too, or None.
    index
        (n,) the rows' numbers, see `batch.CellBatch`.
    """

    def __init__(self, counts: Any, fields: dict[str, Any], index: Tensor) -> None:
        self.counts, self.fields, self.index = counts, fields, index

    def __len__(self) -> int:
        """Number of rows."""
        return self.counts.shape[0]

    def __getitem__(self, rows: Any) -> B:
        """The minibatch of the rows at these positions."""
        at = torch.as_tensor(rows, dtype=torch.long).reshape(-1)
        return self.batch(at, self.counts.rows(at))

    def batch(self, at: Tensor, x: Tensor) -> B:
        """The minibatch of the rows at these positions (n,), whose counts are x (n, columns)."""
        raise NotImplementedError

    def batches(self, rows: np.ndarray, batch_size: int) -> Iterator[B]:
        """Minibatches over ``rows``, in order."""
        for start in range(0, len(rows), batch_size):
            yield self[rows[start : start + batch_size]]

    def placed(self, device: torch.device, room: int) -> RowTensors[B] | None:
        """All of it on a device, if it takes no more than ``room`` bytes."""
        tensors = [self.index, *(field for field in self.fields.values() if isinstance(field, Tensor))]
        room -= sum(tensor.nbytes for tensor in tensors)
        data = copy.copy(self)
        data.fields = dict(self.fields)
        matrices = {name: field for name, field in self.fields.items() if isinstance(field, CountMatrix)}
        for name, matrix in matrices.items():
            data.fields[name] = matrix.placed(device, room - self.counts.n_bytes)
            if data.fields[name] is None:
                return None
            room -= data.fields[name].n_bytes
        data.counts = self.counts.placed(device, room)
        if data.counts is None:
            return None
        for name, field in self.fields.items():
            if isinstance(field, Tensor):
                data.fields[name] = field.to(device)
        data.index = self.index.to(device)
        return data


def _is_on(field: Any, device: torch.device) -> bool:
    return isinstance(field, Tensor) and field.device == device


def _already_a_batch(batch: Any) -> Any:
    return batch


def digest(names: Iterable[str]) -> str:
    """A short hash of names in their order, by which a model knows the rows that it was trained on."""
    return hashlib.sha256("\n".join(map(str, names)).encode()).hexdigest()[:16]
