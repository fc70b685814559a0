"""PyroModules whose parameters are read at the speed of torch's, where nobody asks Pyro about them."""

from __future__ import annotations

from functools import cache
from typing import Any

from pyro.nn import PyroModule
from pyro.poutine import runtime
from pyro.poutine.messenger import Messenger
from pyro.poutine.plate_messenger import PlateMessenger
from pyro.poutine.util import is_validation_enabled
from torch import nn


class FastPyroModule(PyroModule):
    """A PyroModule that says nothing of its plain parameters unless a handler listens.

    Each read of a parameter of a PyroModule is a ``pyro.param`` statement, and each call asks for Pyro's settings:
    half a millisecond a training step. With the parameters in their modules, such a statement is for handlers alone
    (a trace of Pyro's, ``poutine.lift``): where none on the stack takes one, the parameter is returned as it is.
    Latent and constrained parameters (PyroSample, PyroParam) are Pyro's in any case.
    """

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__
        parameters = own.get("_parameters")
        if parameters is not None and name in parameters:
            return parameters[name] if _nobody_listens() else super().__getattr__(name)
        modules = own.get("_modules")
        if modules is not None and name in modules:
            part = modules[name]
            # A part that was made a PyroModule in its place has no name yet; a plain torch module is stated as its
            # parameters.
            known = part is None or (part._pyro_name if isinstance(part, PyroModule) else _nobody_listens())
            return part if known else super().__getattr__(name)
        return super().__getattr__(name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As PyroModule's, without its checks inside a call of a whole that makes them."""
        if self._pyro_context.active and not is_validation_enabled():
            return nn.Module.__call__(self, *args, **kwargs)
        return super().__call__(*args, **kwargs)


def _nobody_listens() -> bool:
    kinds: Any = map(type, runtime._PYRO_STACK)
    return not any(map(_listens, kinds))


@cache
def _listens(handler: Any) -> bool:
    """Whether a handler may take a statement of a plain parameter."""
    if issubclass(handler, PlateMessenger):
        return False  # it takes rows of parameters that say which dimension is theirs: none of these
    return (
        hasattr(handler, "_pyro_param")
        or hasattr(handler, "_pyro_post_param")
        or handler._process_message is not Messenger._process_message
        or handler._postprocess_message is not Messenger._postprocess_message
    )
