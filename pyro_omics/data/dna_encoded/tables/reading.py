"""Tables of DEL counts in: one row per compound, one column per selection, in the forms that are published."""

from __future__ import annotations

import functools
import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from pyro_omics.data.anndata_io.reading import check_keys
from pyro_omics.data.dna_encoded.errors import Argument, ArgumentError, ArgumentWarning
from pyro_omics.data.dna_encoded.full_grid import (
    SEPARATOR,
    check_distinct,
    check_named,
    complete_grid,
    natural_categorical,
)
from pyro_omics.data.dna_encoded.tables.conditions import example, some
from pyro_omics.data.dna_encoded.tables.files import open_table
from pyro_omics.data.dna_encoded.tables.layouts import LAYOUTS, LayoutName
from pyro_omics.data.dna_encoded.tables.recognition import Columns, recognise

LARGEST = 2**24  # float32 does not count exactly above
INCOMPLETE, COMPLETE = Argument("complete", False), Argument("complete", True)
FILTERED = ArgumentWarning(
    "the table looks filtered: each of its compounds has two counts or more, as after a threshold. Compounds below it "
    "are added with zeros, which is less than they had: pass the table as it was before the filter, or ",
    INCOMPLETE,
    " (",
    COMPLETE,
    " says that nothing was filtered)",
)
NAME_BLOCKS = Argument("synthon_keys", ...)
READS = r"(?:^|[^a-z])(?:raw|reads?|read_?counts?)(?:[^a-z]|$)"

logger = logging.getLogger("pyro_omics")


def read_del(
    path_or_frame: str | Path | pd.DataFrame,
    layout: LayoutName | None = None,
    conditions: Mapping[str, str] | None = None,
    synthon_keys: Sequence[str] | None = None,
    complete: bool | None = None,
    counts: Literal["umi", "raw"] = "umi",
) -> AnnData:
    """A table of DEL counts, one row per compound and one column per selection, as an AnnData.

    `data.LAYOUTS` has the layouts that are known, and says which columns each is recognised by: those of DEL-Dock,
    KinDEL, DELi and deldenoiser, and "plain", whose columns are called ``target_1``, ``control_1``,
    ``pre-selection_1`` or ``competitor_1`` (in any case, also without the number) or are named by ``conditions``.

    Building blocks are recognised as ``A``, ``B``, ... (a column of whole numbers beside two or more of text is left
    out); ``ID_A``; ``cycle1`` or ``cycle_1``; ``cycle_1_lane``; ``bb1``; ``bb1_id``; ``BB_A``; ``synthon1``;
    ``codon1``; and, where there are none of these, as KinDEL's ``smiles_a``. A compound is called by ``DEL_ID``,
    ``molecule_hash``, ``compound_id``, ``compound``, ``id``, or the table's index if that is text; else by its building
    blocks joined, "A001-B001-C001"; else by its SMILES. Other columns, such as DELi's sums over disynthons, are left
    out.

    Parameters
    ----------
    path_or_frame
        a .csv, .tsv or .txt file (comma, semicolon or tab; also .gz), a .parquet file, or a DataFrame.
    layout
        the form of the table, where it is not to be recognised by its columns.
    conditions
        column -> ``"target"``, ``"control"``, ``"pre-selection"`` or another word, such as ``"competitor"``. Goes
        before what the layout says, and adds columns that the layout does not know. A word that is nearly one of
        these four is refused as misspelt.
    synthon_keys
        columns of building blocks, kept under their names; by default those recognised, called A, B, C, ...
    complete
        whether to add the all-zero compounds of the full grid (`complete_grid`). None: where the table omits them,
        that is where each of its compounds has a count, and combinations of its building blocks are missing. If some
        of its compounds have no count, combinations that are missing are taken as not made. Either is said in the log
        ``pyro_omics``, at INFO. A table that was filtered otherwise needs ``False``.
    counts
        ``"umi"``: molecules, as counted by UMIs. ``"raw"``: reads (DELi's ``raw_`` columns; of other layouts the same
        columns), with a warning.

    Returns
    -------
    AnnData: X, counts as float32 CSR (compounds, selections); ``obs``, the building blocks (categorical) and
    ``smiles``, where the table has them; ``var``, ``condition`` and ``replicate``.

    Raises
    ------
    FileNotFoundError, ImportError, TypeError
        Where the file does not exist, is Parquet and pandas has no engine for it, or the argument is no table.
    ValueError
        Where no layout or several fit; where conditions are unknown, or name columns that are not there; for counts
        that are not whole, non-negative numbers; for a compound that occurs twice or lacks a building block's name.

    Warns
    -----
    UserWarning
        Where counts are reads: ``counts="raw"``, or a column's name has the word "raw", "read(s)" or "readcount(s)".
        Where columns of a plain table look like counts and are left out. Where DELi's selections are all taken as
        targets, and their names differ by more than a replicate's number. Where no building blocks are recognised.
        Where a table is completed whose compounds have two counts or more each, as after a threshold (not of
        ``complete=True``).
    """
    for argument, value, allowed in (("layout", layout, (None, *LAYOUTS)), ("counts", counts, ("umi", "raw"))):
        if value not in allowed:
            raise ValueError(f"{argument}={value!r}: pass one of {', '.join(map(repr, allowed))}")
    check_keys({}, {"synthon_keys": synthon_keys})
    load = open_table(path_or_frame)
    columns = recognise(load(None), layout, conditions, synthon_keys, counts)
    _warn_of_reads(columns.counts(), counts)
    for doubt in _doubts(columns, named=synthon_keys is not None):
        warnings.warn(doubt, stacklevel=2)
    adata = _adata(load((columns.text(), columns.counts())), columns)
    if complete is None:
        complete = _omits_zeros(adata, list(columns.synthons))
        if complete and adata.X.sum(1).min() > 1:
            warnings.warn(FILTERED, stacklevel=2)
    if not complete:
        return adata
    if not columns.synthons:
        raise ArgumentError(COMPLETE, " needs the building blocks: name their columns, ", NAME_BLOCKS)
    full = complete_grid(adata, list(columns.synthons))
    logger.info(
        "read_del: %s of the %s compounds in the full grid are not in the table and are taken to have no count: added "
        "with zeros (%s leaves them out)",
        f"{full.n_obs - adata.n_obs:,}",
        f"{full.n_obs:,}",
        INCOMPLETE,
    )
    return full


def _warn_of_reads(columns: list[str], counts: str) -> None:
    like = [name for name in columns if re.search(READS, name.lower())]
    if counts != "raw" and not like:
        return
    said = Argument("counts", "raw") if counts == "raw" else f"the column {like[0]!r}"
    warnings.warn(
        ArgumentWarning(
            said,
            ": these are reads" if counts == "raw" else " looks like reads by its name",
            ", not UMI counts: each molecule is read many times over, so that they are not Poisson. Pass UMI counts "
            "where there are any, or use a likelihood with overdispersion (negative binomial)",
        ),
        stacklevel=3,
    )


def _doubts(columns: Columns, named: bool) -> Iterator[ArgumentWarning]:
    """What may have been taken wrongly; ``named``: the caller said which columns are building blocks."""
    if names := columns.unnamed:
        yield ArgumentWarning(
            f"the columns {some(names)} look like counts, and are left out, since neither their names nor conditions "
            "say what they are: if they are selections, say of what, ",
            example(names),
            "; if they are building blocks, name the columns of all cycles, ",
            NAME_BLOCKS,
            "; if neither, drop them from the table",
        )
    if names := columns.assumed:
        yield ArgumentWarning(
            f"the selections {some(names)} are all taken as targets, and their names differ by more than a "
            f"replicate's number: columns of the layout {columns.layout} do not say what was selected on; say it of "
            "each, ",
            example(names),
        )
    if not columns.synthons and not named and (columns.id or columns.smiles):
        text = f"columns of text are {some(columns.candidates)}" if columns.candidates else "no other column is text"
        yield ArgumentWarning(
            "no building blocks are recognised among the columns, and the DEL models need them: name their columns, ",
            NAME_BLOCKS,
            f"; {text}",
        )


def _adata(table: pd.DataFrame, columns: Columns) -> AnnData:
    """The AnnData of a table, its rows in their order."""
    if table.empty:
        raise ValueError("the table has no rows")
    names = columns.counts()
    matrix = sp.csr_matrix(np.stack([_counts(table[name], name) for name in names], axis=1))
    obs = pd.DataFrame({key: _text(table[name]) for key, name in columns.synthons.items()}, index=table.index)
    check_named(obs, list(columns.synthons), list(columns.synthons.values()))
    for key in columns.synthons:
        obs[key] = natural_categorical(obs[key])
    if columns.synthons:
        check_distinct(obs, list(columns.synthons), _how_to_sum(list(columns.synthons.values()), names))
    obs.index = _ids(table, obs, columns, names)
    if columns.smiles is not None:
        obs["smiles"] = table[columns.smiles].to_numpy()
    var = pd.DataFrame(
        {
            "condition": [one.condition for one in columns.selections],
            "replicate": [one.replicate for one in columns.selections],
        },
        index=[one.name for one in columns.selections],
    )
    return AnnData(matrix, obs=obs, var=var)


def _counts(values: pd.Series, name: str) -> np.ndarray:
    """A column of counts as float32 (n,).

    Raises
    ------
    ValueError
        That names the column, the first row that is wrong, and its value.
    """
    x = pd.to_numeric(values, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    missing = values.isna().to_numpy()
    wrong = {
        "not a number": np.isnan(x) & ~missing,
        "missing": missing,
        "infinite": np.isinf(x),
        "negative": x < 0,
        "a fraction": x != np.floor(x),
        f"above 2^24 = {LARGEST:,}, which float32 does not count exactly": x > LARGEST,
    }
    for problem, rows in wrong.items():
        if rows.any():
            row = int(rows.argmax())
            value = values.tolist()[row]
            mend = "fill in 0 where nothing was seen" if problem == "missing" else "pass counts, as they were sequenced"
            raise ValueError(
                f"counts of {name!r}: row {row} (counted from 0) has {value!r}, which is {problem}; "
                f"{int(rows.sum())} such rows: {mend}"
            )
    return x.astype(np.float32)


def _text(values: pd.Series) -> pd.Series:
    """Names as text, missing ones missing; whole numbers that a missing value made fractions are whole again."""
    if pd.api.types.is_float_dtype(values) and (values.dropna() % 1 == 0).all():
        values = values.astype("Int64")
    return values.astype(object).where(values.notna(), None).map(str, na_action="ignore")


def _ids(table: pd.DataFrame, obs: pd.DataFrame, columns: Columns, counts: list[str]) -> pd.Index:
    """The compounds' names, distinct."""
    source = columns.id or (None if columns.synthons else columns.smiles)
    if source is not None:
        names = _text(table[source])
        if names.isna().any():
            row = int(names.isna().to_numpy().argmax())
            raise ValueError(f"{source!r} names the compounds, and is missing in row {row} (counted from 0)")
    elif columns.synthons:
        parts = [obs[key].astype(object) for key in columns.synthons]
        names = functools.reduce(lambda left, right: left + SEPARATOR + right, parts)
    else:
        raise ArgumentError(
            "nothing tells the compounds apart: name the columns of building blocks, ",
            NAME_BLOCKS,
            f", or have a column 'compound_id' or 'smiles'; the table's are {some(columns.names)}",
        )
    ids = pd.Index(names.to_numpy(), dtype=object)
    if not ids.is_unique:
        again = ids[ids.duplicated()]
        what = f"the compound in {source!r}" if source else "building blocks' names, joined,"
        mend = _how_to_sum([source], counts) if source else "have a column 'compound_id' that tells them apart"
        raise ValueError(
            f"{len(again)} row(s) repeat {what} of another, such as {', '.join(map(repr, again.unique()[:3]))}: {mend}"
        )
    return ids


def _how_to_sum(keys: list[str], counts: list[str]) -> str:
    return f"sum their counts, df.groupby({keys}, as_index=False)[{counts}].sum()"


def _omits_zeros(adata: AnnData, keys: list[str]) -> bool:
    """Whether no compound is without a count, though combinations of the building blocks are missing."""
    size = math.prod(len(adata.obs[key].cat.categories) for key in keys)
    if not keys or adata.n_obs == size:
        return False
    zeros = int((np.diff(adata.X.indptr) == 0).sum())
    if zeros:
        logger.info(
            "read_del: %s of the %s combinations of building blocks are in the table, %s of them without a count: the "
            "others are taken as not made (%s adds them with zeros)",
            *(f"{number:,}" for number in (adata.n_obs, size, zeros)),
            COMPLETE,
        )
    return not zeros
