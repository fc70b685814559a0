"""Names of building blocks and compounds as programs write them: "001", 1.0, ``="001"``; not rounded ones."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from pyro_omics.data.dna_encoded.tables.written_numbers import as_written
from pyro_omics.data.names import check_names

LARGEST_EXACT = 2**53  # above it, float64 skips integers
WHOLE_FLOAT = re.compile(r"(-?\d+)[.,]0")
# Spreadsheets write long numbers so; an id such as "1e5" is none of these.
SUMMARY = re.compile(r"(?i)(?:grand |sub)?(?:total|sum|mean|average|median)s?:?")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
ROUNDED = re.compile(r"-?\d(?:[.,]\d+)?E\+\d+")


def names_in(values: pd.Series, column: str) -> pd.Series:
    """Names as text without blanks at their ends; missing ones stay missing, whole floats have no fraction.

    A float is the whole number that it was: "1.0" is "1" where all names of the column end in ".0". "001" and "1" are
    two names.

    Parameters
    ----------
    values
        the column.
    column
        its name, for errors.

    Raises
    ------
    ValueError
        If names are neither text nor numbers, or numbers that were rounded.
    """
    try:
        codes, levels = pd.factorize(values.astype(object))
    except TypeError as error:  # lists and dictionaries have no hash
        raise ValueError(f"the column {column!r} must hold names; got values that are no text ({error})") from error
    text = [_as_text(level, column) for level in levels]
    if all(map(WHOLE_FLOAT.fullmatch, text)):
        text = [WHOLE_FLOAT.sub(r"\1", one) for one in text]
    # The last entry is for the code -1, "missing".
    return pd.Series(np.array([*text, None], dtype=object)[codes], index=values.index)


def check_blocks(names: Iterable[str], column: str) -> None:
    """Raise a ValueError where building blocks differ only in how they are written, or are of no compound."""
    names, what = list(names), f"the building blocks in the column {column!r}"
    check_names(names, what, "rename one")
    known = set(names)
    commented = [name for name in names if name.startswith("#")]
    for name in names:
        match = WHOLE_FLOAT.fullmatch(name)
        if match is not None and match[1] in known:
            raise ValueError(
                f"{what} must be written alike; got {match[1]!r} and {name!r}: write both as one, or rename one"
            )
        if SUMMARY.fullmatch(name):
            raise ValueError(
                f"{what} must be of compounds; got {name!r}, as of a row of sums: leave it out, or rename it"
            )
        if name in commented and len(commented) < len(names):
            raise ValueError(
                f"{what} must be of compounds; got {name!r}, as of a comment, which may stand above the header alone: "
                "leave it out, or rename it"
            )


def _as_text(level: Any, column: str) -> str:
    if isinstance(level, float | np.floating) and float(level).is_integer():
        if abs(float(level)) > LARGEST_EXACT:
            raise ValueError(
                f"the column {column!r} must hold names as they are; got the float {level!r}, above 2^53, where floats "
                "skip integers: read the column as text, pandas.read_csv(..., dtype=str)"
            )
        return str(int(level))
    if isinstance(level, bytes | bool | np.bool_ | tuple | complex | datetime.date | np.datetime64):
        raise ValueError(
            f"the column {column!r} must hold names, as text or numbers; got {level!r}, a {type(level).__name__}: "
            "write them as text"
        )
    text = as_written(str(level))
    if isinstance(level, str) and ROUNDED.fullmatch(text):
        raise ValueError(
            f"the column {column!r} must hold names as they are; got {text!r}, which a spreadsheet has rounded: export "
            "it again with the column formatted as text"
        )
    if text.startswith("=") or CONTROL.search(text):
        what = "a formula" if text.startswith("=") else "text with a control character"
        raise ValueError(f"the column {column!r} must hold names; got {text!r}, {what}: write the name")
    return text
