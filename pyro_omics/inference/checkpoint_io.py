"""`AtomicCheckpointIO`: checkpoints that are renamed to their path when they are whole."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from pyro_omics.lightning import pl
from pyro_omics.serialization.atomic_write import atomic_write


class AtomicCheckpointIO(pl.plugins.io.TorchCheckpointIO):
    """Lightning's CheckpointIO, with local files written beside their path.

    Lightning writes to the system's temporary folder, and copies the file over the old one if that is on another
    filesystem, so that a kill or a full disk leaves neither. `SVIModule` sets this one in place of Lightning's default.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save a checkpoint.

        Raises
        ------
        OSError
            If the file cannot be written; an old one is then unchanged.
        TypeError
            For ``storage_options``, as in Lightning.
        """
        local = str(path).removeprefix("file://")
        if storage_options is not None or "://" in local:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        place = Path(local).expanduser().absolute()
        place.parent.mkdir(parents=True, exist_ok=True)
        whole = io.BytesIO()  # torch would report a full disk by its own error
        torch.save(checkpoint, whole)
        atomic_write(place, lambda fresh: fresh.write_bytes(whole.getbuffer()))


def use_atomic_files(strategy: Any) -> None:
    """Let a strategy write its checkpoints by `AtomicCheckpointIO`, unless another CheckpointIO was chosen."""
    # By name, since `pytorch_lightning` and `lightning` each have the class.
    if type(strategy.checkpoint_io).__name__ == "TorchCheckpointIO":
        strategy.checkpoint_io = AtomicCheckpointIO()
