"""Atomic writes of files and folders, which are written beside their path and then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def atomic_write(path: Path, write: Callable[[Path], Any]) -> Path:
    """Write a file or a folder beside its path, then rename it, so that an old one stays whole until the new one is.

    Parameters
    ----------
    path
        of the file or folder; its parent folder must exist.
    write
        function of another path with the same name, which writes the file or folder there.

    Returns
    -------
    ``path``.
    """
    # The name is kept, in a temporary folder, because some writers choose a format by the suffix.
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        write(temporary / path.name)
        if path.is_dir():
            _replace_folder(path, temporary / path.name, old=temporary.with_name(f"{temporary.name}-old"))
        else:
            os.replace(temporary / path.name, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def _replace_folder(path: Path, fresh: Path, old: Path) -> None:
    """Replace a folder by ``fresh``: the system has no single call for that if the folder is not empty."""
    path.rename(old)
    try:
        fresh.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)
