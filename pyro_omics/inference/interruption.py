"""`EndAfterStep`: SIGTERM and Ctrl-C end a fit between two steps, in a state from which it can be resumed exactly."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

from pyro_omics.lightning import pl, rank_zero_info


class EndAfterStep(pl.Callback):
    """Callback by which SIGTERM and Ctrl-C end a fit after the step, or the validation, that is running.

    Lightning does so for SIGTERM, but within a validation too, and then exits with status 0; Ctrl-C it obeys in the
    middle of a step. Here the fit raises SystemExit with status 143 (SIGTERM) or 130 (Ctrl-C); a second Ctrl-C ends it
    at once. Signals that the program handles itself are left to it. With several processes, Lightning's own handlers
    stay. Lightning restores all handlers when the fit is over.
    """

    def __init__(self) -> None:
        self.signal: int | None = None  # that ends the fit
        self._end: Any = None  # Lightning's handler of SIGTERM
        self._trainer: Any = None
        self._pid = os.getpid()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the handlers."""
        self.signal, self._trainer, self._pid = None, trainer, os.getpid()
        self._end = signal.getsignal(signal.SIGTERM)
        in_main = threading.current_thread() is threading.main_thread()
        if trainer.world_size > 1 or not in_main or not callable(self._end):
            return
        signal.signal(signal.SIGTERM, self._handle)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)

    def _handle(self, signum: int, frame: Any) -> None:
        if os.getpid() != self._pid:
            return  # a loader's worker, which inherits the handler: the fit's process ends it
        if self.signal is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        if signum == signal.SIGINT:
            rank_zero_info("\nCtrl-C: the fit ends after this step; press it again to end it at once")
        self.signal = signum
        _let_workers_end()
        if not self._trainer.validating:
            self._end(signal.SIGTERM, frame)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """End the fit if a signal came during the validation."""
        if self.signal is not None and not trainer.received_sigterm:
            self._end(signal.SIGTERM, None)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let go of the trainer."""
        self._trainer = self._end = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let the process exit with the status of the signal."""
        if isinstance(exception, SystemExit) and not exception.code and trainer.received_sigterm:
            exception.code = 128 + (self.signal or signal.SIGTERM)


def _let_workers_end() -> None:
    """Take away torch's handler, which raises an error wherever the program is when a loader's worker ends.

    A signal to all processes of a job ends the workers too.
    """
    number = getattr(signal, "SIGCHLD", None)
    if number is not None and str(getattr(signal.getsignal(number), "__module__", "")).startswith("torch."):
        signal.signal(number, signal.SIG_DFL)
