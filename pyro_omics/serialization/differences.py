"""What differs between two descriptions of `serialization.arguments`, argument by argument."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from typing import Any, NamedTuple

from pyro_omics.serialization.arguments import encode
from pyro_omics.serialization.class_names import REPLACED, class_name, find_class


class Difference(NamedTuple):
    """An argument in which two descriptions differ.

    Attributes
    ----------
    name
        of the argument; "" for the class.
    saved, found
        the argument's value in the one and in the other, as text.
    is_certain
        False where one of them does not say: None, an object that cannot be described, a class of another package,
        which may have moved.
    """

    name: str
    saved: str
    found: str
    is_certain: bool


def differences(saved: Any, found: Any, leave: Collection[str] = ()) -> list[Difference]:
    """The differences of two descriptions of objects; the class alone where those differ.

    Parameters
    ----------
    saved, found
        return values of `arguments.encode`.
    leave
        names of arguments to leave out.
    """
    one, other = _canonical(saved), _canonical(found)
    if not (_is_object(one) and _is_object(other)):
        return []
    same_class = _compare_classes(one, other)
    of_class = Difference("", _name(one), _name(other), same_class is False)
    if same_class is False:
        return [of_class]
    before, now = one["arguments"], other["arguments"]
    pairs = {name: (before.get(name), now.get(name)) for name in before | now if name not in leave}
    compared = {name: _compare(*pair) for name, pair in pairs.items()}
    of_arguments = [
        Difference(name, _text(pairs[name][0]), _text(pairs[name][1]), same is False)
        for name, same in compared.items()
        if same is not True
    ]
    return of_arguments or ([] if same_class else [of_class])


def _canonical(data: Any) -> Any:
    """A description with public names of classes and their defaults, in which types are partials without arguments."""
    if isinstance(data, list):
        return [_canonical(item) for item in data]
    if not isinstance(data, dict) or not (path := data.get("class") or data.get("partial") or data.get("type")):
        return data
    path, added = REPLACED.get(path, (path, {}))
    cls, arguments = find_class(path), {**added, **data.get("arguments", {})}
    parameters = {} if cls is None else inspect.signature(cls).parameters
    for name, parameter in parameters.items():
        if parameter.default is not inspect.Parameter.empty:
            arguments.setdefault(name, encode(parameter.default))
    if data.get("edits"):
        arguments["edits"] = [{"class": edit["edit"], "arguments": {**edit, "edit": None}} for edit in data["edits"]]
    arguments = {name: _canonical(value) for name, value in arguments.items()}
    return {"class": path if cls is None else class_name(cls), "arguments": arguments}


def _is_object(data: Any) -> bool:
    return isinstance(data, dict) and "class" in data


def _compare(one: Any, other: Any) -> bool | None:
    """Whether two canonical descriptions are the same; None where one of them does not say."""
    if one == other:
        return True
    if any(value is None or (isinstance(value, dict) and "unknown" in value) for value in (one, other)):
        return None
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return _all(_compare(a, b) for a, b in zip(one, other, strict=True))
    if not (_is_object(one) and _is_object(other)):
        return False
    names, before, now = one["arguments"] | other["arguments"], one["arguments"], other["arguments"]
    return _all([_compare_classes(one, other), *(_compare(before.get(name), now.get(name)) for name in names)])


def _compare_classes(one: dict[str, Any], other: dict[str, Any]) -> bool | None:
    if one["class"] == other["class"]:
        return True
    return None if None in (find_class(one["class"]), find_class(other["class"])) else False


def _all(answers: Any) -> bool | None:
    found = list(answers)
    return False if False in found else None if None in found else True


def _name(data: dict[str, Any]) -> str:
    return str(data["class"].rpartition(".")[2])


def _text(data: Any) -> str:
    """A canonical description as it would be written, without defaults."""
    if isinstance(data, list):
        return f"[{', '.join(map(_text, data))}]"
    if not _is_object(data):
        return str(data["unknown"]) if isinstance(data, dict) and "unknown" in data else repr(data)
    defaults = _canonical({"class": data["class"]})["arguments"]
    given = [f"{n}={_text(value)}" for n, value in data["arguments"].items() if defaults.get(n) != value]
    return _name(data) + (f"({', '.join(given)})" if given else "")
