"""Folders of weights and a configuration: safetensors and JSON, no pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pyro_omics.serialization.atomic_write import atomic_write

WEIGHTS, ROWS, CONFIG = "weights.safetensors", "rows.safetensors", "config.json"


def is_saved(path: Path) -> bool:
    """Whether a path is a folder that `write_folder` wrote."""
    return (path / CONFIG).is_file()


def write_folder(
    path: str | Path, weights: Mapping[str, Tensor], config: Mapping[str, Any], rows: Tensor | None = None
) -> Path:
    """Write a folder with ``weights.safetensors`` and ``config.json``, which replaces an earlier one as a whole.

    ``rows``, if given, are in a file of their own, ``rows.safetensors``.

    Parameters
    ----------
    path
        of the folder; missing parents are made.
    weights
        name -> tensor, on any device.
    config
        plain JSON data.
    rows
        codes of the rows that were trained on, if they are known.

    Raises
    ------
    FileExistsError
        If ``path`` exists and is not such a folder.
    OSError
        If the files cannot be written; an earlier folder is then unchanged.
    """
    path = Path(path).expanduser()
    if path.exists() and not is_saved(path):
        raise FileExistsError(
            f"path must be new or a saved model; got {path}, which is something else: choose a new path"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    files = {WEIGHTS: weights} if rows is None else {WEIGHTS: weights, ROWS: {"rows": rows}}

    def write(fresh: Path) -> None:
        fresh.mkdir()
        for name, tensors in files.items():
            # Copies, because safetensors refuses tensors that share memory.
            try:
                save_file({key: value.detach().cpu().clone() for key, value in tensors.items()}, fresh / name)
            except SafetensorError as error:
                raise OSError(f"{path / name} cannot be written: {error}") from error
            os.chmod(fresh / name, 0o644)  # safetensors makes it readable by the user only
        (fresh / CONFIG).write_text(json.dumps(config, indent=1))

    return atomic_write(path, write)


def read_folder(
    path: str | Path, needed: Iterable[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Any], Tensor | None]:
    """Read the weights, on the CPU, the configuration and, if they are there, the rows that `write_folder` wrote.

    Parameters
    ----------
    path
        of the folder.
    needed
        names that the configuration must have.

    Raises
    ------
    FileNotFoundError
        If the folder or one of its files is missing.
    ValueError
        If a file cannot be read, or has something else.
    """
    path = Path(path).expanduser()
    for name in (WEIGHTS, CONFIG):
        if not (path / name).is_file():
            wrong = f"path must be a folder that svi.save(path) wrote; got {path}, which"
            raise FileNotFoundError(f"{wrong} {_hint(path) or f'has no {name}'}")
    try:
        config = json.loads((path / CONFIG).read_text())
    except ValueError as error:
        raise ValueError(f"{path / CONFIG} is not valid JSON ({error}): save the fit again, svi.save(path)") from error
    if not isinstance(config, dict) or (lacking := [name for name in needed if name not in config]):
        what = "no configuration" if not isinstance(config, dict) else f"a configuration without {lacking}"
        raise ValueError(f"{path / CONFIG} is {what} of a saved fit: save the fit again, svi.save(path)")
    rows = _read(path / ROWS).get("rows") if (path / ROWS).is_file() else None
    return _read(path / WEIGHTS), config, rows


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({error}): save the fit again, svi.save(path)") from error


def _hint(path: Path) -> str:
    """What a path is that is no saved folder, and how to read it."""
    if path.is_file() and is_saved(path.parent):
        return f"is a file in it: pass the folder, load({str(path.parent)!r})"
    if path.is_file():
        return f"is a file: read a Trainer's checkpoint with SVIModule.load_from_checkpoint({str(path)!r})"
    if path.is_dir() and (inner := sorted(one for one in path.iterdir() if is_saved(one))):
        return f"holds saved folders: pass one of them, load({str(inner[0])!r})"
    if path.is_dir() and (inner := sorted(path.glob("*.ckpt"))):
        return f"holds checkpoints: read one with SVIModule.load_from_checkpoint({str(inner[0])!r})"
    return "" if path.exists() else "does not exist"
