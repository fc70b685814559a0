"""`Layout`: the description of a form of DEL table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pyro_omics.data.dna_encoded.errors import Argument, ArgumentError
from pyro_omics.data.dna_encoded.tables.conditions import Selection


@dataclass(frozen=True)
class Layout:
    """A form of DEL table, recognised by the names of its columns.

    Parameters
    ----------
    name
        name of the layout in `read_del` and on the command line, and of its file.
    needs
        the columns that it is recognised by, for errors.
    counts
        pattern of columns of counts -> the condition of such a selection, or None if the names do not say it.
        A pattern may have the groups ``name`` (of the selection), ``replicate``, ``protein`` (the target) and ``kind``
        (see ``prefixes``).
    example
        a small table for the tests, column -> values.
    example_counts
        the counts in the example: name of a selection -> its counts, in the order of the rows.
    synthons
        pattern of the columns of building blocks that the table must have, whose group is the cycle's letter or number;
        None if any columns of building blocks that `read_del` knows will do.
    id_column
        the column with the compounds' names.
    prefixes
        for a table with UMI counts and reads: the value of `read_del`'s ``counts``, "umi" or "raw" -> the group
        ``kind`` of its columns.
    names_conditions
        whether the columns' names say the conditions. If not, the conditions of ``counts`` are assumptions, and
        `read_del` warns if the selections do not look like replicates.
    takes_other_columns
        whether the user's ``conditions`` may add columns of counts that no pattern matches.
    is_general
        whether this layout is used if no layout fits and the user passes ``conditions``.
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
            names of the columns.
        counts
            "umi" or "raw", for a layout that has both.

        Raises
        ------
        ValueError
            If there are no counts of this kind.
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
            raise ArgumentError(
                f"no column begins with '{kind}_': columns of counts in the layout {self.name} begin with ", *kinds
            )
        return [found[name] for name in names if name in found]


def matches(names: Iterable[str], pattern: str) -> list[re.Match[str]]:
    """Matches of a pattern with whole names."""
    return [match for name in names if (match := re.fullmatch(pattern, name))]
