"""Tables in: a CSV, TSV or Parquet file, or a DataFrame, first a few rows and then the columns that are wanted."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

HEAD = 1000  # rows from which the columns are recognised
TEXT = (".csv", ".tsv", ".txt")
EMPTY = ["", "NA", "N/A", "NaN", "nan", "NULL", "null", "None"]  # in a column of numbers; a name may be "NA"

Load = Callable[[tuple[list[str], list[str]] | None], pd.DataFrame]


def open_table(source: Any) -> Load:
    """A function that gives a table's first rows (of None), or all rows of its columns of text and of numbers.

    Raises
    ------
    FileNotFoundError, ImportError, TypeError, ValueError
        Where there is no such file, no package that reads it, or it is no table.
    """
    if isinstance(source, pd.DataFrame):
        return _of_frame(source)
    if not isinstance(source, str | Path):
        raise TypeError(f"path_or_frame must be a path or a DataFrame, and is a {type(source).__name__}")
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"path_or_frame={str(path)!r} is no file")
    if path.suffix == ".parquet":
        return _of_frame(_parquet(path))
    if Path(path.name.removesuffix(".gz")).suffix not in TEXT:
        raise ValueError(
            f"path_or_frame={str(path)!r}: pass a {', '.join(TEXT)} file (also .gz), a .parquet file or a DataFrame"
        )
    return _of_text(path)


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise ImportError(f"{path}: pandas needs a package to read Parquet: pip install pyarrow") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"path_or_frame={str(path)!r} could not be read as a table ({error})") from error


def _of_frame(frame: pd.DataFrame) -> Load:
    """The index becomes columns: without a name it holds the compounds' names, if it is text."""
    frame = frame.set_axis(frame.columns.map(str), axis=1)
    index = frame.index
    if list(index.names) != [None]:
        frame = frame.reset_index([name for name in index.names if name is not None and name not in frame])
    elif pd.api.types.infer_dtype(index) == "string" and "compound_id" not in frame:
        frame = frame.rename_axis("compound_id").reset_index()
    _check_header(list(frame.columns))
    return lambda wanted: frame.head(HEAD) if wanted is None else frame


def _of_text(path: Path) -> Load:
    """Building blocks, names and SMILES are read as the text they are: "001" stays, and so does "NA"."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            line = file.readline()
        separator = max("\t,;", key=line.count)
        header = pd.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False).iloc[0]
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"path_or_frame={str(path)!r} could not be read as a table ({error})") from error
    _check_header([name for name in header if name])

    def load(wanted: tuple[list[str], list[str]] | None) -> pd.DataFrame:
        if wanted is None:
            head = pd.read_csv(path, sep=separator, nrows=HEAD)
            if not isinstance(head.index, pd.RangeIndex):  # what pandas makes of it, columns that are shifted
                raise ValueError(
                    f"path_or_frame={str(path)!r}: its rows have more fields than its header has names; name the "
                    "column of row names too (in R: write.table(..., row.names = FALSE))"
                )
            return head
        text, numbers = wanted
        return pd.read_csv(
            path,
            sep=separator,
            usecols=[*text, *numbers],
            dtype=dict.fromkeys(text, str),
            keep_default_na=False,
            na_values={**{name: [""] for name in text}, **dict.fromkeys(numbers, EMPTY)},
            low_memory=False,  # in pieces, a column of mixed types would be of two
        )

    return load


def _check_header(names: list[str]) -> None:
    again = pd.Index(names)[pd.Index(names).duplicated()]
    if len(again):
        raise ValueError(f"the table has several columns called {again[0]!r}: rename or drop all but one")
