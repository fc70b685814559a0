"""How an object was made, written down as plain data, so that it can be made again without pickle."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Transform

PARTS = (nn.Module, Distribution, Transform)
# Arguments of a distribution that say the same: the first is left out for the second.
ALIKE = {"probs": "logits", "covariance_matrix": "scale_tril", "precision_matrix": "scale_tril"}
# What may be done to an object after it was made, by name: (object, **arguments) -> object.
EDITS: dict[str, Callable[..., Any]] = {}
ALLOWED_PACKAGES = (
    "pyro_omics",
    "pyro.infer.autoguide",
    "pyro.distributions",
    "torch.nn.modules",
    "torch.distributions.transforms",
)


class RecordsArguments:
    """Mixin: an instance remembers the arguments that it was made with (``constructor_arguments``).

    It works through ``__new__``, so that a subclass needs no cooperation: a user's own model is recorded as ours are.
    """

    constructor_arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> RecordsArguments:
        """Make the instance, and note the arguments."""
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


def qualified_name(cls: type) -> str:
    """The dotted path of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def encode(value: Any) -> Any:
    """Plain JSON data for ``value``; what cannot be written is named under ``"unknown"``, and `decode` refuses it."""
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
        return {"type": qualified_name(value)}
    if isinstance(value, functools.partial):
        return _encode_partial(value)
    if isinstance(value, RecordsArguments) and hasattr(value, "constructor_arguments"):
        arguments = {name: encode(item) for name, item in value.constructor_arguments.items()}
        made = {"class": qualified_name(type(value)), "arguments": arguments}
        edits = [
            {name: encode(item) for name, item in edit.items()} for edit in getattr(value, "constructor_edits", ())
        ]
        return {**made, "edits": edits} if edits else made
    if isinstance(value, Distribution | Transform):
        return _encode_distribution(value)
    return {"unknown": qualified_name(type(value))}


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
    return {"class": qualified_name(type(value)), "arguments": arguments}


def _encode_partial(value: functools.partial[Any]) -> dict[str, Any]:
    # jsonargparse hides the class among the arguments of its own partial.
    classes = [item for item in (value.func, *value.args) if isinstance(item, type)]
    if len(classes) != 1:
        return {"unknown": repr(value.func)}
    # jsonargparse fills in every default; those that are as the class has them need no writing.
    defaults = {name: p.default for name, p in inspect.signature(classes[0]).parameters.items()}
    chosen = {
        name: item for name, item in value.keywords.items() if item is not defaults.get(name, inspect.Parameter.empty)
    }
    return {"partial": qualified_name(classes[0]), "arguments": {k: encode(v) for k, v in chosen.items()}}


def decode(data: Any, known: Mapping[str, type] | None = None, instead: str = "model=MODEL") -> Any:
    """The object that `encode` wrote down.

    Class names resolve inside ``ALLOWED_PACKAGES`` and ``known`` (dotted path -> class), nowhere else; ``instead``
    is the argument of `load` that a refusal asks for.

    Raises
    ------
    ValueError
        For a class outside the allow-list, and for an object that could not be written down.
    """
    known = known or {}
    if isinstance(data, list):
        return [decode(item, known, instead) for item in data]
    if not isinstance(data, dict):
        return data
    if "mapping" in data:
        return {key: decode(item, known, instead) for key, item in data["mapping"].items()}
    if "tensor" in data:
        return torch.tensor(data["tensor"])
    if "type" in data:
        return resolve(data["type"], known)
    if "partial" in data or "class" in data:
        arguments = {key: decode(item, known, instead) for key, item in data["arguments"].items()}
        if "partial" in data:
            return functools.partial(resolve(data["partial"], known), **arguments)
        made = resolve(data["class"], known)(**arguments)
        for edit in data.get("edits", ()):
            options = {name: decode(item, known, instead) for name, item in edit.items()}
            made = EDITS[options.pop("edit")](made, **options)
        return made
    raise ValueError(
        f"an object of {data.get('unknown', data)} is part of what was saved, and cannot be made again from its "
        f"description: build it as it was, and pass it: load(path, {instead})"
    )


def resolve(path: str, known: Mapping[str, type]) -> type:
    """The class at a dotted path, inside the allow-list only."""
    if path in known:
        return known[path]
    if not path.startswith(tuple(f"{package}." for package in ALLOWED_PACKAGES)):
        raise ValueError(
            f"{path!r} is not a class of this package, and names outside it are not imported: pass your own class, "
            "load(path, model=MyModel) or load(path, guide=MyGuide)"
        )
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        found = None
    # A module also holds what it imports: the class must be written in it, and be a part of a model or guide.
    if not (isinstance(found, type) and _written_in(module, found) and issubclass(found, (RecordsArguments, *PARTS))):
        raise ValueError(f"{path!r} is not a part of a model or guide in this version of the package")
    return found


def _written_in(module: str, cls: type) -> bool:
    # Or in a package's own files: priors.StandardNormal, as saved when priors was a module, is one of a package now.
    return cls.__module__ == module or cls.__module__.startswith(f"{module}.")
