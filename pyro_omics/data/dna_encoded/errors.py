"""Errors and warnings about arguments of `read_del`; the command line shows the arguments as its options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Argument:
    """An argument and its value within a message; ``str`` gives it as in Python code.

    Parameters
    ----------
    name
        name of the argument.
    value
        its value, or the value to pass; ``...`` stands for a list that only the user knows.
    more
        whether a mapping needs further entries that only the user knows.
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
    """A message made of texts and `Argument` objects, which an interface other than Python shows in its own way."""

    args: tuple[str | Argument, ...]

    def __str__(self) -> str:
        """The message with arguments as in Python code."""
        return self.worded(str)

    def worded(self, write: Callable[[Argument], str]) -> str:
        """The message with each argument as the text that ``write`` returns."""
        return "".join(part if isinstance(part, str) else write(part) for part in self.args)


class ArgumentError(ArgumentMessage, ValueError):
    """Raised for a wrong argument, with the parts of the message."""


class ArgumentWarning(ArgumentMessage, UserWarning):
    """Warns that an argument may be missing or wrong, with the parts of the message."""
