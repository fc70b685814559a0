"""`AtomicCheckpointIO`: checkpoints that are renamed to their path when they are whole, and read without pickle."""

from __future__ import annotations

import io
import pickle
import re
from pathlib import Path
from typing import Any

import torch

from pyro_omics.lightning import pl
from pyro_omics.serialization.atomic_write import atomic_write
from pyro_omics.serialization.folder import is_saved

ENTRY = "pyro_omics"  # key of what this package adds to a checkpoint


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

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint; see `read_checkpoint`."""
        local = str(path).removeprefix("file://")
        if "://" in local:
            options = {} if weights_only is None else {"weights_only": weights_only}
            return super().load_checkpoint(path, map_location, **options)
        return read_checkpoint(local, map_location, weights_only is not False)


def read_checkpoint(path: Any, map_location: Any = "cpu", weights_only: bool = True) -> dict[str, Any]:
    """Read a checkpoint of an SVIModule.

    Parameters
    ----------
    path
        the file, or a stream of it.
    map_location
        device of the tensors.
    weights_only
        whether to read tensors and plain data alone, which is all that these checkpoints have. Other objects may run
        code as they are read.

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        For a saved folder, for a file that cannot be read, and for a checkpoint of another LightningModule.
    """
    file = Path(path).expanduser() if isinstance(path, str | Path) else None
    if file is not None:
        _check_file(file)
    try:
        found = torch.load(file or path, map_location=map_location, weights_only=weights_only)
    except PermissionError:
        raise
    except Exception as error:  # torch raises many types of errors for other files
        raise ValueError(f"{path} cannot be read as a checkpoint: {_reason(error)}") from error
    if not isinstance(found, dict) or not {ENTRY, "state_dict"} <= found.keys():
        is_weights = file is not None and is_saved(file.parent)
        mend = f"is part of a saved fit: load({str(file.parent)!r})" if is_weights and file else "is something else"
        raise ValueError(f"path must be a checkpoint of an SVIModule, which a Trainer wrote; got {path}, which {mend}")
    return found


def _check_file(path: Path) -> None:
    wrong = f"path must be a checkpoint that a Trainer wrote; got {path}, which"
    if is_saved(path):
        raise ValueError(f"{wrong} is a folder that svi.save wrote: read it with load({str(path)!r})")
    if not path.exists():
        raise FileNotFoundError(f"{wrong} does not exist: pass the .ckpt file of a fit")
    if path.is_dir():
        raise ValueError(f"{wrong} is a folder: pass the .ckpt file of a fit")


def _reason(error: Exception) -> str:
    """Why a file could not be read, in a sentence with what to do."""
    if isinstance(error, pickle.UnpicklingError) and (found := re.search(r"GLOBAL ([\w.]+)", str(error))):
        return (
            f"it has more than tensors and plain data ({found[1]}), which could run code as it is read; pass "
            "weights_only=False if you trust where the file comes from"
        )
    detail = "" if isinstance(error, pickle.UnpicklingError) else str(error).strip().partition("\n")[0]
    return f"{type(error).__name__} {detail}".strip() + "; pass a whole .ckpt file that a Trainer wrote"


def use_atomic_files(strategy: Any) -> None:
    """Let a strategy write its checkpoints by `AtomicCheckpointIO`, unless another CheckpointIO was chosen."""
    # By name, since `pytorch_lightning` and `lightning` each have the class.
    if type(strategy.checkpoint_io).__name__ == "TorchCheckpointIO":
        strategy.checkpoint_io = AtomicCheckpointIO()
