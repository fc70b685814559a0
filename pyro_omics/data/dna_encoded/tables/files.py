"""Reading of tables from CSV, TSV and Parquet files and from DataFrames: first a few rows, then chosen columns."""

from __future__ import annotations

import abc
from pathlib import Path
from typing import Any

import pandas as pd

from pyro_omics.data.dna_encoded.tables.compressed import BROKEN
from pyro_omics.data.dna_encoded.tables.text import Form, form_of, line_of, open_text
from pyro_omics.data.dna_encoded.tables.written_numbers import as_numbers
from pyro_omics.data.names import MISSING, plain

HEAD = 1000  # number of rows from which the columns are recognised
TEXT = (".csv", ".tsv", ".txt")
COMPRESSED = (".gz", ".bz2", ".xz", ".zip")


class Table(abc.ABC):
    """A table that is read in two steps: its first rows, by which columns are recognised, then chosen columns."""

    @abc.abstractmethod
    def head(self) -> pd.DataFrame:
        """The first rows, of all columns."""

    @abc.abstractmethod
    def read(self, text: list[str], numbers: list[str]) -> pd.DataFrame:
        """All rows of these columns of text and of numbers; the index counts the rows of the table from 0."""

    def place(self, row: int) -> str:
        """Where a row of the table is, for errors."""
        return f"row {row} (counted from 0)"


def open_table(source: Any) -> Table:
    """The table in a file, DataFrame, or table of pyarrow or polars.

    Raises
    ------
    FileNotFoundError, ImportError, TypeError, ValueError
        If there is no such file, pandas has no engine for it, or it is not a table.
    """
    if hasattr(source, "to_pandas"):
        source = source.to_pandas()
    if isinstance(source, pd.DataFrame):
        return FrameTable(source)
    if not isinstance(source, str | Path):
        raise TypeError(f"path_or_frame must be a path or a DataFrame; got a {type(source).__name__}")
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"path_or_frame={str(path)!r} is not a file")
    name = path.name.lower()
    if name.endswith(".parquet"):
        return FrameTable(_parquet(path))
    suffix = Path(name).suffix
    if (Path(name.removesuffix(suffix)).suffix if suffix in COMPRESSED else suffix) not in TEXT:
        raise ValueError(
            f"path_or_frame must be a {', '.join(TEXT)} file (also {', '.join(COMPRESSED)}), a .parquet file or a "
            f"DataFrame; got {str(path)!r}"
        )
    return TextTable(path)


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise ImportError(f"{path}: pandas needs a package to read Parquet: pip install pyarrow") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"path_or_frame={str(path)!r} could not be read as a table ({error})") from error


class FrameTable(Table):
    """A DataFrame, with its index as columns; an index of text without a name holds the compounds' names.

    Parameters
    ----------
    frame
        the DataFrame; columns of any type, also nullable or of pyarrow.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        frame = frame.set_axis([plain(str(name)) for name in frame.columns], axis=1)
        index = frame.index
        if list(index.names) != [None]:
            frame = frame.reset_index([name for name in index.names if name is not None and name not in frame])
        elif pd.api.types.infer_dtype(index) == "string" and "compound_id" not in frame:
            frame = frame.rename_axis("compound_id").reset_index()
        _check_header(list(frame.columns))
        frame = frame.reset_index(drop=True)
        self.frame = pd.DataFrame({name: _numpy_column(frame[name]) for name in frame}, index=frame.index)

    def head(self) -> pd.DataFrame:
        """The first rows."""
        return self.frame.head(HEAD)

    def read(self, text: list[str], numbers: list[str]) -> pd.DataFrame:
        """All rows."""
        return self.frame


def _numpy_column(values: pd.Series) -> pd.Series:
    """A column in types of NumPy, or a Categorical: those of pyarrow lack operations."""
    if isinstance(values.dtype, pd.CategoricalDtype) or not pd.api.types.is_extension_array_dtype(values.dtype):
        return values
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
        if values.isna().any():
            return pd.Series(values.to_numpy(dtype=float, na_value=float("nan")), values.index)
        return pd.Series(values.to_numpy(), values.index).infer_objects()
    return values.astype(object).where(values.notna(), None)


class TextTable(Table):
    """A text file, in which building blocks, names and SMILES stay text, such as "001".

    Parameters
    ----------
    path
        the file.

    Raises
    ------
    ValueError
        If it is no table, or has broken lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.form: Form = form_of(path)
        except (*BROKEN, UnicodeError, ValueError) as error:
            raise ValueError(f"path_or_frame={str(path)!r} could not be read as a table ({error})") from error
        _check_header(list(self.form.names))

    def head(self) -> pd.DataFrame:
        """The first rows; columns in which numbers are written as spreadsheets do are numbers."""
        head = self._read(nrows=HEAD, dtype=str, keep_default_na=False, na_values=["", *MISSING])
        return head.apply(as_numbers)

    def read(self, text: list[str], numbers: list[str]) -> pd.DataFrame:
        """All rows that are not blank; counts that are not plain whole numbers stay text."""
        missing = {name: [""] if name in text else ["", *MISSING] for name in (*text, *numbers)}

        def load(columns: list[str], as_text: list[str]) -> pd.DataFrame:
            return self._read(
                usecols=columns,
                dtype=dict.fromkeys(as_text, str),
                keep_default_na=False,
                na_values={name: missing[name] for name in columns},
                low_memory=False,  # else a column that is parsed in chunks may get several types
            )

        table = load([*text, *numbers], text)
        if written := [name for name in numbers if not pd.api.types.is_integer_dtype(table[name].dtype)]:
            table[written] = load(written, written)[written]
        return table.dropna(how="all")

    def _read(self, **options: Any) -> pd.DataFrame:
        form = self.form
        wanted = options.pop("usecols", list(form.names))
        # Fields that all rows lack are not read; nor are blank ones beyond the names.
        names = [*form.names, *(f"beyond {i}" for i in range(form.width - len(form.names)))][: form.width]
        try:
            with open_text(self.path, form.encoding) as file:
                found = pd.read_csv(
                    file,
                    sep=form.separator,
                    skiprows=form.header,
                    header=None,
                    names=names,
                    usecols=[name for name in wanted if name in names],
                    index_col=False,
                    **options,
                )
        except pd.errors.EmptyDataError:
            return pd.DataFrame(columns=wanted)
        except (*BROKEN, pd.errors.ParserError, UnicodeError) as error:
            raise ValueError(f"path_or_frame={str(self.path)!r} could not be read as a table ({error})") from error
        return found.reindex(columns=wanted)

    def place(self, row: int) -> str:
        """Where a row is, for errors."""
        (line, n), columns = line_of(self.path, self.form, row), len(self.form.names)
        short = f", which has {n} fields for {columns} columns: complete it" if n < columns else ""
        return f"row {row} (counted from 0; line {line} of {self.path.name!r}{short})"


def _check_header(names: list[str]) -> None:
    again = pd.Index(names)[pd.Index(names).duplicated()]
    if len(again):
        raise ValueError(
            f"the table must have distinct columns; got several called {again[0]!r}: rename or drop all but one"
        )
