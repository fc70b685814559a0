"""Descriptions of objects by their constructor arguments, as plain data, which replace pickle."""

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

from pyro_omics.serialization.class_names import PACKAGE, REPLACED, class_name, find_class, qualified_name

# Equivalent arguments of a distribution: the first is not saved where there is the second.
REDUNDANT = {"probs": "logits", "covariance_matrix": "scale_tril", "precision_matrix": "scale_tril"}
# Name of an edit -> function (object, **arguments) -> object, which edits an object after its construction.
EDITS: dict[str, Callable[..., Any]] = {}


class RecordsArguments:
    """Mixin that records the arguments with which an instance is made.

    It works through ``__new__``, so that a subclass, such as a user's own model, needs no code for it.

    Attributes
    ----------
    constructor_arguments
        name -> value, of the arguments that were passed.
    constructor_edits
        edits of the instance after its construction, in order, see `record_edit`; absent where there are none.
    """

    constructor_arguments: dict[str, Any]
    constructor_edits: list[dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> RecordsArguments:
        """Make the instance and record the arguments."""
        self = super().__new__(cls)
        try:
            bound = inspect.signature(cls.__init__).bind(self, *args, **kwargs)
        except TypeError:
            # Copying and unpickling call __new__ without arguments; __init__ reports a call with wrong ones.
            return self
        arguments = dict(list(bound.arguments.items())[1:])
        for name, parameter in bound.signature.parameters.items():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                arguments.update(arguments.pop(name, {}))
        # nn.Module.__setattr__ refuses to work before its __init__, and must not register these objects a second time.
        object.__setattr__(self, "constructor_arguments", arguments)
        return self


# Base classes of the objects that may be made from a saved file; `resolve` adds networks of torch.
PARTS = (RecordsArguments, PyroModule, Distribution, Transform)


def record_edit(value: RecordsArguments, edit: str, **arguments: Any) -> None:
    """Record that ``value`` is the result of ``EDITS[edit](object, **arguments)``, after its earlier edits."""
    edits = [*getattr(value, "constructor_edits", ()), {"edit": edit, **arguments}]
    object.__setattr__(value, "constructor_edits", edits)


def classes_of(value: Any) -> Iterator[type]:
    """Classes of an object and of everything in its recorded arguments and edits."""
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
    """Encode an object as plain JSON data, from which `decode` makes it again.

    An object that cannot be encoded becomes ``{"unknown": NAME_OF_ITS_CLASS}``, which `decode` refuses.
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
        entry = {"class": class_name(type(value)), "arguments": _encode_items(value.constructor_arguments)}
        edits = [_encode_items(edit) for edit in getattr(value, "constructor_edits", ())]
        return {**entry, "edits": edits} if edits else entry
    if isinstance(value, Distribution | Transform):
        return _encode_distribution(value)
    return {"unknown": qualified_name(type(value))}


def encode_factory(value: Any) -> Any:
    """Encode the constructor of ``value`` with all its arguments but the first, as a ``functools.partial``."""
    if not (isinstance(value, RecordsArguments) and hasattr(value, "constructor_arguments")):
        return {"unknown": qualified_name(type(value))}
    others = dict(list(value.constructor_arguments.items())[1:])
    return {"partial": class_name(type(value)), "arguments": _encode_items(others)}


def _encode_items(items: Mapping[str, Any]) -> dict[str, Any]:
    return {name: encode(item) for name, item in items.items()}


def _encode_distribution(value: Distribution | Transform) -> dict[str, Any]:
    """Encode a distribution or transform whose arguments are numbers, tensors, distributions or transforms."""
    parameters = inspect.signature(type(value).__init__).parameters
    names = [name for name in parameters if name not in ("self", "validate_args", "cache_size")]
    arguments = {}
    for name in names:
        if REDUNDANT.get(name) in names:
            continue
        item = getattr(value, "base_dist" if name == "base_distribution" else name, None)
        if item is None and parameters[name].default is inspect.Parameter.empty:
            return {"unknown": qualified_name(type(value))}
        if isinstance(item, Tensor):
            item = float(item) if item.numel() == 1 else item.detach()
        arguments[name] = {"tensor": item.tolist()} if isinstance(item, Tensor) else encode(item)
    return {"class": class_name(type(value)), "arguments": arguments}


def _encode_partial(value: functools.partial[Any]) -> dict[str, Any]:
    # jsonargparse makes a partial of a function of its own, with the class as an argument.
    is_hidden = str(getattr(value.func, "__module__", "")).partition(".")[0] == "jsonargparse"
    classes = [item for item in value.args if isinstance(item, type)] if is_hidden else [value.func, *value.args]
    if len(classes) != 1 or not isinstance(classes[0], type):
        return {"unknown": repr(value.func)}
    cls = classes[0]
    # jsonargparse passes every default; only values that differ from the defaults of the class are saved.
    defaults = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
    chosen = {
        name: item for name, item in value.keywords.items() if item is not defaults.get(name, inspect.Parameter.empty)
    }
    return {"partial": class_name(cls), "arguments": _encode_items(chosen)}


def decode(data: Any, known: Mapping[str, type] | None = None) -> Any:
    """Make the object that `encode` described.

    Parameters
    ----------
    data
        return value of `encode`.
    known
        dotted path -> class, for classes outside this package; see `resolve`.

    Raises
    ------
    ValueError
        If a class is not allowed, or if an object could not be encoded.
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
        path, added = REPLACED.get(data["class"], (data["class"], {}))
        built = resolve(path, known)(**added, **_decode_items(data["arguments"], known))
        for edit in data.get("edits", ()):
            options = _decode_items(edit, known)
            if options["edit"] not in EDITS:
                raise ValueError(
                    f"the edit of a saved object must be one of {list(EDITS)}; got {options['edit']!r}: load it with "
                    "the version of pyro_omics that saved it"
                )
            built = EDITS[options.pop("edit")](built, **options)
        return built
    raise ValueError(
        f"the saved fit contains an object of {data.get('unknown', data)}, which cannot be made from its description: "
        "make the model or the guide as before, and pass it, load(path, model=MODEL) or load(path, guide=GUIDE)"
    )


def _decode_items(items: Mapping[str, Any], known: Mapping[str, type]) -> dict[str, Any]:
    return {name: decode(item, known) for name, item in items.items()}


def resolve(path: str, known: Mapping[str, type]) -> type:
    """Find the class at a dotted path: one of ``known``, or a part of models and guides that `find_class` finds.

    A class in ``known`` is also found by its last name, because the same class is ``__main__.MyPrior`` in the script
    that saved it, and ``my_priors.MyPrior`` in another.

    Raises
    ------
    ValueError
        For every other path; nothing is imported from it.
    """
    if path in known:
        return known[path]
    is_ours, name = path.startswith(f"{PACKAGE}."), path.rpartition(".")[2]
    found = find_class(path)
    if found is not None and issubclass(found, PARTS if is_ours else (*PARTS, nn.Module)):
        return found
    if is_ours:
        raise ValueError(f"{path!r} is not a part of models or guides in this version of pyro_omics")
    namesakes = {cls for cls in known.values() if cls.__name__ == name}
    if len(namesakes) == 1:
        return namesakes.pop()
    raise ValueError(
        f"{path!r} is not a class of pyro_omics, and classes of other packages are not imported: pass your own class, "
        f"load(path, classes=[{name}])"
    )
