"""`RowDataModule` and `RowTensors`: the base classes of the DataModules and of their tensors."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pyro_omics.batch import RowBatch, in_precision
from pyro_omics.data.blocks import Blocks
from pyro_omics.data.loaders import BlockLoader, EpochLoader
from pyro_omics.data.matrices.memory import CountMatrix
from pyro_omics.data.splits import EpochSampler, OrderedSampler, PassCounter, Split, hold_out_all
from pyro_omics.lightning import pl
from pyro_omics.parts.base import check_at_least, check_positive
from pyro_omics.parts.other_names import check_arguments
from pyro_omics.schema import Schema

B = TypeVar("B")


class RowDataModule(pl.LightningDataModule):
    """Base class of the DataModules: minibatches of the training rows and of the held-out rows of an AnnData.

    A subclass sets ``split`` and ``data`` in its ``__init__``; ``data`` are `RowTensors`.

    When the trainer is on a GPU, data in memory that need at most half of the free GPU memory are moved there once
    (dense if they fit, else in compressed rows), and minibatches are made on the GPU. Minibatches of larger data are
    made on the host in pinned memory, by the workers if there are any. On a CPU, workers seldom pay: making a
    minibatch takes less time than sending it. Workers share the data's memory with the main process where processes
    are forked, as on Linux.

    Parameters
    ----------
    batch_size
        rows in a minibatch.
    seed
        seed of the order of the training rows.
    num_workers
        number of worker processes of the loaders.
    """

    split: Split
    data: Any
    adata: AnnData
    n_obs: int
    schema: Schema
    sizes_type: ClassVar[type]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make the instance, unless an argument is of another package."""
        check_arguments(cls, kwargs)
        return super().__new__(cls)

    def __init__(self, batch_size: int, seed: int, num_workers: int) -> None:
        super().__init__()
        check_positive(batch_size=batch_size)
        check_at_least(0, seed=seed, num_workers=num_workers)
        # Numbers of numpy count as integers here, and not everywhere in torch.
        self.batch_size, self.seed, self.num_workers = int(batch_size), int(seed), int(num_workers)
        self.blocks: Blocks | None = None
        self._gpu_copy: Any = None
        self._passes = PassCounter()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the trainer and the copy on the GPU, so that copies and pickles hold the data alone."""
        return {**self.__dict__, "trainer": None, "_gpu_copy": None}

    def rows(self, split: str = "all") -> np.ndarray:
        """Ascending positions in the AnnData of the ``"all"``, ``"training"`` or ``"validation"`` rows."""
        return self.split.rows(split).numpy()

    def aligned(self, schema: Any) -> RowTensors[Any]:
        """All rows, with columns and levels matched by name to those of another ``schema``."""
        raise NotImplementedError

    def adopt(self, schema: Schema, n_obs: int, sizes: dict[str, Any] | None = None) -> None:
        """Align these data to a model that was trained on other data, and hold out all rows.

        Parameters
        ----------
        schema, n_obs
            schema and number of training rows of the model's data.
        sizes
            fields of the sizes (`sizes.Sizes`, `sizes.DELSizes`) that the model was made with, if the model is to be
            made again from this DataModule. None computes the sizes from these data, whose moments may differ and
            which may lack what the model's data had.

        Raises
        ------
        ValueError
            As `aligned`.
        """
        data = self.aligned(schema)
        self.split = hold_out_all(self.adata.n_obs, n_obs)
        data.index = self.split.index
        self.data, self.schema, self.n_obs = data, schema, n_obs
        self.__dict__.pop("sizes", None)  # cached for the data before alignment
        if sizes is not None:
            self.__dict__["sizes"] = self.sizes_type(**sizes)

    def example_batch(self) -> Any:
        """A minibatch of the first two training rows; of the first two rows where none are for training."""
        rows = self.split.training if len(self.split.training) else self.split.rows("all")
        return self.data[rows[:2]]

    def _loader(self, rows: Tensor, shuffle: bool) -> DataLoader[Any] | BlockLoader:
        sampler: EpochSampler = OrderedSampler(rows, self.batch_size, self.blocks)
        if shuffle and not (self.trainer is not None and self.trainer.overfit_batches):
            sampler = EpochSampler(rows, self.batch_size, self.seed, True, self.blocks, self._passes)
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        if self.blocks is not None:
            return BlockLoader(self.data, sampler, self.num_workers, device)
        data = self._data_on_gpu(device) if device.type == "cuda" else None
        num_workers = self.num_workers if data is None else 0
        return EpochLoader(
            self.data if data is None else data,
            batch_size=None,  # an item is a minibatch
            sampler=sampler,
            collate_fn=_identity,
            # Else it draws from torch's generator at its start, and a fit resumed within an epoch has other noise.
            generator=torch.Generator(),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=data is None and device.type == "cuda",
        )

    def _data_on_gpu(self, device: torch.device) -> RowTensors[Any] | None:
        """The data on a GPU, or None if they need more than half of its free memory; moved once."""
        if self._gpu_copy is None or self._gpu_copy[:2] != (self.data, device):
            max_bytes = torch.cuda.mem_get_info(device)[0] // 2
            self._gpu_copy = self.data, device, self.data.to_device(device, max_bytes)
        return self._gpu_copy[2]

    def transfer_batch_to_device(self, batch: RowBatch, device: torch.device, dataloader_idx: int) -> Any:
        """The batch on the device: unchanged if it is already there, else moved by Lightning."""
        if isinstance(batch, tuple) and all(field is None or _is_on(field, device) for field in batch):
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def train_dataloader(self) -> DataLoader[Any] | BlockLoader:
        """Minibatches of the training rows, in an order drawn from (seed, epoch).

        With ``Trainer(overfit_batches=...)`` they come in the order of the AnnData, the same ones in each epoch. In a
        loop of one's own each pass is the next epoch; ``loader.sampler.set_epoch(n)`` sets it.
        """
        return self._to_overfit(self._loader(self.split.training, shuffle=True), "training")

    def _to_overfit(self, loader: Any, rows: str) -> Any:
        """The loader; a ValueError if ``Trainer(overfit_batches=share)`` takes less than one of its minibatches.

        Lightning's own error names limits that ``overfit_batches`` overrides.
        """
        share = 0 if self.trainer is None else self.trainer.overfit_batches
        if isinstance(share, float) and 0 < share * len(loader) < 1:
            raise ValueError(
                f"overfit_batches must take a minibatch or more; got {share:g} of the {len(loader)} minibatches of "
                f"{rows} rows: pass a number of minibatches, Trainer(overfit_batches=1), or give the data a smaller "
                "batch_size"
            )
        return loader

    def val_dataloader(self) -> DataLoader[Any] | BlockLoader | Iterable[Any]:
        """Minibatches of the held-out rows, in order."""
        if not len(self.split.validation):
            # Of an empty loader with a length Lightning would warn, and of one without it refuse to take a share.
            return [] if self.trainer is not None and 0 < self.trainer.limit_val_batches < 1 else iter(())
        return self._to_overfit(self._loader(self.split.validation, shuffle=False), "validation")

    def test_dataloader(self) -> DataLoader[Any] | BlockLoader:
        """The minibatches of validation; the package tunes nothing on them, unless you stop a fit early by them."""
        if not len(self.split.validation):
            raise ValueError("no rows are held out to test on: pass validation_size or validation_indices")
        return self._loader(self.split.validation, shuffle=False)

    def predict_dataloader(self) -> DataLoader[Any] | BlockLoader:
        """Minibatches of all rows, in the order of the AnnData."""
        return self._loader(self.split.rows("all"), shuffle=False)


class RowTensors(Dataset[B]):
    """Dataset whose items are whole minibatches, ``data[rows]``; a subclass implements `batch`.

    Parameters
    ----------
    counts
        count matrix (n, columns), in memory, on a device or on disk.
    fields
        further tensors or `CountMatrix` over all rows, or None, by name.
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
        return self.minibatch(at, self.counts.rows(at))

    def minibatch(self, at: Tensor, x: Tensor) -> B:
        """`batch`, in double precision where that is torch's default dtype."""
        made: Any = self.batch(at, x)
        if torch.get_default_dtype() is torch.float64:
            made = in_precision(made, torch.float64)
        found: B = made
        return found

    def batch(self, at: Tensor, x: Tensor) -> B:
        """The minibatch of the rows at these positions (n,), whose counts are x (n, columns)."""
        raise NotImplementedError

    def count_codes(self, rows: np.ndarray) -> np.ndarray:
        """The code (n,) of the counts of each of ``rows``, by which the same rows are found in other data."""
        found: np.ndarray = self.counts.codes(torch.from_numpy(rows))
        return found

    def batches(self, rows: np.ndarray, batch_size: int) -> Iterator[B]:
        """Minibatches over ``rows``, in order."""
        for start in range(0, len(rows), batch_size):
            yield self[rows[start : start + batch_size]]

    def to_device(self, device: torch.device, max_bytes: int) -> RowTensors[B] | None:
        """A copy on a device, or None if it needs more than ``max_bytes``."""
        tensors = [self.index, *(field for field in self.fields.values() if isinstance(field, Tensor))]
        max_bytes -= sum(tensor.nbytes for tensor in tensors)
        data = copy.copy(self)
        data.fields = dict(self.fields)
        matrices = {name: field for name, field in self.fields.items() if isinstance(field, CountMatrix)}
        for name, matrix in matrices.items():
            data.fields[name] = matrix.to_device(device, max_bytes - self.counts.n_bytes)
            if data.fields[name] is None:
                return None
            max_bytes -= data.fields[name].n_bytes
        data.counts = self.counts.to_device(device, max_bytes)
        if data.counts is None:
            return None
        for name, field in self.fields.items():
            if isinstance(field, Tensor):
                data.fields[name] = field.to(device)
        data.index = self.index.to(device)
        return data


def _is_on(field: Any, device: torch.device) -> bool:
    return isinstance(field, Tensor) and field.device == device


def _identity(batch: Any) -> Any:
    return batch


def digest(names: Iterable[str]) -> str:
    """Short hash of names in their order, by which a model recognises its training rows."""
    return hashlib.sha256("\n".join(map(str, names)).encode()).hexdigest()[:16]
