"""What all DataModules share: rows that train, rows held out, and minibatches of either."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader

from pyro_omics.data.splits import EpochSampler, Split


class RowDataModule(pl.LightningDataModule):
    """Minibatches of the rows of an AnnData; a subclass sets ``split`` and ``data``, in its ``__init__``.

    ``data`` is a dataset whose items are whole minibatches (``data[rows]``), with ``batches(rows, batch_size)``.

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

    def __init__(self, batch_size: int, seed: int, num_workers: int) -> None:
        super().__init__()
        if int(batch_size) != batch_size or batch_size < 1:
            raise ValueError(f"batch_size is a number of rows, at least 1, and is {batch_size}")
        self.batch_size, self.seed, self.num_workers = batch_size, seed, num_workers

    def rows(self, split: str = "all") -> np.ndarray:
        """Positions in the AnnData, ascending: ``"all"``, ``"training"`` or ``"validation"`` rows."""
        return self.split.rows(split).numpy()

    def example_batch(self) -> Any:
        """The first two training rows, or, of adopted data, which have none, the first two."""
        rows = self.split.training if len(self.split.training) else self.split.rows("all")
        return self.data[rows[:2]]

    def _loader(self, rows: Tensor, shuffle: bool) -> DataLoader[Any]:
        sampler = EpochSampler(rows, self.seed, shuffle)
        return DataLoader(
            self.data,
            batch_size=self.batch_size,
            sampler=sampler,
            collate_fn=_already_a_batch,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Training rows in an order drawn from (seed, epoch)."""
        return self._loader(self.split.training, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any] | Iterator[Any]:
        """Held-out rows, in order."""
        if not len(self.split.validation):
            return iter(())  # an empty loader with a length has Lightning warn at each epoch
        return self._loader(self.split.validation, shuffle=False)

    def test_dataloader(self) -> DataLoader[Any]:
        """The held-out rows: those of validation, which nothing here tunes on unless you stop a fit by them."""
        if not len(self.split.validation):
            raise ValueError("no rows are held out to test on: give validation_size or validation_indices")
        return self._loader(self.split.validation, shuffle=False)

    def predict_dataloader(self) -> DataLoader[Any]:
        """All rows, in AnnData's order."""
        return self._loader(self.split.rows("all"), shuffle=False)


def _already_a_batch(batch: Any) -> Any:
    return batch


def digest(names: Iterable[str]) -> str:
    """A short hash of names in their order, by which a model knows the rows that it was trained on."""
    return hashlib.sha256("\n".join(map(str, names)).encode()).hexdigest()[:16]
