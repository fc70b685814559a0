"""`bayesianize`: turn parameters of a model into latent variables."""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator
from typing import Any, TypeVar

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule, PyroSample
from pyro.nn.module import to_pyro_module_
from torch import Tensor, nn
from torch.distributions import Distribution, Transform, biject_to

from pyro_omics.models.base import CountModel
from pyro_omics.parts.weight_priors import WeightPrior
from pyro_omics.serialization.arguments import EDITS, record_edit

M = TypeVar("M", bound=CountModel)


def bayesianize(model: M, *names: str, prior: Distribution | WeightPrior | None = None) -> M:
    r"""Copy a model with some of its parameters turned into global latent variables.

    .. math:: w_j \sim \mathrm{prior}

    for each entry w_j. The guide's ``rest`` covers them, starting at the parameters' current values, and their KL
    counts once per data set. Draws have the parameter's path as their name:
    ``Posterior.samples("decoder.outputs.rho.weight")``.

    Parameters
    ----------
    model
        a model that has not been passed to an `SVIModule` yet; it is not changed.
    names
        names of submodules, such as ``"decoder"``, for all of their parameters, or of single parameters, such as
        ``"likelihood.dispersion.log_theta"``.
    prior
        the distribution of one weight, such as ``dist.Normal(0.0, 1.0)`` or a mixture, or a `priors.WeightPrior`, such
        as ``priors.Horseshoe()``; Normal(0, 1) by default.

    Raises
    ------
    ValueError
        If a name is unknown, has no parameters or belongs to an encoder, which is part of the guide; and if a current
        value is outside of the prior's support.
    TypeError
        If the prior is neither a distribution of Pyro's nor a `priors.WeightPrior`.

    Source: Blundell et al. 2015, ICML 37 (Bayes by backprop).
    """
    prior = dist.Normal(0.0, 1.0) if prior is None else prior
    if not isinstance(prior, Distribution | WeightPrior):
        raise TypeError(f"prior must be a distribution, such as dist.Normal(0.0, 1.0); got {prior!r}")
    if isinstance(prior, Distribution) and not isinstance(prior, TorchDistributionMixin):
        raise TypeError(f"prior must be one of pyro.distributions; got torch's: pass dist.{type(prior).__name__}(...)")
    if isinstance(prior, Distribution) and (prior.batch_shape or prior.event_shape):
        raise ValueError(
            f"prior must be the distribution of one weight; got one of shape "
            f"{tuple(prior.batch_shape + prior.event_shape)}: pass numbers for its parameters"
        )
    if not names:
        raise ValueError('names must be one or more submodules or parameters; got none: bayesianize(model, "decoder")')
    chosen = {name: list(_parameters(model, name)) for name in names}
    model = copy.deepcopy(model)
    starts = dict(model.starts)
    for path in dict.fromkeys(path for paths in chosen.values() for path in paths):
        owner, name = _owner(model, path)
        starts[path] = getattr(owner, name).detach().clone()
        if isinstance(prior, Distribution):
            _check_start(path, starts[path], prior)
        _make_latent(owner, name, prior)
    model.starts = starts
    record_edit(model, "bayesianize", names=list(names), prior=prior)
    return model


def _parameters(model: CountModel, name: str) -> Iterator[str]:
    """The paths of the parameters that ``name`` selects."""
    if name.split(".")[0] == "encoders":
        raise ValueError(f"{name!r} is part of the guide, not of the model: its weights have no prior in the model")
    found = [path for path, _ in model.named_parameters() if path == name or path.startswith(f"{name}.")]
    found = [path for path in found if not path.startswith("encoders.")]
    if not found:
        parts = sorted({path.split(".")[0] for path, _ in model.named_parameters()} - {"encoders"})
        raise ValueError(f"{name!r} has no parameters in {type(model).__name__}: the model has parameters in {parts}")
    if constrained := [path for path in found if path.endswith("_unconstrained")]:
        raise ValueError(
            f"{constrained[0]!r} is a constrained parameter (PyroParam): write its prior into the model itself"
        )
    return iter(found)


def _owner(model: CountModel, path: str) -> tuple[PyroModule, str]:
    """The module that has the parameter, converted to a PyroModule, and the parameter's name in it."""
    parent, _, name = path.rpartition(".")
    owner = model.get_submodule(parent)
    if not isinstance(owner, PyroModule):
        to_pyro_module_(owner)
    return owner, name


def _make_latent(owner: PyroModule, name: str, prior: Distribution | WeightPrior) -> None:
    value = getattr(owner, name)
    delattr(owner, name)
    # A buffer with the device and dtype of the weights, which follows the model; the prior's own tensors do not.
    owner.register_buffer(f"_{name}_like", torch.zeros((), dtype=value.dtype, device=value.device), persistent=False)
    if isinstance(prior, WeightPrior):
        for part, sample in prior.parts(name, value.shape).items():
            setattr(owner, part, sample)
        return
    setattr(owner, name, PyroSample(_IndependentPrior(prior, value.shape, f"_{name}_like")))


class _SupportedMixture(dist.MixtureSameFamily):
    """A mixture with the support of its components, since torch has no bijection for a mixture's own support."""

    @property
    def support(self) -> Any:
        return self.component_distribution.support


def _with_support(prior: Distribution) -> Distribution:
    if type(prior) is dist.MixtureSameFamily and isinstance(prior, torch.distributions.MixtureSameFamily):
        return _SupportedMixture(prior.mixture_distribution, prior.component_distribution)
    return prior


def _check_start(path: str, value: Tensor, prior: Distribution) -> None:
    """Raise if the current value of a weight is outside of the prior's support, where the guide cannot start."""
    support = _move_to(_with_support(prior), value).support
    inside = support.check(value) & biject_to(support).inv(value).isfinite()
    if not bool(inside.all()):
        outside = float(value[~inside].flatten()[0])
        raise ValueError(
            f"prior={type(prior).__name__} has the support {support}, and {path!r} has values outside of it, such as "
            f"{outside:.3g}: choose a prior over the reals, such as dist.Normal, dist.Laplace or dist.StudentT"
        )


class _IndependentPrior:
    """Independent priors of a weight's entries: a callable for PyroSample that, unlike a lambda, can be pickled."""

    def __init__(self, prior: Distribution, shape: torch.Size, like: str) -> None:
        self.prior, self.shape, self.like = _with_support(prior), shape, like

    def __call__(self, owner: nn.Module) -> Distribution:
        fn: Any = _move_to(self.prior, getattr(owner, self.like))
        return fn.expand(self.shape).to_event(len(self.shape))


def _move_to(part: Any, like: Tensor) -> Any:
    """A distribution or transform with all of its tensors on the device and with the precision of ``like``."""
    if isinstance(part, Tensor):
        return part.to(like if part.is_floating_point() else like.device)
    if isinstance(part, list):
        items = [_move_to(item, like) for item in part]
        return part if all(map(operator.is_, items, part)) else items
    if not isinstance(part, Distribution | Transform):
        return part
    # A transform and its inverse refer to each other.
    moved = {name: _move_to(value, like) for name, value in vars(part).items() if name != "_inv"}
    if all(value is vars(part)[name] for name, value in moved.items()):
        return part  # nothing had to be moved, which is the usual case
    copied = copy.copy(part)
    vars(copied).update(moved)
    return copied


EDITS["bayesianize"] = lambda model, names, prior: bayesianize(model, *names, prior=prior)
