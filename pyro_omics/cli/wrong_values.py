"""Errors about a class or an argument of a class, in a sentence in place of jsonargparse's tree of attempts."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable
from pydoc import locate

from pyro_omics.serialization.class_names import PACKAGE, class_name, public_classes


def explain_wrong_value(message: str) -> str:
    """The message for a class that there is not, or an argument that a class lacks or needs; any other as it is."""
    option = "--" + ".".join(dict.fromkeys(re.findall(r'Parser key "([\w.]+)":', message)))
    owner = next(reversed(re.findall(r"Problem with given class_path '([\w.]+)'", message)), "")
    cls = locate(owner) if owner.startswith(f"{PACKAGE}.") else None
    name = class_name(cls) if isinstance(cls, type) else owner
    if owner and (found := re.search(r"Option '([\w.]+)' is not accepted", message)):
        known = list(inspect.signature(cls).parameters) if isinstance(cls, type) else []
        hint = _nearest(found[1], known) or (f"its arguments are {', '.join(known)}" if known else "")
        return f"{option}: {name} has no argument {found[1]!r}" + (f": {hint}" if hint else "")
    if owner and (found := re.search(r"the following arguments are required: ([\w, ]+)", message)):
        first = found[1].split(", ")[0]
        return f"{option}: {name} needs {found[1]}: pass {option}.{first}=..., or name it in the configuration"
    wrong = re.search(r"Expected a dot import path string: (\S+)$", message, flags=re.MULTILINE)
    missing = re.search(r"module '[\w.]+' has no attribute '(\w+)'", message)
    if wrong or (missing and owner.endswith(f".{missing[1]}")):
        given = wrong[1] if wrong else owner
        paths = {path.rpartition(".")[2]: path for path in public_classes()}
        hint = _nearest(given.rpartition(".")[2], paths) or "write its whole path, of module and class"
        return f"{option} must be the name of a class; got {given!r}: {hint}"
    return message


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""
