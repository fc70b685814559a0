"""Errors and warnings about arguments of `read_del`, which the command line words as its own options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Argument:
    """An argument and its value within a message; as text, what one writes in Python.

    Parameters
    ----------
    name
        of the argument.
    value
        its value, or what to pass; ``...`` for a list that only the user knows.
    more
        whether a mapping needs further entries, which the message leaves to the user.
    """

    name: str
    value: Any
    more: bool = False

    def __str__(self) -> str:
        """``name=value``."""
        value = "[...]" if self.value is ... else repr(self.value)
        if self.more and isinstance(self.value, Mapping):
            value = f"{value.removesuffix('}')}, ...}}"
        return f"{self.name}={value}"


class ArgumentMessage:
    """A message in parts, texts and `Argument` objects: the text is Python's, `worded` is another interface's."""

    args: tuple[str | Argument, ...]

    def __str__(self) -> str:
        """The message to a caller in Python."""
        return self.worded(str)

    def worded(self, write: Callable[[Argument], str]) -> str:
        """The message with each argument as ``write`` words it."""
        return "".join(part if isinstance(part, str) else write(part) for part in self.args)


class ArgumentError(ArgumentMessage, ValueError):
    """An argument is wrong; made of the parts of its message."""


class ArgumentWarning(ArgumentMessage, UserWarning):
    """An argument may be missing or wrong; made of the parts of its message."""
