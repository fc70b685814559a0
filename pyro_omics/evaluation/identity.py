"""What an object is: one digest of its values, its settings and the code of its own classes."""

from __future__ import annotations

import functools
import hashlib
import inspect
import logging
import sys
import sysconfig
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    GenericAlias,
    MethodDescriptorType,
    MethodType,
    ModuleType,
    UnionType,
    WrapperDescriptorType,
)
from typing import Any

import numpy as np
import torch
from torch import Tensor

PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented))
# What code may take from a module.
IN_MODULES = (type, FunctionType, ModuleType, Tensor, np.ndarray, dict, list, tuple, set, frozenset)
# Of a class: what the interpreter puts there.
BOOKKEEPING = {
    *("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__firstlineno__", "__static_attributes__"),
    *("__abstractmethods__", "_abc_impl", "__annotations__", "__annotate__", "__annotate_func__", "__slots__"),
    *("__annotations_cache__", "__parameters__", "__orig_bases__"),
}

PLACES = [Path(__file__).parent, Path(sysconfig.get_paths()["stdlib"]), Path(sysconfig.get_paths()["platstdlib"])]


class UntoldError(Exception):
    """An object that cannot be told from another one."""


def identity(value: Any) -> str:
    """A digest that two objects share only where they were made alike and do alike.

    It is of values (tensors with shape, type and ``requires_grad``), of attributes, also those that stand in for
    methods, and of the compiled code of classes and functions that are not installed packages', with what the code
    names: functions, classes, modules, constants. Of installed packages it has names and versions, and of their classes
    the methods that were replaced. Code is compared as it runs, and not as its file reads by now; comments are no part
    of it.

    Raises
    ------
    UntoldError
        For what cannot be told apart, such as an open file.
    """
    walk = _Walk()
    try:
        walk(value)
    except UntoldError:
        raise
    except RecursionError as error:
        raise UntoldError(f"a {type(value).__name__} that is nested too deeply") from error
    except Exception as error:  # any object may answer in its own way: no reason for a fit to end
        raise UntoldError(f"part of a {type(value).__name__}: {error!r}") from error
    return walk.code.hexdigest()


class _Walk:
    """Goes through an object and all that it holds, and hashes what it meets; what was met already, by its number."""

    def __init__(self) -> None:
        self.code = hashlib.sha256()
        self.met: dict[int, tuple[int, Any]] = {}  # the object too: an id may be given again

    def _add(self, *parts: Any) -> None:
        for part in parts:
            data = part if isinstance(part, bytes) else str(part).encode(errors="backslashreplace")
            self.code.update(b"%d:" % len(data) + data)

    def __call__(self, value: Any) -> None:
        if type(value) in PLAIN:
            return self._add(type(value).__name__, repr(value))
        if type(value) in (tuple, frozenset):
            return self._holds(value)
        if id(value) in self.met:
            return self._add("met", self.met[id(value)][0])
        self.met[id(value)] = len(self.met), value
        return self._holds(value)

    def _holds(self, value: Any) -> None:
        if isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, np.ndarray) and value.dtype != object:
            self._add("array", value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes())
        elif isinstance(value, ModuleType):
            self._module(value)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, MethodType):
            self._all("method", (value.__func__, value.__self__))
        elif isinstance(value, functools.partial):
            self._all("partial", (*_called(value), value.keywords))
        elif isinstance(value, property):
            self._all("property", (value.fget, value.fset, value.fdel))
        elif isinstance(value, staticmethod | classmethod | functools.cached_property):
            held = value.func if isinstance(value, functools.cached_property) else value.__func__
            self._all(type(value).__name__, (held,))
        elif isinstance(value, CodeType):
            self._compiled(value)
        elif type(value) in (set, frozenset):
            self._add(type(value).__name__, *sorted(map(identity, value)))
        elif isinstance(value, weakref.ref):
            self._all("reference", (value(),))
        else:
            self._object(value)

    def _all(self, kind: str, values: Iterable[Any]) -> None:
        held = list(values)
        self._add(kind, len(held))
        for one in held:
            self(one)

    def _tensor(self, value: Tensor) -> None:
        self._add("tensor", type(value).__name__, value.dtype, tuple(value.shape), value.requires_grad, value.device)
        if value.layout is not torch.strided or value.is_meta:
            raise UntoldError(f"a tensor of layout {value.layout} on {value.device}")
        self._add(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        self(value._backward_hooks)

    def _module(self, module: ModuleType) -> None:
        self._named("module", module.__name__)
        if not _installed(module.__name__):
            for name, value in sorted(vars(module).items()):
                if not name.startswith("__") and isinstance(value, (*PLAIN, *IN_MODULES)):
                    self._add(name)
                    self(value)

    def _named(self, kind: str, module: str | None, name: str = "") -> None:
        module = module if isinstance(module, str) else ""  # Cython's own classes have none
        root = sys.modules.get(module.partition(".")[0])
        self._add(kind, module, name, getattr(root, "__version__", None) if _installed(module) else None)

    def _class(self, cls: type) -> None:
        self._named("class", cls.__module__, cls.__qualname__)
        self._all("bases", cls.__bases__)
        own = not _installed(cls.__module__)
        if own:
            self(type(cls))
        for name, value in sorted(vars(cls).items()):
            if name in BOOKKEEPING or inspect.ismemberdescriptor(value) or inspect.isgetsetdescriptor(value):
                continue
            if own or _replaced(value):
                self._add(name)
                self(value)

    def _function(self, function: FunctionType) -> None:
        self._named("function", function.__module__, function.__qualname__)
        self._compiled(function.__code__)
        closure = [_content(cell) for cell in function.__closure__ or ()]
        self._all("made with", (function.__defaults__, function.__kwdefaults__, closure, vars(function)))
        if not _in_packages(function.__code__.co_filename):
            self._globals(function)

    def _globals(self, function: FunctionType) -> None:
        for name in sorted(set(_names(function.__code__))):
            if name in function.__globals__:
                self._add(name)
                self(function.__globals__[name])

    def _compiled(self, code: CodeType) -> None:
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        self._add("code", code.co_code, code.co_exceptiontable, counts, names)
        self._all("constants", code.co_consts)

    def _object(self, value: Any) -> None:
        self(type(value))
        slots = [name for cls in type(value).__mro__ for name in _slots(cls)]
        if isinstance(value, torch.device | torch.dtype | torch.layout | PurePath | UnionType | GenericAlias):
            return self._add(str(value))
        if isinstance(value, logging.Logger):
            return self._add(value.name)
        if isinstance(value, BuiltinFunctionType | WrapperDescriptorType | MethodDescriptorType):
            return self._add(getattr(value, "__module__", None), value.__qualname__)
        if type(value).__name__ in ("lock", "RLock"):
            return None  # a lock is as good as another
        if isinstance(value, dict):
            self._all("items", (part for item in dict.items(value) for part in item))
        elif isinstance(value, list | tuple):
            self._all("items", value)
        elif not (slots or hasattr(value, "__dict__")) or type(value).__basicsize__ - 8 * len(slots) > 32:
            self._all("state", _state(value))  # what Python does not see
        attributes = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        attributes.update(getattr(value, "__dict__", {}))
        return self._all("attributes", (part for item in sorted(attributes.items(), key=_name) for part in item))


def _name(item: tuple[Any, Any]) -> str:
    return str(item[0])


def _slots(cls: type) -> list[str]:
    slots = vars(cls).get("__slots__", ())
    names = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in names if inspect.ismemberdescriptor(vars(cls).get(name))]


def _state(value: Any) -> list[Any]:
    """What makes the object again: a function, arguments, and a state."""
    if isinstance(value, torch.Generator):
        return [value.get_state()]
    try:
        made = value.__reduce_ex__(2)
    except Exception as error:  # any class says so in its own way
        raise UntoldError(f"a {type(value).__module__}.{type(value).__qualname__}") from error
    return [list(part) if hasattr(part, "__next__") else part for part in ([made] if isinstance(made, str) else made)]


def _called(partial: functools.partial[Any]) -> tuple[Any, ...]:
    classes = tuple(item for item in partial.args if isinstance(item, type))
    if classes and str(getattr(partial.func, "__module__", "")).startswith("jsonargparse"):
        return classes  # the rest is its whole parser
    return partial.func, partial.args, vars(partial)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)


def _replaced(value: Any) -> bool:
    """Whether a method of an installed class was written elsewhere, and put there."""
    value = getattr(value, "fget", None) or getattr(value, "func", None) or getattr(value, "__func__", value)
    return isinstance(value, FunctionType) and not _in_packages(value.__code__.co_filename)


def _installed(module: str | None) -> bool:
    root = module.partition(".")[0] if isinstance(module, str) else ""
    if root == "__main__":
        return False
    if root == __package__ or root in sys.builtin_module_names or root in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(root), "__file__", None)
    return file is not None and _in_packages(file)


@functools.cache
def _in_packages(file: str) -> bool:
    """Whether a file is of Python, of this package, or of another that was installed."""
    path = Path(file)
    if file.startswith("<frozen") or {"site-packages", "dist-packages"} & set(path.parts):
        return True
    return any(path.is_relative_to(place) for place in PLACES)
