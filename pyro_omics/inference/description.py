"""Descriptions of a model and its guide as plain data, in saved folders and checkpoints, and the pair made from one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pyro_omics.models.base import CountModel, Guide
from pyro_omics.serialization.arguments import decode, encode, encode_factory
from pyro_omics.serialization.class_names import class_name, find_class, qualified_name


def describe(model: CountModel, guide: Guide) -> dict[str, Any]:
    """The description of a model and its guide, as plain JSON data."""
    return plain({"model": encode(model), "guide": encode_factory(guide)})


def plain(data: Any) -> Any:
    """JSON data without NumPy's numbers and texts, which cannot be read with ``weights_only``."""
    return json.loads(json.dumps(data, default=encode))


def make_described(
    description: Mapping[str, Any],
    model: type[CountModel] | CountModel | None = None,
    guide: Callable[[CountModel], Guide] | Guide | None = None,
    classes: Iterable[type] = (),
) -> tuple[Any, Any]:
    """The model, and the callable that makes its guide, as `SVIModule` takes them.

    Parameters
    ----------
    description
        return value of `describe`.
    model, guide, classes
        as in `loading.load`.

    Raises
    ------
    TypeError
        Where ``classes`` is not a list of classes.
    ValueError
        Where the description names a class outside this package that was not passed in, and for a model or guide of
        another class than a saved one of this package.
    """
    known = _by_name(classes)
    for argument, cls in (("model", type(model) if isinstance(model, CountModel) else model), ("guide", guide)):
        _check_class(argument, description[argument], cls)
    built: Any = model
    if model is None or isinstance(model, type):
        built = decode(description["model"], _with_class(known, description["model"], model))
    if guide is None or isinstance(guide, type):
        guide = _guide(description["guide"], known, guide)
    return built, guide


def _by_name(classes: Iterable[type]) -> dict[str, type]:
    """Classes by dotted path."""
    given = list(classes) if isinstance(classes, Iterable) else [classes]
    if not isinstance(classes, Iterable) or not all(isinstance(cls, type) for cls in given):
        raise TypeError(f"classes must be a list of classes, such as [MyPrior]; got {classes!r}")
    return {qualified_name(cls): cls for cls in given}


def _check_class(argument: str, data: dict[str, Any], cls: Any) -> None:
    saved = find_class(data.get("class", data.get("partial", "")))
    if saved is None or not isinstance(cls, type) or cls is saved:
        return
    if find_class(class_name(cls)) is cls or not issubclass(cls, saved):
        raise ValueError(
            f"{argument} must be the class that was saved, {saved.__name__}, or one of your own derived from it; got "
            f"{cls.__name__}: leave out {argument}="
        )


def _with_class(known: dict[str, type], data: dict[str, Any], cls: Any) -> dict[str, type]:
    """The known classes, with ``cls`` in place of the saved class, whatever its name."""
    saved = data.get("class", data.get("partial"))
    return known if cls is None or saved is None else {**known, saved: cls, qualified_name(cls): cls}


def _guide(data: dict[str, Any], known: dict[str, type], cls: type | None) -> Callable[[CountModel], Guide]:
    if "unknown" in data:  # the guide did not record its arguments
        name = data["unknown"].rpartition(".")[2]
        if (found := cls or known.get(data["unknown"])) is None:
            raise ValueError(
                f"the guide was a {data['unknown']}, which did not record its arguments: pass a callable that makes it "
                f"from the model, load(path, guide={name})"
            )
        return found
    maker = {"partial": data.get("partial", data.get("class")), "arguments": data["arguments"]}
    return decode(maker, _with_class(known, data, cls))
