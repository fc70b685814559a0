"""A PyroModule that reads parameters as fast as a torch module, unless an effect handler acts on them."""

from __future__ import annotations

from functools import cache
from typing import Any

from pyro.nn import PyroModule
from pyro.poutine import runtime
from pyro.poutine.messenger import Messenger
from pyro.poutine.plate_messenger import PlateMessenger


class FastPyroModule(PyroModule):
    """A PyroModule that sends a ``pyro.param`` message for a plain parameter only if an effect handler would act on it.

    `PyroModule` sends one at each read of a parameter, through every handler on Pyro's stack. As parameters belong to
    their modules here, and not to Pyro's parameter store, only handlers such as ``poutine.trace`` need it. Without one
    on the stack, the parameter is returned at once: a training step of SCVI (4,000 genes, 128 cells, one thread) takes
    4% less time. Latent and constrained parameters (PyroSample, PyroParam) are read as in `PyroModule`.
    """

    def __getattr__(self, name: str) -> Any:
        attributes = self.__dict__
        parameters = attributes.get("_parameters")
        if parameters is not None and name in parameters:
            return parameters[name] if _no_handler_acts_on_parameters() else super().__getattr__(name)
        modules = attributes.get("_modules")
        if modules is not None and name in modules:
            module = modules[name]
            # PyroModule names a module that became a PyroModule after it was attached, and sends the parameters of a
            # plain torch module when that is read.
            is_ready = module is None or (
                module._pyro_name if isinstance(module, PyroModule) else _no_handler_acts_on_parameters()
            )
            return module if is_ready else super().__getattr__(name)
        return super().__getattr__(name)


def _no_handler_acts_on_parameters() -> bool:
    classes: Any = map(type, runtime._PYRO_STACK)
    return not any(map(_acts_on_parameters, classes))


@cache
def _acts_on_parameters(handler: Any) -> bool:
    """Whether a handler of this class may act on the message of a plain parameter."""
    if issubclass(handler, PlateMessenger):
        return False  # it subsamples only parameters with an event_dim, and plain ones have none
    return (
        hasattr(handler, "_pyro_param")
        or hasattr(handler, "_pyro_post_param")
        or handler._process_message is not Messenger._process_message
        or handler._postprocess_message is not Messenger._postprocess_message
    )
