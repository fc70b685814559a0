"""Names on the axes of data: missing, twice, or differing only in blanks."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

# What pandas, R and databases write where a name or number is missing; not "none", which is a name.
MISSING = ("NA", "N/A", "n/a", "#N/A", "#NA", "<NA>", "NaN", "nan", "-NaN", "-nan", "NaT", "NULL", "null", "None")
# What is no name: nor is what spreadsheets write where a formula failed.
NO_NAMES = ("", *MISSING, "#REF!", "#VALUE!", "#NAME?", "#DIV/0!", "#NUM!", "#NULL!")
# Blanks of any kind, and marks of no width that spreadsheets and web pages leave in names.
BLANKS = re.compile("[\\s\u200b\u200c\u200d\u2060\ufeff]+")


def plain(name: str) -> str:
    """A name without blanks at its ends, and with one space for each run of blanks within."""
    return BLANKS.sub(" ", name).strip()


def check_names(names: Iterable[Any], what: str, fix: str, unique: str = "must be unique") -> None:
    """Raise a ValueError where names are missing or empty, occur twice, or differ from another only in blanks.

    Parameters
    ----------
    names
        the names.
    what
        what they are, for errors: ``adata.var_names``.
    fix
        how to make names unique, for errors.
    unique
        why they must be, for errors.
    """
    index = names if isinstance(names, pd.Index) else pd.Index([*names], dtype=object)
    missing = np.asarray(index.isna())
    if missing.any():
        raise ValueError(
            f"{what} must have no missing names; got {int(missing.sum())} missing (NaN), the first at position "
            f"{int(missing.argmax())}: name them (pandas reads names such as 'nan' or 'NA' with keep_default_na=False)"
        )
    try:
        joined = "".join(index)
    except TypeError:  # numbers among them
        index = pd.Index([str(name) for name in index], dtype=object)
        joined = "".join(index)
    if not index.is_unique:
        raise ValueError(f"{what} {unique}; got {index[index.duplicated()][0]!r} twice: {fix}")
    # One search over all names, since most have no blanks.
    if "" in index or BLANKS.search(joined) is not None:
        _check_blanks(list(index), what)


def _check_blanks(names: list[str], what: str) -> None:
    first: dict[str, str] = {}
    for name in names:
        if not (key := plain(name)):
            raise ValueError(f"{what} must have no missing names; got the empty name {name!r}: name it")
        if key in first:
            raise ValueError(
                f"{what} must differ in more than blanks; got {first[key]!r} and {name!r}: take blanks off the ends "
                "(.str.strip()), or rename one"
            )
        first[key] = name


def check_axis_names(adata: AnnData, what: str = "adata") -> None:
    """Raise a ValueError where names of rows or columns are missing, not unique, or differ only in blanks."""
    for axis, names in (("obs", adata.obs_names), ("var", adata.var_names)):
        fix = f"call {what}.{axis}_names_make_unique() first"
        check_names(names, f"{what}.{axis}_names", fix, "must be unique, since results are labelled by them")


def same_but_for_blanks(names: Iterable[str], others: Iterable[str]) -> tuple[str, str] | None:
    """The first of ``names`` that is one of the ``others`` but for blanks, and that one; None if there is none."""
    by_plain = {plain(str(other)): str(other) for other in others}
    return next(((str(name), by_plain[key]) for name in names if (key := plain(str(name))) in by_plain), None)


def check_one_name(**keys: Any) -> None:
    """Raise a ValueError where an argument is neither None nor one name."""
    for argument, key in keys.items():
        if not isinstance(key, str | None):
            raise ValueError(
                f"{argument} must be the name of one column or layer; got {reprlib.repr(key)}: pass one name"
            )


def list_of(argument: str, names: Any, order: Iterable[str] | None = None, repeats: bool = False) -> list[Any]:
    """Names given as a list, tuple, Index, Series, Categorical, array (NumPy, pyarrow), or generator, as a list.

    Parameters
    ----------
    argument
        name of the argument, for errors.
    names
        the names.
    order
        where the order of names is of no importance: the order in which those of a set are taken. None refuses sets.
    repeats
        whether a name may be given twice.

    Raises
    ------
    ValueError
        For a text, for what is no list of names, and for names that are missing or given twice.
    """
    if isinstance(names, str | bytes):
        raise ValueError(f"{argument} must be a list of names; got the text {names!r}: pass [{names!r}]")
    if isinstance(names, pd.DataFrame | dict) or not hasattr(names, "__iter__") or getattr(names, "ndim", 1) != 1:
        raise ValueError(f"{argument} must be a list of names; got a {type(names).__name__}, {reprlib.repr(names)}")
    if isinstance(names, set | frozenset):
        if order is None:
            raise ValueError(f"{argument} must be in order, and a set has none; got {names!r}: pass a list")
        found = [name for name in order if name in names]
        return found + sorted(names.difference(found), key=str)
    found = names.to_pylist() if hasattr(names, "to_pylist") else list(names)
    found = [str(name) if isinstance(name, np.str_) else name for name in found]
    for name in found:
        if isinstance(name, bool | np.bool_ | list | tuple | dict | np.ndarray) or pd.isna(name):
            raise ValueError(f"{argument} must be a list of names; got {name!r} among them")
    if not repeats:
        check_names(found, argument, "drop one", "must have each name once")
    return found
