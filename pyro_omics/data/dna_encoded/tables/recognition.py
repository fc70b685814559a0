"""Recognition of the columns of a DEL table: selections and their conditions, building blocks, ids, SMILES."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pyro_omics.data.dna_encoded.errors import Argument, ArgumentError
from pyro_omics.data.dna_encoded.tables.conditions import (
    KNOWN,
    Selection,
    assumed_targets,
    conditions_example,
    listed,
    with_conditions,
    with_replicates,
)
from pyro_omics.data.dna_encoded.tables.layouts import LAYOUTS, Layout
from pyro_omics.data.dna_encoded.tables.layouts.base import matches
from pyro_omics.data.dna_encoded.tables.written_numbers import numbers_in

INDEX = "Unnamed: 0"  # pandas' name for the index of a DataFrame in a CSV file
IDS = (*(layout.id_column for layout in LAYOUTS.values() if layout.id_column), "compound_id", "compound", "id", INDEX)


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are read, and those that are not.

    Attributes
    ----------
    layout
        name of the table's layout.
    selections
        the columns of counts.
    synthons
        column of obs -> the table's column of building blocks.
    id, smiles
        the columns of the compounds' names and SMILES; None if there are none.
    names
        all columns of the table.
    ignored_counts
        columns that look like counts and are not read.
    assumed_targets
        names of the selections that are taken as targets, if some of them may be something else.
    other_text
        columns of text that are not read.
    other_cycles
        columns that are called as cycles are and are not read: by a single letter, of whole numbers or after a gap; or
        alone of their kind.
    unread
        all columns that are not read.
    """

    layout: str
    selections: list[Selection]
    synthons: dict[str, str]
    id: str | None
    smiles: str | None
    names: list[str]
    ignored_counts: list[str]
    assumed_targets: list[str]
    other_text: list[str]
    other_cycles: list[str]
    unread: list[str]

    def counts(self) -> list[str]:
        """The table's columns of numbers."""
        return [one.column for one in self.selections]

    def text(self) -> list[str]:
        """The table's columns of text."""
        return [name for name in (*self.synthons.values(), self.id, self.smiles) if name is not None]


# Pattern of a column that is called by a condition alone, without the number of a replicate.
CONDITION_ALONE = "|".join(name.replace("-", "[-_ ]?") for name in KNOWN)
LETTER = "([A-Z])"
FAMILIES = (
    LETTER,
    *(layout.synthons for layout in LAYOUTS.values() if layout.synthons),
    *(
        rf"(?i:{word}){which}"
        for word in ("cycle", "bb", "synthon", "codon", "building[_ ]?block")
        for which in (r"[_ ]?(\d+)", r"[_ ]?(\d+)[_ ]?(?i:id)", r"[_ ]([A-Za-z])")
    ),
)
STRUCTURES = (r"(?i:smiles)_([A-Za-z])",)  # structures of building blocks, used if no columns have their names


def recognise(
    head: pd.DataFrame,
    layout: str | None,
    conditions: Mapping[str, str],
    synthon_keys: Sequence[str] | None,
    counts: str,
) -> Columns:
    """Recognise the columns of a table from its first rows; the other parameters are those of `read_del`.

    Raises
    ------
    ValueError
        If no layout fits, several fit, or a column that an argument names does not exist.
    """
    names = [str(name) for name in head.columns]
    # A column "target" that is not numeric may hold the names of proteins.
    free = [name for name in names if not re.fullmatch(f"(?i:{CONDITION_ALONE})", name) or _are_numbers(head[name])]
    chosen = _choose_layout(layout, free, head, conditions)
    blocks = _synthons(head, chosen.synthons, synthon_keys, conditions)
    found = chosen.selections(free, counts)
    ids = {name.lower() for name in (*IDS, "smiles")}
    others = [n for n in names if n in conditions or (n not in blocks.values() and n.lower() not in ids)]
    selections = with_conditions(found, others if chosen.takes_other_columns else [], conditions)
    if not selections or any(selection.condition is None for selection in selections):
        raise ArgumentError(
            Argument("layout", chosen.name),
            ": the names of the columns of counts do not say their conditions. ",
            *_conditions_hint(head, blocks),
        )
    if both := [one.column for one in selections if one.column in blocks.values()]:
        raise ValueError(f"a column must be either building blocks or counts; got {both[0]!r} among both")
    taken = {*blocks.values(), *(selection.column for selection in selections)}
    lower = {name.lower(): name for name in names}
    counts_left = _count_like(head, taken)
    cycles = _other_cycles(head, taken, blocks) if synthon_keys is None else []
    return Columns(
        layout=chosen.name,
        selections=with_replicates(selections),
        synthons=blocks,
        id=_id(head, taken),
        smiles=lower.get("smiles"),
        names=names,
        ignored_counts=[name for name in counts_left if chosen.is_general or name in cycles],
        assumed_targets=[] if chosen.names_conditions else assumed_targets(selections, conditions),
        other_text=[n for n in names if n not in taken and n.lower() not in ids and _is_text(head[n])],
        other_cycles=cycles,
        unread=[name for name in names if name not in taken and name.lower() not in ids],
    )


def _choose_layout(layout: str | None, names: list[str], head: pd.DataFrame, conditions: Mapping[str, str]) -> Layout:
    """The layout ``layout``, or for None the one that fits the columns ``names``."""
    fitting = [name for name, one in LAYOUTS.items() if one.fits(names)]
    columns = listed([str(name) for name in head.columns])
    if layout is not None:
        chosen = LAYOUTS[layout]
        if layout not in fitting and not chosen.is_general:
            raise ArgumentError(Argument("layout", layout), f" needs the columns {chosen.needs}; got {columns}")
        return chosen
    if not fitting and conditions:
        return next(one for one in LAYOUTS.values() if one.is_general)
    if len(fitting) == 1:
        return LAYOUTS[fitting[0]]
    if fitting:
        which = Argument("layout", fitting[0])
        raise ArgumentError(f"several layouts fit the columns: {', '.join(fitting)}; pass one, such as ", which)
    needs = "; ".join(f"{name}: {one.needs}" for name, one in LAYOUTS.items())
    hint = _conditions_hint(head, _synthons(head, None, None, {}))
    raise ArgumentError(f"no layout fits the columns {columns}. The layouts need {needs}. ", *hint)


def _synthons(
    head: pd.DataFrame, pattern: str | None, synthon_keys: Sequence[str] | None, conditions: Mapping[str, str]
) -> dict[str, str]:
    """Column of obs -> the table's: ``synthon_keys`` under their names, or the recognised columns as A, B, C, ..."""
    names = [str(name) for name in head.columns]
    if synthon_keys is not None:
        if lacking := [key for key in synthon_keys if key not in names]:
            raise ValueError(f"synthon_keys must be columns of the table, {listed(names)}; got {lacking[0]!r}")
        return {key: key for key in synthon_keys}
    free = [name for name in names if name not in conditions]
    families: list[list[str]] = []
    for patterns in ((pattern,),) if pattern else (FAMILIES, STRUCTURES):
        families = families or [family for one in patterns if len(family := _family(head[free], one)) > 1]
    if len(families) > 1:
        which = Argument("synthon_keys", families[0])
        raise ArgumentError(
            f"building blocks could be the columns {' or '.join(map(str, families))}: pass one list, such as ", which
        )
    return {chr(ord("A") + i): name for i, name in enumerate(families[0])} if families else {}


def _family(head: pd.DataFrame, pattern: str) -> list[str]:
    """The columns that match a pattern, in the order of the cycle's number or letter; single letters up to a gap."""
    cycles: dict[str, str] = {}
    for match in matches(list(head.columns), pattern):
        cycle = str(int(match[1])) if match[1].isdigit() else match[1].upper()
        if cycle in cycles:
            raise ArgumentError(
                f"the columns {cycles[cycle]!r} and {match.string!r} would both be cycle {cycle}: pass the columns of "
                "building blocks, ",
                Argument("synthon_keys", ...),
            )
        cycles[cycle] = match.string
    if pattern != LETTER:
        return [cycles[cycle] for cycle in sorted(cycles, key=lambda cycle: (len(cycle), cycle))]
    letters = [chr(ord("A") + i) for i in range(26)]
    run = next((i for i, letter in enumerate(letters) if letter not in cycles), 26)
    family = [cycles[letter] for letter in letters[:run]]
    # A single letter may be the name of a selection: whole numbers after two or more cycles of text are counts.
    text = [i for i, name in enumerate(family) if name not in _count_like(head, set())]
    return family[: text[-1] + 1] if len(text) > 1 else family


def _other_cycles(head: pd.DataFrame, taken: set[str], blocks: Mapping[str, str]) -> list[str]:
    """Columns that are not ``taken`` and may be cycles by their names; by a single letter, if other cycles are so."""
    by_letter = bool(matches(blocks.values(), LETTER))
    patterns = [one for one in FAMILIES if one != LETTER or by_letter] if blocks else []
    left = [str(name) for name in head.columns if name not in taken]
    named = {match.string for pattern in patterns for match in matches(left, pattern)}
    counts = _count_like(head, taken)
    return [name for name in left if name in named and (name in counts or _is_text(head[name]))]


def _id(head: pd.DataFrame, taken: set[str]) -> str | None:
    lower = {str(name).lower(): str(name) for name in head.columns if name not in taken}
    found = [lower[name.lower()] for name in IDS if name.lower() in lower]
    # An index of numbers only counts the rows.
    return next((name for name in found if name != INDEX or not pd.api.types.is_numeric_dtype(head[name])), None)


def _count_like(head: pd.DataFrame, taken: set[str]) -> list[str]:
    """Columns that are not ``taken`` and whose first rows hold whole numbers, 0 or more."""
    ids = {name.lower() for name in IDS}
    return [
        str(name)
        for name in head.columns
        if name not in taken and str(name).lower() not in ids and _are_whole(head[name].dropna())
    ]


def _are_whole(values: pd.Series) -> bool:
    if values.empty or pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        return False
    return values.dtype.kind != "c" and bool((values >= 0).all() and (values % 1 == 0).all())


def _are_numbers(values: pd.Series) -> bool:
    """Whether a column holds numbers, also written as text, or nothing."""
    return bool(pd.api.types.is_numeric_dtype(values)) or not np.isnan(numbers_in(values.dropna())[0]).any()


def _is_text(values: pd.Series) -> bool:
    return pd.api.types.infer_dtype(values, skipna=True) in ("string", "categorical")


def _conditions_hint(head: pd.DataFrame, blocks: Mapping[str, str]) -> tuple[str | Argument, ...]:
    """The part of a message that lists the columns that look like counts and says how to pass ``conditions``."""
    names = _count_like(head, {*blocks.values()})
    if not names:
        return ("No column holds whole numbers, as counts would be",)
    return f"Columns that look like counts: {listed(names)}; pass the condition of each, ", conditions_example(names)
