"""Which columns of a DEL table hold what: selections and their conditions, building blocks, ids, SMILES."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pyro_omics.data.dna_encoded.errors import Argument, ArgumentError
from pyro_omics.data.dna_encoded.tables.conditions import KNOWN, Selection, assumed, example, labelled, numbered, some
from pyro_omics.data.dna_encoded.tables.layouts import LAYOUTS, Layout
from pyro_omics.data.dna_encoded.tables.layouts.base import matches

INDEX = "Unnamed: 0"  # what pandas calls the index of a table in CSV
IDS = (*(layout.id_column for layout in LAYOUTS.values() if layout.id_column), "compound_id", "compound", "id", INDEX)


@dataclass(frozen=True)
class Columns:
    """What is read of a table of a ``layout``; ``synthons`` maps a column of obs to the table's.

    ``names`` are all of the table's; ``unnamed`` those that look like counts and are not taken; ``assumed`` the
    targets that may be something else; ``candidates`` the columns of text that no other part is made of.
    """

    layout: str
    selections: list[Selection]
    synthons: dict[str, str]
    id: str | None
    smiles: str | None
    names: list[str]
    unnamed: list[str]
    assumed: list[str]
    candidates: list[str]

    def counts(self) -> list[str]:
        """The table's columns of numbers."""
        return [one.column for one in self.selections]

    def text(self) -> list[str]:
        """The table's columns of text."""
        return [name for name in (*self.synthons.values(), self.id, self.smiles) if name is not None]


# Text that a condition's name alone makes, without a replicate's number.
CONDITION_ALONE = "|".join(name.replace("-", "[-_ ]?") for name in KNOWN)
LETTER = "([A-Z])"
FAMILIES = (
    LETTER,
    *(layout.synthons for layout in LAYOUTS.values() if layout.synthons),
    *(rf"(?i:{word})[_ ]?(\d+)" for word in ("cycle", "bb", "synthon", "codon", "building[_ ]?block")),
    r"(?i:bb)[_ ]?(\d+)[_ ]?(?i:id)",
    r"(?i:bb)[_ ]([A-Za-z])",
)
STRUCTURES = (r"(?i:smiles)_([A-Za-z])",)  # building blocks where no other columns name them


def recognise(
    head: pd.DataFrame,
    layout: str | None,
    conditions: Mapping[str, str] | None,
    synthon_keys: Sequence[str] | None,
    counts: str,
) -> Columns:
    """The columns of a table, from its first rows.

    Raises
    ------
    ValueError
        Where no layout fits, several do, or a column that is asked for is not there; see `read_del`.
    """
    names = [str(name) for name in head.columns]
    conditions = dict(conditions or {})
    # A column "target" may as well be of proteins' names.
    is_number = pd.api.types.is_numeric_dtype
    free = [name for name in names if not re.fullmatch(f"(?i:{CONDITION_ALONE})", name) or is_number(head[name])]
    chosen = _chosen(layout, free, head, conditions)
    blocks = _synthons(head, chosen.synthons, synthon_keys, conditions)
    found = chosen.selections(free, counts)
    ids = {name.lower() for name in (*IDS, "smiles")}
    others = [n for n in names if n in conditions or (n not in blocks.values() and n.lower() not in ids)]
    selections = labelled(found, others if chosen.takes_other_columns else [], conditions)
    if not selections or any(selection.condition is None for selection in selections):
        raise ArgumentError(
            Argument("layout", chosen.name),
            ": the names of the counts do not say what they were selected on. ",
            *_how(head, blocks),
        )
    if both := [one.column for one in selections if one.column in blocks.values()]:
        raise ValueError(f"{both[0]!r} is among the building blocks and among the counts: it is one or the other")
    taken = {*blocks.values(), *(selection.column for selection in selections)}
    lower = {name.lower(): name for name in names}
    like = _like_counts(head, taken)
    unnamed = [name for name in like if chosen.is_general or _may_be_cycle(name, blocks, synthon_keys)]
    return Columns(
        layout=chosen.name,
        selections=numbered(selections),
        synthons=blocks,
        id=_id(head, taken),
        smiles=lower.get("smiles"),
        names=names,
        unnamed=unnamed,
        assumed=[] if chosen.names_conditions else assumed(selections, conditions),
        candidates=[n for n in names if n not in taken and n.lower() not in ids and _is_text(head[n])],
    )


def _chosen(layout: str | None, names: list[str], head: pd.DataFrame, conditions: Mapping[str, str]) -> Layout:
    """The layout that is asked for, or the one that fits the columns that ``names`` are of."""
    fitting = [name for name, one in LAYOUTS.items() if one.fits(names)]
    columns = some([str(name) for name in head.columns])
    if layout is not None:
        asked = LAYOUTS[layout]
        if layout not in fitting and not asked.is_general:
            raise ArgumentError(
                Argument("layout", layout), f" is known by {asked.needs}, and the columns are {columns}"
            )
        return asked
    if not fitting and conditions:
        return next(one for one in LAYOUTS.values() if one.is_general)
    if len(fitting) == 1:
        return LAYOUTS[fitting[0]]
    if fitting:
        which = Argument("layout", fitting[0])
        raise ArgumentError(f"several layouts fit the columns: {', '.join(fitting)}; say which, ", which)
    sought = "; ".join(f"{name}: {one.needs}" for name, one in LAYOUTS.items())
    how = _how(head, _synthons(head, None, None, {}))
    raise ArgumentError(f"no layout fits the columns {columns}. Looked for {sought}. ", *how)


def _synthons(
    head: pd.DataFrame, pattern: str | None, synthon_keys: Sequence[str] | None, conditions: Mapping[str, str]
) -> dict[str, str]:
    """Columns of obs and the table's: the ones named, under their names; else those recognised, as A, B, C, ..."""
    names = [str(name) for name in head.columns]
    if synthon_keys is not None:
        if lacking := [key for key in synthon_keys if key not in names]:
            raise ValueError(f"synthon_keys: {lacking[0]!r} is not a column: there are {some(names)}")
        return {key: key for key in synthon_keys}
    free = [name for name in names if name not in conditions]
    families: list[list[str]] = []
    for patterns in ((pattern,),) if pattern else (FAMILIES, STRUCTURES):
        families = families or [family for one in patterns if len(family := _family(head[free], one)) > 1]
    if len(families) > 1:
        which = Argument("synthon_keys", families[0])
        raise ArgumentError(
            f"building blocks could be the columns {' or '.join(map(str, families))}: say which, ", which
        )
    return {chr(ord("A") + i): name for i, name in enumerate(families[0])} if families else {}


def _family(head: pd.DataFrame, pattern: str) -> list[str]:
    """Columns that differ in the cycle's letter or number, in its order; letters run from A without a gap."""
    cycles = {match[1].upper(): match.string for match in matches(list(head.columns), pattern)}
    if all(cycle.isdigit() for cycle in cycles):
        return [cycles[cycle] for cycle in sorted(cycles, key=int)]
    letters = [chr(ord("A") + i) for i in range(26)]
    run = next((i for i, letter in enumerate(letters) if letter not in cycles), 26)
    family = [cycles[letter] for letter in letters[:run]]
    # A letter alone may be a selection's name: whole numbers beside two or more cycles of text are no cycle.
    named = [name for name in family if name not in _like_counts(head, set())]
    return named if pattern == LETTER and len(named) > 1 else family


def _may_be_cycle(name: str, blocks: Mapping[str, str], synthon_keys: Sequence[str] | None) -> bool:
    """Whether a column that is left out might be a cycle of those recognised by their letters."""
    by_letter = synthon_keys is None and bool(matches(list(blocks.values()), LETTER))
    return by_letter and bool(matches([name], LETTER))


def _id(head: pd.DataFrame, taken: set[str]) -> str | None:
    lower = {str(name).lower(): str(name) for name in head.columns if name not in taken}
    found = [lower[name.lower()] for name in IDS if name.lower() in lower]
    # Rows that were numbered when the table was written name nothing.
    return next((name for name in found if name != INDEX or not pd.api.types.is_numeric_dtype(head[name])), None)


def _like_counts(head: pd.DataFrame, taken: set[str]) -> list[str]:
    """Columns of a table's first rows that hold whole numbers, 0 or more, and are not ``taken``."""
    ids = {name.lower() for name in IDS}
    return [
        str(name)
        for name in head.columns
        if name not in taken and str(name).lower() not in ids and _are_whole(head[name].dropna())
    ]


def _are_whole(values: pd.Series) -> bool:
    if values.empty or pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        return False
    return bool((values >= 0).all() and (values % 1 == 0).all())


def _is_text(values: pd.Series) -> bool:
    return pd.api.types.infer_dtype(values, skipna=True) in ("string", "categorical")


def _how(head: pd.DataFrame, blocks: Mapping[str, str]) -> tuple[str | Argument, ...]:
    """How to pass ``conditions``, with the columns that look like counts."""
    like = _like_counts(head, {*blocks.values()})
    if not like:
        return ("No column holds whole numbers, as counts would be",)
    return f"Columns that look like counts: {some(like)}; say what each was selected on, ", example(like)
