"""`Layout`: a form of table, and which of its columns hold what."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyro_omics.data.dna_encoded.errors import Argument, ArgumentError
from pyro_omics.data.dna_encoded.tables.conditions import Selection


@dataclass(frozen=True)
class Layout:
    """A form of table, recognised by the names of its columns.

    Parameters
    ----------
    name
        what `read_del` and the command line call it; its file has the same name.
    needs
        the columns that it is recognised by, for errors.
    counts
        patterns of the columns of counts -> the condition of such a selection; None where the name does not say it.
        A pattern may have the groups ``name`` (of the selection), ``replicate``, ``protein`` (the target) and ``kind``
        (see ``prefixes``).
    example
        a small table, column -> values, which the tests read.
    example_counts
        what is to be read of it: name of a selection -> its counts, in the order of the rows.
    synthons
        the pattern of the columns of building blocks that it must have, whose group is the cycle's letter or number;
        None where it may have any that are known.
    id_column
        the column with the compounds' names.
    prefixes
        value of `read_del`'s ``counts``, "umi" or "raw" -> the group ``kind`` of such columns, where a table has both.
    names_conditions
        whether the columns' names say what was selected on. Where not, the conditions of ``counts`` are assumptions,
        of which a user is warned where the selections do not look like replicates.
    takes_other_columns
        whether ``conditions`` may name columns of counts that the patterns do not match.
    is_general
        whether it is the form of tables that were not published in a form of their own: taken where no layout fits and
        ``conditions`` name the columns.
    """

    name: str
    needs: str
    counts: Mapping[str, str | None]
    example: Mapping[str, Sequence[Any]]
    example_counts: Mapping[str, Sequence[int]]
    synthons: str | None = None
    id_column: str | None = None
    prefixes: Mapping[str, str] = field(default_factory=dict)
    names_conditions: bool = True
    takes_other_columns: bool = True
    is_general: bool = False

    def fits(self, names: Iterable[str]) -> bool:
        """Whether columns of these names make a table of this layout."""
        names = list(names)
        has_counts = any(matches(names, pattern) for pattern in self.counts)
        return has_counts and (self.synthons is None or bool(matches(names, self.synthons)))

    def selections(self, names: Sequence[str], counts: str) -> list[Selection]:
        """The selections among the columns, in their order.

        Parameters
        ----------
        names
            of the columns.
        counts
            which kind, "umi" or "raw", where the layout has both.

        Raises
        ------
        ValueError
            Where it has not this one.
        """
        kind, found = self.prefixes.get(counts), {}
        for pattern, condition in self.counts.items():
            for match in matches(names, pattern):
                groups, column = match.groupdict(), match.string
                if groups.get("kind") == kind:
                    name, replicate, protein = (groups.get(one) for one in ("name", "replicate", "protein"))
                    found[column] = Selection(column, name or column, condition, replicate, protein)
        if self.prefixes and not found:
            kinds: list[str | Argument] = []
            for which, prefix in self.prefixes.items():
                kinds += [" or " if kinds else "", f"'{prefix}_' (", Argument("counts", which), ")"]
            raise ArgumentError(f"no column begins with '{kind}_': in the layout {self.name}, counts do, with ", *kinds)
        return [found[name] for name in names if name in found]


def matches(names: Iterable[str], pattern: str) -> list[re.Match[str]]:
    """The matches of the names that a pattern matches as a whole."""
    return [match for name in names if (match := re.fullmatch(pattern, name))]
