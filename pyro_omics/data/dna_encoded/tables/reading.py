"""`read_del`: a table of DEL counts, one row per compound and one column per selection, as an AnnData."""

from __future__ import annotations

import functools
import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from pyro_omics.data.dna_encoded.errors import Argument, ArgumentError, ArgumentWarning
from pyro_omics.data.dna_encoded.full_grid import (
    SEPARATOR,
    check_distinct,
    check_named,
    complete_grid,
    natural_categorical,
)
from pyro_omics.data.dna_encoded.tables.conditions import conditions_example, listed
from pyro_omics.data.dna_encoded.tables.files import Table, open_table
from pyro_omics.data.dna_encoded.tables.layouts import LAYOUTS, LayoutName
from pyro_omics.data.dna_encoded.tables.recognition import Columns, recognise
from pyro_omics.data.dna_encoded.tables.written_names import check_blocks, names_in
from pyro_omics.data.dna_encoded.tables.written_numbers import numbers_in
from pyro_omics.data.names import NO_NAMES, list_of, plain

LARGEST = 2**24  # above it, float32 skips integers
UNCLEAR = "not a plain whole number: its points or commas may be of decimals or thousands, or it was rounded"
INCOMPLETE, COMPLETE = Argument("complete", False), Argument("complete", True)
FILTERED = ArgumentWarning(
    "the table looks filtered: each of its compounds has two counts or more, as after a threshold. Compounds below the "
    "threshold are added with zeros, fewer counts than they had: pass the table from before the filter, or ",
    INCOMPLETE,
    "; if nothing was filtered, pass ",
    COMPLETE,
)
SYNTHON_KEYS = Argument("synthon_keys", ...)
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
    """Read a table of DEL counts, one row per compound and one column per selection, as an AnnData.

    `data.LAYOUTS` lists the known layouts and the columns that each is recognised by: those of DEL-Dock, KinDEL, DELi
    and deldenoiser, and "plain", whose columns are called ``target_1``, ``control_1``, ``pre-selection_1`` or
    ``competitor_1`` (in any case, also without the number) or are given by ``conditions``.

    Building blocks are recognised as ``A``, ``B``, ... (columns of whole numbers after two or more of text are left
    out, unless they are written with zeros, "001"); ``ID_A``; ``cycle_1_lane``; ``cycle1`` or ``cycle_1``,
    ``cycle1_id`` and ``cycle_A``, likewise with "bb", "synthon", "codon" or "building block"; and, if there are none of
    these, as KinDEL's ``smiles_a``.

    Names stay as they are written: "001" and "1" are two. "NA", "nan", "None" and the like are refused as missing,
    since programs write them so: a building block that is really called "NA" needs another name, and a product without
    one of the building blocks a name such as "none".

    A compound is named by ``DEL_ID``, ``molecule_hash``, ``compound_id``, ``compound``, ``id``, or the table's index if
    that is text; else by its joined building blocks, "A001-B001-C001"; else by its SMILES. Other columns, such as
    DELi's sums over disynthons, are left out.

    Parameters
    ----------
    path_or_frame
        a .csv, .tsv or .txt file (comma, semicolon, tab or |; also .gz, .bz2, .xz, .zip), a .parquet file, or a
        DataFrame, also of pyarrow or polars. Above the header of a text file may stand Excel's ``sep=;``, comments (#),
        blank lines and titles.
    layout
        name of the table's layout; None to recognise it by the columns.
    conditions
        column -> ``"target"``, ``"control"``, ``"pre-selection"`` or another word, such as ``"competitor"``. Overrides
        the conditions of the layout, and adds columns that the layout does not know. A word that is similar to one of
        these four raises an error, as misspelt.
    synthon_keys
        columns of building blocks, which keep their names; by default the recognised ones, renamed A, B, C, ...
    complete
        whether to add the all-zero compounds of the full grid (`complete_grid`). None adds them if the table seems to
        omit them: each of its compounds has a count, and combinations of its building blocks are missing. If some of
        its compounds have no count, missing combinations are taken as not synthesised. Either is logged to
        ``pyro_omics`` at level INFO. A table that was filtered otherwise needs ``False``.
    counts
        ``"umi"``: molecules, counted by UMIs. ``"raw"``: reads, with a warning; from DELi's ``raw_`` columns, or from
        the same columns in other layouts.

    Returns
    -------
    AnnData: X has the counts as float32 CSR (compounds, selections); ``obs`` the building blocks (categorical) and
    ``smiles``, if the table has them; ``var`` the columns ``condition`` and ``replicate``.

    Raises
    ------
    FileNotFoundError, ImportError, TypeError
        If the file does not exist, is Parquet and pandas has no engine for it, or the argument is not a table.
    ValueError
        If no layout or several fit; if conditions are unknown or of columns that do not exist; if counts are not whole,
        non-negative numbers, or may be read in two ways ("2.000"); if a line has a field too many or a quote that is
        not closed; if a compound occurs twice or lacks the name of a building block, or names differ only in blanks,
        or in "1" and "1.0", or were rounded by a spreadsheet ("1.23E+11").

    Warns
    -----
    UserWarning
        If counts are reads: ``counts="raw"``, or a column's name has the word "raw", "read(s)" or "readcount(s)".
        If columns of a plain table look like counts and are left out. If DELi's selections are all taken as targets,
        and their names differ in more than a replicate's number. If no building blocks are recognised. If a table is
        completed by ``complete=None`` whose compounds all have two counts or more, as after a threshold.
    """
    for argument, value, allowed in (("layout", layout, (None, *LAYOUTS)), ("counts", counts, ("umi", "raw"))):
        if value not in allowed:
            raise ValueError(f"{argument} must be one of {', '.join(map(repr, allowed))}; got {value!r}")
    if not isinstance(complete, bool | None):
        raise ValueError(f"complete must be True, False or None; got {complete!r}")
    if synthon_keys is not None:
        synthon_keys = [plain(str(key)) for key in list_of("synthon_keys", synthon_keys)]
    table = open_table(path_or_frame)
    columns = recognise(table.head(), layout, _checked_conditions(conditions), synthon_keys, counts)
    _warn_about_reads(columns.counts(), counts)
    for warning in _recognition_warnings(columns, has_synthon_keys=synthon_keys is not None):
        warnings.warn(warning, stacklevel=2)
    adata = _adata(table, columns)
    if complete is None:
        complete = _omits_zeros(adata, list(columns.synthons))
        if complete and adata.X.sum(1).min() > 1:
            warnings.warn(FILTERED, stacklevel=2)
    if not complete:
        return adata
    if not columns.synthons:
        raise ArgumentError(COMPLETE, " needs the building blocks: pass their columns, ", SYNTHON_KEYS)
    full = complete_grid(adata, list(columns.synthons))
    logger.info(
        "read_del: %s of the %s compounds in the full grid are not in the table and are added with counts of zero (%s "
        "leaves them out)",
        f"{full.n_obs - adata.n_obs:,}",
        f"{full.n_obs:,}",
        INCOMPLETE,
    )
    return full


def _warn_about_reads(columns: list[str], counts: str) -> None:
    reads = [name for name in columns if re.search(READS, name.lower())]
    if counts != "raw" and not reads:
        return
    warnings.warn(
        ArgumentWarning(
            Argument("counts", "raw") if counts == "raw" else f"the column {reads[0]!r}",
            ": these are reads" if counts == "raw" else " looks like reads by its name",
            ", not UMI counts: each molecule is read many times, so that reads are not Poisson. Pass UMI counts if "
            "there are any, or use a likelihood with overdispersion (negative binomial)",
        ),
        stacklevel=3,
    )


def _recognition_warnings(columns: Columns, has_synthon_keys: bool) -> Iterator[ArgumentWarning]:
    """Warnings about columns that may have been recognised wrongly."""
    if names := columns.ignored_counts:
        yield ArgumentWarning(
            f"the columns {listed(names)} look like counts, and are left out, since neither their names nor conditions "
            "say what they are: if they are selections, pass their conditions, ",
            conditions_example(names),
            "; if they are building blocks, pass the columns of all cycles, ",
            SYNTHON_KEYS,
            "; if neither, drop them from the table",
        )
    if names := [name for name in columns.other_cycles if name not in columns.ignored_counts]:
        yield ArgumentWarning(
            f"the columns {listed(names)} are called as building blocks are, and are left out, since they are not in "
            f"line with {listed([*columns.synthons.values()])}: if they are building blocks, pass the columns of all "
            "cycles, ",
            SYNTHON_KEYS,
            "; if not, drop them from the table",
        )
    if names := columns.assumed_targets:
        yield ArgumentWarning(
            f"the selections {listed(names)} are all taken as targets, but their names differ in more than a "
            f"replicate's number, and columns of the layout {columns.layout} do not say their conditions: pass the "
            "condition of each, ",
            conditions_example(names),
        )
    if not columns.synthons and not has_synthon_keys and (columns.id or columns.smiles):
        text = columns.other_text
        yield ArgumentWarning(
            "no building blocks are recognised among the columns, and the DEL models need them: pass their columns, ",
            SYNTHON_KEYS,
            f"; columns of text are {listed(text)}" if text else "; no other column is text",
        )


def _checked_conditions(conditions: Any) -> dict[str, str]:
    """``conditions``, also given as a Series, as a dictionary of texts."""
    if conditions is None:
        return {}
    if not isinstance(conditions, Mapping | pd.Series):
        raise ValueError(
            f"conditions must map columns to conditions; got a {type(conditions).__name__}: pass "
            "{'target_1': 'target', ...}"
        )
    return {plain(str(column)): condition for column, condition in conditions.items()}


def _adata(source: Table, columns: Columns) -> AnnData:
    """The AnnData of a table, with rows in the table's order."""
    table, names = source.read(columns.text(), columns.counts()), columns.counts()
    if table.empty:
        raise ValueError("the table must have rows; got none")
    matrix = sp.csr_matrix(np.stack([_counts(table[name], name, source) for name in names], axis=1))
    obs = pd.DataFrame({key: names_in(table[name], name) for key, name in columns.synthons.items()}, index=table.index)
    check_named(obs, list(columns.synthons), list(columns.synthons.values()), source.place)
    for key, name in columns.synthons.items():
        obs[key] = natural_categorical(obs[key])
        check_blocks(obs[key].cat.categories, name)
    if columns.synthons:
        check_distinct(obs, list(columns.synthons), *_how_to_be_distinct(columns))
    obs.index = _ids(table, obs, columns, names, source)
    if columns.smiles is not None:
        smiles = names_in(table[columns.smiles], columns.smiles)
        obs["smiles"] = smiles.where(~smiles.isin(NO_NAMES), None).to_numpy()
    var = pd.DataFrame(
        {
            "condition": [one.condition for one in columns.selections],
            "replicate": [one.replicate for one in columns.selections],
        },
        index=[one.name for one in columns.selections],
    )
    return AnnData(matrix, obs=obs, var=var)


def _counts(values: pd.Series, name: str, source: Table) -> np.ndarray:
    """A column of counts as float32 (n,).

    Raises
    ------
    ValueError
        If a value is not a count; the error names the column, the first such row and its value.
    """
    x, unclear = numbers_in(values)
    missing = values.isna().to_numpy()
    fixes = {
        "missing": "fill in 0 where nothing was seen",
        UNCLEAR: "write plain whole numbers, such as 2000",
    }
    wrong = {
        "not a number": np.isnan(x) & ~missing,
        "missing": missing,
        "infinite": np.isinf(x),
        "negative": x < 0,
        "a fraction": x != np.floor(x),
        f"above 2^24 = {LARGEST:,}, where float32 skips integers": x > LARGEST,
        UNCLEAR: unclear,
    }
    for problem, rows in wrong.items():
        if rows.any():
            row = int(rows.argmax())
            value = values.tolist()[row]
            fix = fixes.get(problem, "pass counts, as they were sequenced")
            raise ValueError(
                f"counts of {name!r}: {source.place(int(values.index[row]))} has {value!r}, which is {problem}; "
                f"{int(rows.sum())} such rows: {fix}"
            )
    return x.astype(np.float32)


def _ids(table: pd.DataFrame, obs: pd.DataFrame, columns: Columns, counts: list[str], read: Table) -> pd.Index:
    """The compounds' names, which must be distinct."""
    source = columns.id or (None if columns.synthons else columns.smiles)
    if source is not None:
        names = names_in(table[source], source)
        missing = (names.isna() | names.isin(NO_NAMES)).to_numpy()
        if missing.any():
            row = int(names.index[int(missing.argmax())])
            raise ValueError(f"the column {source!r} must name every compound; got none in {read.place(row)}")
    elif columns.synthons:
        parts = [obs[key].astype(object) for key in columns.synthons]
        names = functools.reduce(lambda left, right: left + SEPARATOR + right, parts)
    else:
        raise ArgumentError(
            "no column names the compounds: pass the columns of building blocks, ",
            SYNTHON_KEYS,
            f", or add a column 'compound_id' or 'smiles'; the table's are {listed(columns.names)}",
        )
    ids = pd.Index(names.to_numpy(), dtype=object)
    if not ids.is_unique:
        again = ids[ids.duplicated()]
        repeated = f"the compound in {source!r}" if source else "the joined names of the building blocks"
        fix = _how_to_sum([source], counts) if source else "add a column 'compound_id' with distinct names"
        examples = ", ".join(map(repr, again.unique()[:3]))
        raise ValueError(f"{len(again)} row(s) repeat {repeated} of another, such as {examples}: {fix}")
    return ids


def _how_to_be_distinct(columns: Columns) -> Iterator[str | Argument]:
    """What to do where rows repeat their building blocks: name the cycle that is left out, or sum the counts."""
    keys = list(columns.synthons.values())
    if columns.other_cycles:
        yield f"if {listed(columns.other_cycles)} are building blocks too, pass "
        yield Argument("synthon_keys", [*keys, *columns.other_cycles])
        yield "; if they are not, "
    elif columns.unread:
        yield f"if some of the columns that are not read, {listed(columns.unread)}, are building blocks too, pass all, "
        yield SYNTHON_KEYS
        yield "; if not, "
    yield _how_to_sum(keys, columns.counts())


def _how_to_sum(keys: list[str], counts: list[str]) -> str:
    return f"sum their counts, df.groupby({keys}, as_index=False)[{counts}].sum()"


def _omits_zeros(adata: AnnData, keys: list[str]) -> bool:
    """Whether combinations of the building blocks are missing and every compound has a count."""
    size = math.prod(len(adata.obs[key].cat.categories) for key in keys)
    if not keys or adata.n_obs == size:
        return False
    zeros = int((np.diff(adata.X.indptr) == 0).sum())
    if zeros:
        logger.info(
            "read_del: %s of the %s combinations of building blocks are in the table, %s of them without a count: the "
            "others are taken as not synthesised (%s adds them with zeros)",
            *(f"{number:,}" for number in (adata.n_obs, size, zeros)),
            COMPLETE,
        )
    return not zeros
