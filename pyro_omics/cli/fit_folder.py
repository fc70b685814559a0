"""The folder of a fit: its checkpoints, its configuration, and nothing that an earlier fit left."""

from __future__ import annotations

import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint

from pyro_omics.cli.allowed_classes import OPTION, own_packages
from pyro_omics.evaluation.report import old_results
from pyro_omics.inference.checkpoint_io import AtomicCheckpointIO
from pyro_omics.inference.interruption import EndAfterStep
from pyro_omics.serialization.atomic_write import atomic_write, remove

CHECKPOINT, LAST, CONFIG = "checkpoint.ckpt", "last.ckpt", "config.yaml"


class FitFolder(pl.Callback):
    """Callback that keeps a folder to one fit, and leaves a checkpoint there if a signal ends the fit.

    An earlier fit stays as it is until the new one has written its first checkpoint; then the configuration is written,
    and the results of the earlier fit are removed.

    Parameters
    ----------
    folder
        the folder.
    write_config
        writes the configuration to a path.
    resumed
        path of the checkpoint that the fit goes on from, if any.
    command
        the command that goes on with a fit that a signal ended; None for ``pyro-omics fit``.
    """

    def __init__(
        self, folder: Path, write_config: Callable[[Path], Any], resumed: str | None, command: str | None
    ) -> None:
        self.folder, self.write_config, self.resumed = folder, write_config, resumed
        own = [part for name in own_packages() for part in (OPTION, name)]
        again = shlex.join(["pyro-omics", "fit", "--config", str(folder / CONFIG), "--ckpt_path", "last", *own])
        self.command = command or again
        self._saved: list[Path] = []
        self._begun = False
        self.status: int | None = None  # with which the process exits, where a signal ended the fit

    def attach(self, trainer: pl.Trainer, given: list[Any]) -> None:
        """Join a trainer; its checkpoint goes to the folder, unless ``given`` callbacks save checkpoints."""
        if not any(isinstance(callback, Checkpoint) for callback in given):
            default = ModelCheckpoint(dirpath=self.folder, filename=Path(CHECKPOINT).stem, enable_version_counter=False)
            trainer.callbacks[:] = [default if type(c) is ModelCheckpoint else c for c in trainer.callbacks]
        trainer.callbacks.insert(0, self)
        if type(trainer.strategy.checkpoint_io).__name__ == "TorchCheckpointIO":  # Lightning's default
            trainer.strategy.checkpoint_io = _NotedCheckpointIO(self._note)

    def _note(self, path: Path) -> None:
        self._saved.append(path.absolute())
        self.begin()

    def begin(self) -> None:
        """Write the configuration and remove what an earlier fit left, once."""
        if self._begun:
            return
        self._begun = True
        self.folder.mkdir(parents=True, exist_ok=True)
        atomic_write(self.folder / CONFIG, self.write_config)
        stale = old_results(self.folder)
        if self._saved or not self.resumed:
            stale |= {LAST} if self.resumed else {LAST, CHECKPOINT}
        here = {path.name for path in self._saved if path.parent == self.folder.absolute()}
        remove(self.folder, stale - here - {CONFIG})

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save a checkpoint and say how to go on, where a signal ended the fit."""
        number = ended_by(trainer)
        # A signal to all processes also ends the loader's workers, whose RuntimeError may come first.
        batches = trainer.fit_loop.epoch_loop.batch_progress.current
        if number is None or batches.ready > batches.processed:
            return
        self.status = 128 + number
        if trainer.sanity_checking:
            print("\nThe fit was ended by a signal before its first step", file=sys.stderr)
            return
        trainer.save_checkpoint(self.folder / LAST, weights_only=False)
        if trainer.is_global_zero:
            self.begin()
            self._say(f"after step {trainer.global_step}; its checkpoint is {self.folder / LAST}")

    def _say(self, when: str) -> None:
        print(f"\nThe fit was ended by a signal {when}. Go on with\n  {self.command}", file=sys.stderr)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Say how to go on where a file cannot be written, as on a full disk, and there is a checkpoint."""
        try:
            yield
        except OSError:
            if (self._saved or self.resumed) and (self.folder / CONFIG).is_file():
                said = "A file could not be written; the last checkpoint is whole. Once there is space, go on with"
                print(f"\n{said}\n  {self.command}", file=sys.stderr)
            raise

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Say how to go on where a signal ends the work after the training."""

        def end(signum: int, frame: Any) -> None:
            sys.exit(128 + signum)

        in_main = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, end) if in_main else None
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as error:
            self._say("while its results were written")
            raise SystemExit(getattr(error, "code", 128 + signal.SIGINT)) from error
        finally:
            if in_main:
                signal.signal(signal.SIGTERM, before)


class _NotedCheckpointIO(AtomicCheckpointIO):
    """An `AtomicCheckpointIO` that tells of each checkpoint that it has written."""

    def __init__(self, note: Callable[[Path], None]) -> None:
        super().__init__()
        self.note = note

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save a checkpoint, then tell of it."""
        super().save_checkpoint(checkpoint, path, storage_options)
        self.note(Path(path))


def ended_by(trainer: pl.Trainer) -> int | None:
    """The signal that ended a fit, or came after its last step; None where none did."""
    ends = [callback.signal for callback in trainer.callbacks if isinstance(callback, EndAfterStep)]
    return next(filter(None, ends), signal.SIGTERM if trainer.received_sigterm else None)


def last_checkpoint(folders: Iterable[Path]) -> Path | None:
    """The checkpoint that was written last in any of these folders and the folders in them; None if there is none."""
    found = (path for folder in folders for path in folder.rglob("*.ckpt") if not _is_hidden(path.relative_to(folder)))
    return max(found, key=lambda path: path.stat().st_mtime_ns, default=None)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)  # a write that was cut off leaves such a folder
