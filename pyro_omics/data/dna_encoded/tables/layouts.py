"""Which columns of a DEL table hold what: selections and their conditions, building blocks, ids, SMILES."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pyro_omics.data.dna_encoded.errors import Argument, ArgumentError
from pyro_omics.data.dna_encoded.tables.conditions import KNOWN, Selection, assumed, example, labelled, numbered, some

IDS = ("DEL_ID", "molecule_hash", "compound_id", "compound", "id", "Unnamed: 0")  # the last: an index, as CSV
UMI, READS = "corrected", "raw"  # DELi's prefixes


@dataclass(frozen=True)
class Columns:
    """What is read of a table; ``synthons`` maps a column of obs to the table's.

    ``names`` are all of the table's; ``unnamed`` those that look like counts and are not taken; ``assumed`` the
    targets that may be something else; ``candidates`` the columns of text that no other part is made of.
    """

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


@dataclass(frozen=True)
class Layout:
    """A published form of table.

    Parameters
    ----------
    needs
        what it is recognised by, for errors.
    counts
        patterns of count columns, each with its condition; groups: ``replicate``, ``name``, ``kind``, ``protein``.
    synthons
        the pattern of building-block columns that it must have; None: any of `FAMILIES`, or none.
    """

    needs: str
    counts: dict[str, str | None]
    synthons: str | None = None


BARE = "|".join(name.replace("-", "[-_ ]?") for name in KNOWN)
LANES, DELI_BLOCKS = r"cycle_(\d+)_lane", r"ID_([A-Z])"
FAMILIES = (
    "([A-Z])",
    DELI_BLOCKS,
    LANES,
    *(rf"(?i:{word})[_ ]?(\d+)" for word in ("cycle", "bb", "synthon", "codon", "building[_ ]?block")),
    r"(?i:bb)[_ ]?(\d+)[_ ]?(?i:id)",
    r"(?i:bb)[_ ]([A-Za-z])",
)
STRUCTURES = (r"(?i:smiles)_([A-Za-z])",)  # building blocks where no other columns name them
LAYOUTS = {
    "deldock": Layout(
        "'<protein>_exp_r1' and '<protein>_beads_r1'",
        {
            r"(?i:(?:(?P<protein>.+)_)?exp_r(?P<replicate>\d+))": "target",
            r"(?i:(?:.+_)?beads_r(?P<replicate>\d+))": "control",
        },
    ),
    "kindel": Layout(
        "'seq_target_1', 'seq_matrix_1', 'seq_load'",
        {
            r"seq_target_(?P<replicate>\d+)": "target",
            r"seq_matrix_(?P<replicate>\d+)": "control",
            r"seq_load": "pre-selection",
        },
    ),
    "deli": Layout(
        "'ID_A', 'ID_B' and 'corrected_<selection>' or 'raw_<selection>'",
        {rf"(?P<kind>{UMI}|{READS})_(?P<name>.+)": "target"},
        DELI_BLOCKS,
    ),
    "deldenoiser": Layout("'cycle_1_lane', 'cycle_2_lane' and 'readcount'", {"readcount": None}, LANES),
    "plain": Layout(
        "'target_1', 'control_1', 'pre-selection_1', or columns that conditions names",
        {
            rf"(?i:{condition.replace('-', '[-_ ]?')}(?:[-_. ]?(?:r|rep)?(?P<replicate>\d+))?)": condition
            for condition in KNOWN
        },
    ),
}


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
    free = [n for n in names if not re.fullmatch(f"(?i:{BARE})", n) or pd.api.types.is_numeric_dtype(head[n])]
    fitting = _fitting(free)
    if layout is None:
        layout = _only(fitting, names, head, conditions)
    elif layout not in fitting and layout != "plain":
        needs = LAYOUTS[layout].needs
        raise ArgumentError(Argument("layout", layout), f" is known by {needs}, and the columns are {some(names)}")
    blocks = _synthons(head, LAYOUTS[layout].synthons, synthon_keys, conditions)
    found = _selections(free, layout, UMI if counts == "umi" else READS)
    # Of DELi's, the other columns are sums, or the same samples' reads.
    ids = {name.lower() for name in (*IDS, "smiles")}
    free = [n for n in names if n in conditions or (n not in blocks.values() and n.lower() not in ids)]
    others = [] if layout == "deli" else free
    selections = labelled(found, others, conditions)
    if not selections or any(selection.condition is None for selection in selections):
        raise ArgumentError(
            Argument("layout", layout),
            ": the names of the counts do not say what they were selected on. ",
            *_how(head, blocks),
        )
    if both := [one.column for one in selections if one.column in blocks.values()]:
        raise ValueError(f"{both[0]!r} is among the building blocks and among the counts: it is one or the other")
    taken = {*blocks.values(), *(selection.column for selection in selections)}
    lower = {name.lower(): name for name in names}
    unnamed = [name for name in _like_counts(head, taken) if layout == "plain" or _stray(name, blocks, synthon_keys)]
    return Columns(
        selections=numbered(selections),
        synthons=blocks,
        id=_id(head, taken),
        smiles=lower.get("smiles"),
        names=names,
        unnamed=unnamed,
        assumed=assumed(selections, conditions) if layout == "deli" else [],
        candidates=[n for n in names if n not in taken and n.lower() not in ids and _is_text(head[n])],
    )


def _matches(names: Sequence[str], pattern: str) -> list[re.Match[str]]:
    return [match for name in names if (match := re.fullmatch(pattern, name))]


def _fitting(names: list[str]) -> list[str]:
    """The layouts that fit."""
    return [
        name
        for name, layout in LAYOUTS.items()
        if any(_matches(names, pattern) for pattern in layout.counts)
        and (layout.synthons is None or _matches(names, layout.synthons))
    ]


def _only(fitting: list[str], names: list[str], head: pd.DataFrame, conditions: Mapping[str, str]) -> str:
    """The one layout that fits."""
    if not fitting and conditions:
        return "plain"
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        which = Argument("layout", fitting[0])
        raise ArgumentError(f"several layouts fit the columns: {', '.join(fitting)}; say which, ", which)
    sought = "; ".join(f"{name}: {layout.needs}" for name, layout in LAYOUTS.items())
    how = _how(head, _synthons(head, None, None, {}))
    raise ArgumentError(f"no layout fits the columns {some(names)}. Looked for {sought}. ", *how)


def _selections(names: list[str], layout: str, kind: str) -> list[Selection]:
    """The layout's selections, in the order of the columns; of DELi's, those of one kind."""
    found = {}
    for pattern, condition in LAYOUTS[layout].counts.items():
        for match in _matches(names, pattern):
            groups, column = match.groupdict(), match.string
            if groups.get("kind", kind) == kind:
                name, replicate, protein = (groups.get(one) for one in ("name", "replicate", "protein"))
                found[column] = Selection(column, name or column, condition, replicate, protein)
    if layout == "deli" and not found:
        raise ArgumentError(
            f"no column begins with '{kind}_': DELi calls UMI counts '{UMI}_<selection>' (",
            Argument("counts", "umi"),
            f") and reads '{READS}_<selection>' (",
            Argument("counts", "raw"),
            ")",
        )
    return [found[name] for name in names if name in found]


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
    cycles = {match[1].upper(): match.string for match in _matches(list(head.columns), pattern)}
    if all(cycle.isdigit() for cycle in cycles):
        return [cycles[cycle] for cycle in sorted(cycles, key=int)]
    letters = [chr(ord("A") + i) for i in range(26)]
    run = next((i for i, letter in enumerate(letters) if letter not in cycles), 26)
    family = [cycles[letter] for letter in letters[:run]]
    # A letter alone may be a selection's name: whole numbers beside two or more cycles of text are no cycle.
    named = [name for name in family if name not in _like_counts(head, set())]
    return named if pattern == FAMILIES[0] and len(named) > 1 else family


def _stray(name: str, blocks: Mapping[str, str], synthon_keys: Sequence[str] | None) -> bool:
    """Whether a column that is left out might be a cycle of those recognised by their letters."""
    by_letter = synthon_keys is None and bool(_matches(list(blocks.values()), FAMILIES[0]))
    return by_letter and bool(_matches([name], FAMILIES[0]))


def _id(head: pd.DataFrame, taken: set[str]) -> str | None:
    lower = {str(name).lower(): str(name) for name in head.columns if name not in taken}
    found = [lower[name.lower()] for name in IDS if name.lower() in lower]
    # Rows that were numbered when the table was written name nothing.
    return next((name for name in found if name != IDS[-1] or not pd.api.types.is_numeric_dtype(head[name])), None)


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
