"""How an object was made, written down as plain data, so that it can be made again without pickle."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

from pyro_omics.serialization.class_names import PACKAGE, class_name, find_class, qualified_name

# Arguments of a distribution that say the same: the first is left out for the second.
ALIKE = {"probs": "logits", "covariance_matrix": "scale_tril", "precision_matrix": "scale_tril"}
# What may be done to an object after it was made, by name: (object, **arguments) -> object.
EDITS: dict[str, Callable[..., Any]] = {}


class RecordsArguments:
    """Mixin: an instance keeps the arguments that it was made with.

    It works through ``__new__``, so that a subclass needs no cooperation: a user's own model is recorded as ours are.

    Attributes
    ----------
    constructor_arguments
        name -> value, of the arguments that were given.
    constructor_edits
        what was done to the instance after it was made, in order: see `record_edit`. Absent where nothing was.
    """

    constructor_arguments: dict[str, Any]
    constructor_edits: list[dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> RecordsArguments:
        """Make the instance, and keep the arguments."""
        self = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind(self, *args, **kwargs)
        except TypeError:
            # Copying and unpickling call __new__ bare (their state follows); a wrong call is __init__'s to report.
            return self
        arguments = dict(list(bound.arguments.items())[1:])
        for name, parameter in bound.signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(name, {}))
        # nn.Module.__setattr__ refuses to work before its __init__, and must not register these objects a second time.
        object.__setattr__(self, "constructor_arguments", arguments)
        return self


# What a saved file may have made: parts of models and guides, and torch's networks.
PARTS = (RecordsArguments, PyroModule, Distribution, Transform)


def record_edit(value: RecordsArguments, edit: str, **arguments: Any) -> None:
    """Record that ``EDITS[edit](object, **arguments)`` made ``value`` of an object with its arguments and edits."""
    edits = [*getattr(value, "constructor_edits", ()), {"edit": edit, **arguments}]
    object.__setattr__(value, "constructor_edits", edits)


def classes_of(value: Any) -> Iterator[type]:
    """The classes of an object, and of all that stands in the arguments and edits that made it."""
    if isinstance(value, type):
        yield value
        return
    yield type(value)
    if isinstance(value, functools.partial):
        value = [value.func, *value.args, value.keywords]
    elif isinstance(value, RecordsArguments):
        value = [getattr(value, "constructor_arguments", {}), getattr(value, "constructor_edits", [])]
    if isinstance(value, Mapping):
        value = list(value.values())
    for item in value if isinstance(value, list | tuple) else ():
        yield from classes_of(item)


def encode(value: Any) -> Any:
    """Plain JSON data that `decode` makes ``value`` of again.

    What cannot be made from plain data stands in it as ``{"unknown": NAME_OF_ITS_CLASS}``, which `decode` refuses.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {"mapping": {str(key): encode(item) for key, item in value.items()}}
    if isinstance(value, type):
        return {"type": class_name(value)}
    if isinstance(value, functools.partial):
        return _encode_partial(value)
    if isinstance(value, RecordsArguments) and hasattr(value, "constructor_arguments"):
        made = {"class": class_name(type(value)), "arguments": _encode_items(value.constructor_arguments)}
        edits = [_encode_items(edit) for edit in getattr(value, "constructor_edits", ())]
        return {**made, "edits": edits} if edits else made
    if isinstance(value, Distribution | Transform):
        return _encode_distribution(value)
    return {"unknown": qualified_name(type(value))}


def encode_factory(value: Any) -> Any:
    """What makes ``value`` from its constructor's first argument, as `encode` writes a ``functools.partial``."""
    if not (isinstance(value, RecordsArguments) and hasattr(value, "constructor_arguments")):
        return {"unknown": qualified_name(type(value))}
    others = dict(list(value.constructor_arguments.items())[1:])
    return {"partial": class_name(type(value)), "arguments": _encode_items(others)}


def _encode_items(items: Mapping[str, Any]) -> dict[str, Any]:
    return {name: encode(item) for name, item in items.items()}


def _encode_distribution(value: Distribution | Transform) -> dict[str, Any]:
    """A distribution or a transform, made of numbers, tensors and others of its kind."""
    wanted = inspect.signature(type(value).__init__).parameters
    names = [name for name in wanted if name not in ("self", "validate_args", "cache_size")]
    arguments = {}
    for name in names:
        if ALIKE.get(name) in names:
            continue
        item = getattr(value, "base_dist" if name == "base_distribution" else name, None)
        if item is None and wanted[name].default is inspect.Parameter.empty:
            return {"unknown": qualified_name(type(value))}
        if isinstance(item, Tensor):
            item = float(item) if item.numel() == 1 else item.detach()
        arguments[name] = {"tensor": item.tolist()} if isinstance(item, Tensor) else encode(item)
    return {"class": class_name(type(value)), "arguments": arguments}


def _encode_partial(value: functools.partial[Any]) -> dict[str, Any]:
    # jsonargparse hides the class among the arguments of its own partial.
    is_hidden = str(getattr(value.func, "__module__", "")).partition(".")[0] == "jsonargparse"
    classes = [item for item in value.args if isinstance(item, type)] if is_hidden else [value.func, *value.args]
    if len(classes) != 1 or not isinstance(classes[0], type):
        return {"unknown": repr(value.func)}
    cls = classes[0]
    # jsonargparse fills in every default; those that are as the class has them need no writing.
    defaults = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
    chosen = {
        name: item for name, item in value.keywords.items() if item is not defaults.get(name, inspect.Parameter.empty)
    }
    return {"partial": class_name(cls), "arguments": _encode_items(chosen)}


def decode(data: Any, known: Mapping[str, type] | None = None) -> Any:
    """The object that `encode` wrote down.

    Parameters
    ----------
    data
        what `encode` returned.
    known
        dotted path -> class, for classes that are not of this package; see `resolve`.

    Raises
    ------
    ValueError
        For a class that may not be made, and for an object that could not be written down.
    """
    known = known or {}
    if isinstance(data, list):
        return [decode(item, known) for item in data]
    if not isinstance(data, dict):
        return data
    if "mapping" in data:
        return {key: decode(item, known) for key, item in data["mapping"].items()}
    if "tensor" in data:
        return torch.tensor(data["tensor"])
    if "type" in data:
        return resolve(data["type"], known)
    if "partial" in data:
        return functools.partial(resolve(data["partial"], known), **_decode_items(data["arguments"], known))
    if "class" in data:
        made = resolve(data["class"], known)(**_decode_items(data["arguments"], known))
        for edit in data.get("edits", ()):
            options = _decode_items(edit, known)
            if options["edit"] not in EDITS:
                raise ValueError(f"{options['edit']!r} is nothing that this version of the package does to a model")
            made = EDITS[options.pop("edit")](made, **options)
        return made
    raise ValueError(
        f"an object of {data.get('unknown', data)} is part of what was saved, and cannot be made again from its "
        "description: build the model or the guide as it was, and pass it, load(path, model=MODEL) or "
        "load(path, guide=GUIDE)"
    )


def _decode_items(items: Mapping[str, Any], known: Mapping[str, type]) -> dict[str, Any]:
    return {name: decode(item, known) for name, item in items.items()}


def resolve(path: str, known: Mapping[str, type]) -> type:
    """The class of a dotted path: one of ``known``, or a part of models and guides that `find_class` finds.

    A class that is not of this package is known by its last name too: the same class is ``__main__.MyPrior`` in the
    script that saved it, and ``my_priors.MyPrior`` in another.

    Raises
    ------
    ValueError
        For every other path, of which nothing is imported.
    """
    if path in known:
        return known[path]
    is_ours, name = path.startswith(f"{PACKAGE}."), path.rpartition(".")[2]
    found = find_class(path)
    if found is not None and issubclass(found, PARTS if is_ours else (*PARTS, nn.Module)):
        return found
    if is_ours:
        raise ValueError(f"{path!r} is not a part of a model or guide in this version of the package")
    namesakes = {cls for cls in known.values() if cls.__name__ == name}
    if len(namesakes) == 1:
        return namesakes.pop()
    raise ValueError(
        f"{path!r} is not a class of this package, and names outside it are not imported: pass your own class, "
        f"load(path, classes=[{name}])"
    )
