"""Atomic writes of files and folders, which are written beside their path, flushed to the disk, and then renamed."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux' renameat2


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

    Raises
    ------
    OSError
        If it cannot be written, with ``path`` in the message.
    """
    # The name is kept, in a temporary folder, because some writers choose a format by the suffix.
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        write(temporary / path.name)
        _flush(temporary / path.name)
        _rename(temporary / path.name, path)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # as of a full disk
            error.filename = str(path)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def write_together(folder: Path, write: Callable[[Path], Any], old: Iterable[str] = ()) -> list[Path]:
    """Write files that belong together: nothing in ``folder`` changes until all are written.

    Parameters
    ----------
    folder
        where they go; it must exist.
    write
        function of another, empty folder, which writes the files, and folders, there.
    old
        names of files and folders of an earlier run, which are removed where the new run has none of that name.

    Returns
    -------
    The paths of the new files and folders, by name.
    """
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    try:
        write(temporary)
        _flush(temporary)
        names = sorted(path.name for path in temporary.iterdir())
        remove(folder, set(old) - set(names))
        for name in names:
            _rename(temporary / name, folder / name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [folder / name for name in names]


def remove(folder: Path, names: Iterable[str]) -> None:
    """Remove files and folders of these names from a folder, where they exist; names with a path in them are kept."""
    for path in (folder / name for name in names if name == Path(name).name and name not in ("", ".", "..")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Wait until a file, or a folder and all that is in it, is on the disk.

    Otherwise the disk may get the new name before the content, and a power cut between the two leaves an empty file.
    """
    if os.name != "posix":
        return  # elsewhere a file must be open for writing to be flushed
    for one in (path, *path.rglob("*")):
        handle = os.open(one, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of a filesystem without it
                raise
        finally:
            os.close(handle)


def _rename(fresh: Path, path: Path) -> None:
    """Rename to a path whose file or folder it replaces."""
    if not path.is_dir():
        os.replace(fresh, path)
    elif not _exchange(fresh, path):
        _replace_folder(path, fresh, old=fresh.parent.with_name(f"{fresh.parent.name}-old"))


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names by a single call of the system; False where it has none, or none on this filesystem."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    names = os.fsencode(one), os.fsencode(other)
    return renameat2 is not None and renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0


def _replace_folder(path: Path, fresh: Path, old: Path) -> None:
    """Replace a folder by ``fresh`` in two renames."""
    path.rename(old)
    try:
        fresh.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old)
