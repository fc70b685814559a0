"""Callbacks and schedulers that watch an ELBO: the direction must be that of the metric."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

MODES = {"train_elbo": "max", "val_elbo": "max", "test_elbo": "max", "val_loss": "min"}


def check_monitors(callbacks: Iterable[Any]) -> None:
    """Raise a ValueError for a callback, such as EarlyStopping, that watches a metric in the wrong direction.

    Parameters
    ----------
    callbacks
        the Trainer's callbacks; those with the attributes ``monitor`` and ``mode`` are checked.
    """
    for callback in callbacks:
        monitor, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
        if isinstance(monitor, str) and mode in ("min", "max") and MODES.get(monitor, mode) != mode:
            better = "higher" if MODES[monitor] == "max" else "lower"
            raise ValueError(
                f"{type(callback).__name__}(monitor={monitor!r}) must have mode={MODES[monitor]!r}, since {better} is "
                f"better; got mode={mode!r}" + (", Lightning's default" if mode == "min" else "")
            )


def step_plateau(scheduler: ReduceLROnPlateau, elbo: float) -> None:
    """Show a scheduler the ELBO of an epoch, or with ``mode="min"`` the negative ELBO, as a loss."""
    if scheduler.threshold_mode == "rel":
        # Torch takes best (1 + threshold) for the value to exceed, which is below the best where that is negative.
        scheduler.threshold = math.copysign(scheduler.threshold, scheduler.best)
    scheduler.step(elbo if scheduler.mode == "max" else -elbo)
