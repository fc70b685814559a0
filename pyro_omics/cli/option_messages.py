"""Errors and notes about arguments, worded as options of the command line."""

from __future__ import annotations

import logging
import shlex
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pyro_omics.data.dna_encoded.errors import Argument, ArgumentError, ArgumentMessage


def as_option(argument: Argument) -> str:
    """An argument as typed on the command line: ``--conditions s1=target,beads=control``, ``--complete=false``."""
    name, value = argument.name, argument.value
    if value is ...:
        return f"--{name} COLUMN,..."
    if isinstance(value, Mapping):
        pairs = [f"{key}={word}" for key, word in value.items()]
        return f"--{name} {shlex.quote(','.join([*pairs, *(['...'] if argument.more else [])]))}"
    if isinstance(value, list | tuple):
        return f"--{name} {shlex.quote(','.join(map(str, value)))}"
    return f"--{name}={str(value).lower() if isinstance(value, bool) else value}"


@contextmanager
def option_errors() -> Iterator[None]:
    """Turn errors about arguments into errors about options."""
    try:
        yield
    except ArgumentError as error:
        raise ValueError(error.worded(as_option)) from error


@contextmanager
def printed_notes(notes: list[str]) -> Iterator[None]:
    """Print the package's log messages and warnings, worded for the command line, and add them to ``notes``."""
    log, handler = logging.getLogger("pyro_omics"), _Collector()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        found = handler.found + [_text(warning.message) for warning in caught if _is_for_the_user(warning.category)]
        notes += found
        # Also after an error, whose cause they may explain.
        print("".join(f"Note: {note}\n" for note in found), end="")


class _Collector(logging.Handler):
    """Collects log messages."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Collect one message."""
        args = record.args if isinstance(record.args, tuple) else ()
        named = any(isinstance(one, Argument) for one in args)
        worded = tuple(as_option(one) if isinstance(one, Argument) else one for one in args)
        self.found.append(str(record.msg) % worded if named else record.getMessage())


def _is_for_the_user(category: type[Warning]) -> bool:
    # Other categories come from the libraries underneath, and users cannot act on them.
    return category is UserWarning or issubclass(category, ArgumentMessage)


def _text(warning: Warning | str) -> str:
    return warning.worded(as_option) if isinstance(warning, ArgumentMessage) else str(warning)
