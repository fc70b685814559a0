"""Files and stores of AnnData and MuData: their paths, opening them for reading, and what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import zarr

TABLES = ("obs", "var", "obsm", "varm", "uns")  # the parts of an AnnData that are read into memory
SUFFIXES = (".h5ad", ".zarr", ".h5mu")


def checked_path(adata: str | Path) -> Path:
    """The absolute path of a .h5ad or .h5mu file or .zarr store.

    Raises
    ------
    FileNotFoundError, ValueError
        If nothing is at the path, or its suffix is another one.
    """
    path = Path(adata).expanduser().absolute()  # the working directory may change before the file is read
    if not path.exists():
        raise FileNotFoundError(f"adata={str(path)!r} does not exist: pass the path of a .h5ad file or a .zarr store")
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(
            f"adata must be the path of a .h5ad or .h5mu file or a .zarr store; got {str(path)!r}: write a file with "
            "adata.write_h5ad(path) (scanpy.read_10x_h5 reads 10x's .h5)"
        )
    return path


def is_zarr(path: Path) -> bool:
    """Whether a path is that of a .zarr store."""
    return path.suffix.lower() == ".zarr"


@contextmanager
def open_store(path: Path) -> Iterator[Any]:
    """The root group of a file or store, for reading."""
    if is_zarr(path):
        yield zarr.open_group(str(path), mode="r")
        return
    with h5py.File(path, "r") as file:
        yield file


def is_multimodal(root: Any) -> bool:
    """Whether a root group holds a MuData, and not an AnnData."""
    return "mod" in root


def is_old(root: Any) -> bool:
    """Whether a root group holds an AnnData of a version before 0.7, whose tables are arrays of records."""
    return any(name in root and hasattr(root[name], "dtype") for name in TABLES)
