"""Files and folders that are whole or not there: written beside their place, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def atomic_write(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write a file or a folder beside its place, then rename it: what was there stays whole until the new one is.

    Parameters
    ----------
    path
        where it will be; its parent folder exists.
    write
        is called with another path of the same name, and makes the file or the folder there.

    Returns
    -------
    ``path``.
    """
    # Of this name but in a folder of its own: some writers choose a format by the name's end.
    beside = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        write(beside / path.name)
        if path.is_dir():
            _replace_folder(path, beside / path.name, old=beside.with_name(f"{beside.name}-old"))
        else:
            os.replace(beside / path.name, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return path


def _replace_folder(path: Path, fresh: Path, old: Path) -> None:
    """Put a folder in another one's place: no single call of the system does that for a folder with content."""
    path.rename(old)
    try:
        fresh.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)
