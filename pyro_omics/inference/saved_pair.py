"""Checks, before weights are loaded, that a model and a guide were made as those that were saved."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from pyro_omics.inference.description import describe, plain
from pyro_omics.models.base import CountModel
from pyro_omics.serialization.arguments import RecordsArguments, classes_of, decode, encode
from pyro_omics.serialization.class_names import qualified_name
from pyro_omics.serialization.differences import Difference, differences
from pyro_omics.sizes import DELSizes, Sizes

# Arguments that say how large the data are: others may do, where the weights fit.
OF_DATA = {"sizes", *(one.name for kind in (Sizes, DELSizes) for one in fields(kind))}


def check_saved(
    saved: Mapping[str, Any], weights: Mapping[str, Tensor], module: nn.Module, pair: tuple[Any, Any], path: Any
) -> None:
    """Raise unless a model and a guide have the arguments, and the weights, of a pair that was saved.

    Parameters
    ----------
    saved
        description of the saved pair; empty where its file has none.
    weights
        the saved weights.
    module
        the module to load them into, which holds the pair.
    pair
        the model and the guide.
    path
        the folder or file, for the error.

    Raises
    ------
    ValueError
        Where they differ.
    """
    misfit, found = _misfit(module.state_dict(), weights), describe(*pair)
    for argument, value in zip(("model", "guide"), pair, strict=True):
        if saved.get(argument) in (None, found[argument]):
            continue
        differ = _differences(saved[argument], found[argument], value)
        if chosen := [one for one in differ if misfit or (one.is_certain and one.name not in OF_DATA)]:
            before, now = (", ".join(texts) for texts in zip(*map(_assignments, chosen), strict=True))
            raise ValueError(
                f"the {argument} must be made as the one that was saved in {path}, with {before}; got {now}: make it "
                f"as it was, or leave out {argument}=, and load or SVIModule.load_from_checkpoint makes it"
            )
    if misfit:
        raise ValueError(
            f"the weights in {path} do not fit this model and guide: {misfit}; make both as they were when it was saved"
        )


def _assignments(one: Difference) -> tuple[str, str]:
    name = f"{one.name}=" if one.name else ""
    return f"{name}{one.saved}", f"{name}{one.found}"


def _misfit(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> str:
    """How the names and shapes of saved weights differ from a module's own; "" where they do not."""
    shapes = [
        f"{name} of shape {tuple(saved[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in saved and saved[name].shape != own[name].shape
    ]
    lacking, more = [name for name in own if name not in saved], [name for name in saved if name not in own]
    parts = {"there is no": lacking, "there is also": more, "there is": shapes}
    return ", ".join(f"{what} {_first(names)}" for what, names in parts.items() if names)


def _first(names: list[str], n: int = 3) -> str:
    return ", ".join(names[:n]) + (f" and {len(names) - n} more" if len(names) > n else "")


def _differences(saved: Any, found: Any, value: Any) -> list[Difference]:
    """Differences of the saved description from that of an object; each field of the sizes is one."""
    before, now = (_given(one) for one in (saved, found))
    if isinstance(value, CountModel) and (twin := _made_as(saved, value)) is not None:
        saved, found = plain(_with_choices(twin)), plain(_with_choices(value))
    # What neither was given follows from the other arguments.
    names = {*saved.get("arguments", {}), *found.get("arguments", {})} - before.keys() - now.keys()
    sizes = [one["sizes"] for one in (before, now) if "sizes" in one]
    return [*differences(saved, found, leave=[*names, "sizes"]), *(_other_sizes(*sizes) if len(sizes) == 2 else ())]


def _given(data: Any) -> dict[str, Any]:
    return {name: value for name, value in data.get("arguments", {}).items() if value is not None}


def _other_sizes(saved: Any, found: Any) -> list[Difference]:
    """The sizes that differ and that the shapes of weights depend on."""
    saved, found = decode(saved), decode(found)
    pairs = {name: (getattr(saved, name, None), getattr(found, name)) for name in ("n_obs", *found.fixed)}
    return [Difference(name, str(one), str(other), False) for name, (one, other) in pairs.items() if one != other]


def _made_as(saved: Any, value: CountModel) -> Any:
    """The model that a description makes, where its classes are at hand; else None."""
    known = {qualified_name(cls): cls for cls in classes_of(value)}
    try:
        with torch.random.fork_rng(devices=[]):
            return decode(saved, known)
    except (ValueError, TypeError):
        return None


def _with_choices(value: Any) -> Any:
    """The description of an object, with what it chose in place of arguments of None, such as a default prior."""
    described = encode(value)
    if not isinstance(value, RecordsArguments) or not hasattr(value, "constructor_arguments"):
        return described
    given = value.constructor_arguments
    for name, parameter in inspect.signature(type(value)).parameters.items():
        argument = given.get(name, None if parameter.default is parameter.empty else parameter.default)
        chosen = _stored(value, name) if argument is None else argument
        if chosen is not None:
            described["arguments"][name] = _with_choices(chosen)
    return described


def _stored(value: Any, name: str) -> Any:
    """An attribute as it is stored: to read a latent of a PyroModule would draw it."""
    found = vars(value).get(name, getattr(value, "_modules", {}).get(name))
    return found if isinstance(found, RecordsArguments | bool | int | float | str) else None
