"""Logged means over rows, whatever the sizes of the minibatches."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from torch import Tensor


class LogsRowMeans(pl.LightningModule):
    """A LightningModule whose logged values are means over the rows of an epoch.

    The plain mean over minibatches is off when the last one is ragged. In training the sum is kept here and logged once
    an epoch, since Lightning's own accumulation costs half a millisecond a step.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sums: dict[str, tuple[Any, float]] = {}  # name -> sum over rows, number of rows

    def _log(self, name: str, value: Tensor, batch: Any) -> None:
        """Log the mean of ``value`` over the rows of a minibatch."""
        rows = float(len(batch.index))
        if self._trainer is not None and self.trainer.training:
            total, before = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (total + value * rows, before + rows)
            if self.trainer.is_last_batch:
                self._log_mean(name)
        else:
            self._log_rows(name, value, rows)

    def _log_mean(self, name: str) -> None:
        total, rows = self._sums.pop(name)
        self._log_rows(name, total / rows, rows)

    def _log_rows(self, name: str, value: Any, rows: Any) -> None:
        # A float: the mean of the processes' numbers of rows, which Lightning divides by, would be cut to an integer.
        self.log(name, value, on_step=False, on_epoch=True, prog_bar=True, batch_size=rows, sync_dist=True)

    def on_train_epoch_start(self) -> None:
        """Begin the epoch's means."""
        self._sums.clear()

    def on_train_epoch_end(self) -> None:
        """Log the means of an epoch that was stopped before its last step."""
        for name in list(self._sums):
            self._log_mean(name)
