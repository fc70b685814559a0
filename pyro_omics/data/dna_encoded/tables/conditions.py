"""What the selections of a DEL table were on: target, control or pre-selection, and their replicates."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pyro_omics.data.dna_encoded.errors import Argument, ArgumentError

CONDITIONS = ("target", "control", "pre-selection")
KNOWN = (*CONDITIONS, "competitor")
EITHER = "target or control"  # stands for a condition that only the caller knows
ALIKE = 0.8  # of difflib: a condition this near to a known one is taken for misspelt
REPLICATE = r"(?i)[\W_]*(?:r|rep|replicate)?[\W_]*\d+$"
SHOWN = 20


@dataclass(frozen=True)
class Selection:
    """One sequenced sample: its column in the table, its name, and what is known of it."""

    column: str
    name: str
    condition: str | None = None
    replicate: str | None = None
    protein: str | None = None


def labelled(found: list[Selection], others: Sequence[str], conditions: Mapping[str, str]) -> list[Selection]:
    """The selections with what ``conditions`` says, and those that it adds, from the columns ``others``.

    Raises
    ------
    ValueError
        For a column that is not there, a condition that is misspelt, and targets that are several proteins.
    """
    known = {name: one.column for one in found for name in (one.column, one.name)}
    known.update(zip(others, others, strict=True))
    for column, condition in conditions.items():
        if column not in known:
            there = some(list(known))
            raise ValueError(f"conditions names {column!r}, which is not a column of counts: there are {there}")
        _check_condition(column, condition)
    given = {known[column]: condition for column, condition in conditions.items()}
    _check_one_protein([one for one in found if one.column not in given])
    kept = [replace(one, condition=given.pop(one.column, one.condition)) for one in found]
    return kept + [Selection(column, column, condition) for column, condition in given.items()]


def _check_condition(column: str, condition: str) -> None:
    given = Argument("conditions", {column: condition})
    if not isinstance(condition, str) or not condition:
        raise ArgumentError(given, f": pass one of {', '.join(map(repr, CONDITIONS))}")
    if condition == EITHER:
        raise ArgumentError(given, ": write which of them it is")
    meant = difflib.get_close_matches(condition.lower(), KNOWN, 1, ALIKE)
    if meant and meant[0] != condition:
        raise ArgumentError(given, f": write {meant[0]!r}")


def _check_one_protein(unlabelled: list[Selection]) -> None:
    # Selections on two proteins are not replicates of one target.
    proteins = {one.protein: one.column for one in unlabelled if one.protein is not None}
    if len(proteins) > 1:
        last = list(proteins.values())[-1]
        raise ArgumentError(
            f"the selections are on several proteins, {', '.join(map(str, proteins))}, and one is the target: drop the "
            "columns of the others, or say what each is, ",
            Argument("conditions", {last: "competitor"}, more=True),
        )


def assumed(selections: list[Selection], conditions: Mapping[str, str]) -> list[str]:
    """The names of the targets, where some are not the caller's and they differ by more than a replicate's number."""
    targets = [one for one in selections if one.condition == "target"]
    ours = [one for one in targets if one.column not in conditions and one.name not in conditions]
    stems = {re.sub(REPLICATE, "", one.name) for one in targets}
    return [one.name for one in targets] if ours and len(stems) > 1 else []


def example(names: Sequence[str]) -> Argument:
    """How to pass ``conditions`` for these columns."""
    return Argument("conditions", {names[0]: EITHER}, more=len(names) > 1)


def numbered(selections: list[Selection]) -> list[Selection]:
    """Replicates named within each condition: as the columns say where that tells them apart, else 1, 2, ..."""
    out = []
    for selection in selections:
        peers = [other for other in selections if other.condition == selection.condition]
        said = {other.replicate for other in peers}
        if None in said or len(said) < len(peers):
            selection = replace(selection, replicate=str(peers.index(selection) + 1))
        out.append(selection)
    return out


def some(names: Sequence[str]) -> str:
    """Names for a message, the first 20."""
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
