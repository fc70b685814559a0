"""Reading of tables from CSV, TSV and Parquet files and from DataFrames: first a few rows, then chosen columns."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

HEAD = 1000  # number of rows from which the columns are recognised
TEXT = (".csv", ".tsv", ".txt")
# Missing values in columns of numbers; a name may be "NA".
EMPTY = ["", "NA", "N/A", "NaN", "nan", "NULL", "null", "None"]

Load = Callable[[tuple[list[str], list[str]] | None], pd.DataFrame]


def open_table(source: Any) -> Load:
    """A function that reads a table: for None its first rows, for (text, numbers) all rows of these lists of columns.

    Raises
    ------
    FileNotFoundError, ImportError, TypeError, ValueError
        If there is no such file, pandas has no engine for it, or it is not a table.
    """
    if isinstance(source, pd.DataFrame):
        return _frame_loader(source)
    if not isinstance(source, str | Path):
        raise TypeError(f"path_or_frame must be a path or a DataFrame; got a {type(source).__name__}")
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"path_or_frame={str(path)!r} is not a file")
    if path.suffix == ".parquet":
        return _frame_loader(_parquet(path))
    if Path(path.name.removesuffix(".gz")).suffix not in TEXT:
        raise ValueError(
            f"path_or_frame must be a {', '.join(TEXT)} file (also .gz), a .parquet file or a DataFrame; "
            f"got {str(path)!r}"
        )
    return _text_loader(path)


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise ImportError(f"{path}: pandas needs a package to read Parquet: pip install pyarrow") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"path_or_frame={str(path)!r} could not be read as a table ({error})") from error


def _frame_loader(frame: pd.DataFrame) -> Load:
    """Loader of a DataFrame, with its index as columns; an index of text without a name holds the compounds' names."""
    frame = frame.set_axis(frame.columns.map(str), axis=1)
    index = frame.index
    if list(index.names) != [None]:
        frame = frame.reset_index([name for name in index.names if name is not None and name not in frame])
    elif pd.api.types.infer_dtype(index) == "string" and "compound_id" not in frame:
        frame = frame.rename_axis("compound_id").reset_index()
    _check_header(list(frame.columns))
    return lambda wanted: frame.head(HEAD) if wanted is None else frame


def _text_loader(path: Path) -> Load:
    """Loader of a text file, in which building blocks, names and SMILES stay text, such as "001" or "NA"."""
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
            if not isinstance(head.index, pd.RangeIndex):  # pandas shifted the columns
                raise ValueError(
                    f"path_or_frame={str(path)!r}: its rows have more fields than its header has names: add the name "
                    "of the column of row names, or leave it out (in R: write.table(..., row.names = FALSE))"
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
            low_memory=False,  # else a column that is parsed in chunks may get several types
        )

    return load


def _check_header(names: list[str]) -> None:
    again = pd.Index(names)[pd.Index(names).duplicated()]
    if len(again):
        raise ValueError(
            f"the table must have distinct columns; got several called {again[0]!r}: rename or drop all but one"
        )
