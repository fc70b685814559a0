"""Files as bytes, decompressed by what they hold and not by their names; files that are no text are named."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

ZIP = b"PK\x03\x04"
OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    ZIP: lambda path: _open_zip(path),
}
# How other files begin, and what they are.
NO_TEXT = {
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save the sheet as CSV",
    b"PAR1": "a Parquet file: give it the ending .parquet",
    b"\x89HDF": "an HDF5 file: if it holds an AnnData, pass it to DELDataModule, with the ending .h5ad",
    b"ARROW1": "a Feather file: pass pandas.read_feather(path)",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard: decompress it",
    b"%PDF": "a PDF: export the table as CSV",
    b"{\\rtf": "formatted text: save it as plain text",
}
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)  # raised by files that are cut or damaged


def open_bytes(path: Path) -> IO[bytes]:
    """A file for reading, also one that is compressed by gzip, bzip2, xz or zip, whatever its name.

    Raises
    ------
    ValueError
        For a zip file of several files, and for an Excel workbook, which is one.
    OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile
        `BROKEN`: if the file cannot be read; also when reading from it.
    """
    with path.open("rb") as file:
        start = file.read(8)
    return next((opener(path) for mark, opener in OPENERS.items() if start.startswith(mark)), None) or path.open("rb")


def check_text(path: Path) -> None:
    """Raise a ValueError that names what a file is, if it is known by its first bytes to be no text."""
    with open_bytes(path) as file:
        start = file.read(8)
    if any(start.startswith(mark) for mark in OPENERS):
        raise ValueError("it is compressed twice: decompress it once")
    for mark, what in NO_TEXT.items():
        if start.startswith(mark):
            raise ValueError(f"it is {what}")


def _open_zip(path: Path) -> IO[bytes]:
    archive = zipfile.ZipFile(path)
    names = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    if "[Content_Types].xml" in names:
        raise ValueError("it is an Excel workbook: save the sheet as CSV")
    if "mimetype" in names:
        raise ValueError("it is a workbook of LibreOffice: save the sheet as CSV")
    if len(names) != 1:
        raise ValueError(f"it is a zip file of {len(names)} files, and must have one: unpack it")
    if archive.getinfo(names[0]).flag_bits & 1:
        raise ValueError("it is a zip file with a password: unpack it")
    return archive.open(names[0])
