"""Conditions of the selections in a DEL table (target, control, pre-selection), and their replicates."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pyro_omics.data.dna_encoded.errors import Argument, ArgumentError

CONDITIONS = ("target", "control", "pre-selection")
KNOWN = (*CONDITIONS, "competitor")
EITHER = "target or control"  # stands in messages for a condition that only the caller knows
MISSPELT = 0.8  # difflib's similarity to a known condition from which another is taken for misspelt
REPLICATE = r"(?i)[\W_]*(?:r|rep|replicate)?[\W_]*\d+$"
MAX_SHOWN = 20  # number of names in a message


@dataclass(frozen=True)
class Selection:
    """One sequenced sample: its column in the table, its name, and its condition, replicate and protein if known."""

    column: str
    name: str
    condition: str | None = None
    replicate: str | None = None
    protein: str | None = None


def with_conditions(found: list[Selection], others: Sequence[str], conditions: Mapping[str, str]) -> list[Selection]:
    """The selections with the caller's ``conditions``, and those that these add from the columns ``others``.

    Parameters
    ----------
    found
        the selections that a layout recognised.
    others
        further columns that may be selections.
    conditions
        column or name of a selection -> its condition.

    Raises
    ------
    ValueError
        For a column that does not exist, a condition that is misspelt, or targets of several proteins.
    """
    known = {name: one.column for one in found for name in (one.column, one.name)}
    known.update(zip(others, others, strict=True))
    for column, condition in conditions.items():
        if column not in known:
            raise ValueError(f"conditions must have columns of counts as keys, {listed(list(known))}; got {column!r}")
        _check_condition(column, condition)
    by_column = {known[column]: condition for column, condition in conditions.items()}
    _check_one_protein([one for one in found if one.column not in by_column])
    kept = [replace(one, condition=by_column.pop(one.column, one.condition)) for one in found]
    return kept + [Selection(column, column, condition) for column, condition in by_column.items()]


def _check_condition(column: str, condition: str) -> None:
    argument = Argument("conditions", {column: condition})
    if not isinstance(condition, str) or not condition:
        raise ArgumentError(argument, f": the condition must be a text: pass one of {', '.join(map(repr, CONDITIONS))}")
    if condition == EITHER:
        raise ArgumentError(argument, ": the condition must be one of the two: pass 'target' or 'control'")
    similar = difflib.get_close_matches(condition.lower(), KNOWN, 1, MISSPELT)
    if similar and similar[0] != condition:
        raise ArgumentError(argument, f": the condition looks misspelt: pass {similar[0]!r}")


def _check_one_protein(unlabelled: list[Selection]) -> None:
    # Selections on two proteins are not replicates of one target.
    proteins = {one.protein: one.column for one in unlabelled if one.protein is not None}
    if len(proteins) > 1:
        last = list(proteins.values())[-1]
        raise ArgumentError(
            f"the selections are on several proteins, {', '.join(map(str, proteins))}, and only one can be the target: "
            "drop the columns of the others, or pass their condition, ",
            Argument("conditions", {last: "competitor"}, more=True),
        )


def assumed_targets(selections: list[Selection], conditions: Mapping[str, str]) -> list[str]:
    """Names of the targets, if the caller did not give all and they differ in more than a replicate's number."""
    targets = [one for one in selections if one.condition == "target"]
    assumed = [one for one in targets if one.column not in conditions and one.name not in conditions]
    stems = {re.sub(REPLICATE, "", one.name) for one in targets}
    return [one.name for one in targets] if assumed and len(stems) > 1 else []


def conditions_example(names: Sequence[str]) -> Argument:
    """An example of ``conditions`` for these columns, for messages."""
    return Argument("conditions", {names[0]: EITHER}, more=len(names) > 1)


def with_replicates(selections: list[Selection]) -> list[Selection]:
    """The selections with replicates within each condition: from the columns' names if distinct, else 1, 2, ..."""
    out = []
    for selection in selections:
        peers = [other for other in selections if other.condition == selection.condition]
        replicates = {other.replicate for other in peers}
        if None in replicates or len(replicates) < len(peers):
            selection = replace(selection, replicate=str(peers.index(selection) + 1))
        out.append(selection)
    return out


def listed(names: Sequence[str]) -> str:
    """The first 20 names, for a message."""
    more = f", ... ({len(names)} in all)" if len(names) > MAX_SHOWN else ""
    return ", ".join(map(repr, names[:MAX_SHOWN])) + more
