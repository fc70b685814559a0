"""Counts as spreadsheets write them: "12", "12.0", "1e+05", "1 234"; not "2.000", which may be 2 or 2000."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

# Blanks and apostrophes group digits in several countries, and are never decimal marks.
GROUPED = re.compile(r"\+?\d{1,3}(?:[\s'\u2019]\d{3})+")
# Points and commas do either: three digits after them may be thousands or decimals.
EITHER = re.compile(r"[1-9]\d{0,2}(?:[.,]\d{3})+")
DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
ROUNDED = re.compile(r"[+-]?\d+[.,](\d+)[eE]\+?(\d+)")


def numbers_in(texts: pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (n,) in texts, NaN where there are none, and booleans (n,), True where a text has two readings.

    Two readings have texts such as "2.000" or "1,234", unless all texts of the column have the same number of decimals
    and these are zeros, and numbers in scientific notation with fewer digits than their power of ten, such as
    "1.23E+05", which a spreadsheet has rounded.
    """
    unclear = np.zeros(len(texts), dtype=bool)
    if texts.dtype.kind in "biuf":
        return texts.to_numpy(np.float64), unclear
    if texts.dtype.kind in "mMc":  # dates and complex numbers
        return np.full(len(texts), np.nan), unclear
    values = texts.map(lambda text: as_written(text) if isinstance(text, str) else text, na_action="ignore")
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    is_text = values.map(lambda value: isinstance(value, str)).to_numpy(dtype=bool)
    written = values[is_text]
    fixed = not written.empty and bool(written.map(lambda text: re.fullmatch(r"\d+[.]0{3}", text) is not None).all())
    for at in np.flatnonzero(is_text):
        text = values.iloc[at]
        if text.isascii() and text.isdigit():
            continue
        if GROUPED.fullmatch(text):
            numbers[at] = float(re.sub(r"[\s'\u2019]", "", text))
        elif EITHER.fullmatch(text) and not fixed:
            unclear[at] = True
            numbers[at] = float(re.sub("[.,]", "", text))
        elif DECIMAL_COMMA.fullmatch(text):
            numbers[at] = float(text.replace(",", "."))
        elif (match := ROUNDED.fullmatch(text)) and len(match[1]) < int(match[2]):
            unclear[at] = True
    return numbers, unclear


def as_written(text: str) -> str:
    """A field without blanks at its ends, and of ``="001"``, which spreadsheets write to keep a text, the text."""
    text = text.strip()
    return text[2:-1].strip() if text.startswith('="') and text.endswith('"') and len(text) > 2 else text


def as_numbers(texts: pd.Series) -> pd.Series:
    """The column with numbers for texts, if all that are not missing are numbers; else as it is.

    Texts such as "001", or ``="1"``, are ids and no numbers.
    """
    known = texts.dropna()
    if known.empty or not known.map(lambda value: isinstance(value, str)).all() or known.map(_is_id).any():
        return texts
    numbers, _ = numbers_in(texts)
    return texts if np.isnan(numbers[texts.notna().to_numpy()]).any() else pd.Series(numbers, texts.index)


def _is_id(text: str) -> bool:
    return re.fullmatch(r"0\d+", text.strip()) is not None or text.strip().startswith("=")
