"""`bayesianize`: the parameters of any part of a model become latent variables."""

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
    r"""A copy of a model in which parameters are global latent variables, each entry with this prior.

    .. math:: w_j \sim \mathrm{prior}

    The guide's ``rest`` then covers them, and their KL counts once per data set. It starts at the parameters' present
    values. Draws are asked for by the parameter's path: ``Posterior.samples("decoder.outputs.rho.weight")``.

    Parameters
    ----------
    model
        not changed; one that was not given to an `SVIModule` yet.
    names
        of submodules, such as ``"decoder"``, all of whose parameters are meant, or of single parameters, such as
        ``"likelihood.dispersion.log_theta"``.
    prior
        a distribution of one weight, such as ``dist.Normal(0.0, 1.0)`` or a mixture, or a `priors.WeightPrior`, such as
        ``priors.Horseshoe()``; Normal(0, 1) when None.

    Raises
    ------
    ValueError
        For a name that the model does not have, that has no parameters, or that belongs to the guide: an encoder; and
        for present values outside of the prior's support.
    TypeError
        For a prior that is neither, or not one of Pyro's.

    Source: Blundell et al. 2015, ICML 37 (Bayes by backprop).
    """
    prior = dist.Normal(0.0, 1.0) if prior is None else prior
    if not isinstance(prior, Distribution | WeightPrior):
        raise TypeError(f"prior must be a distribution, such as dist.Normal(0.0, 1.0); got {prior!r}")
    if isinstance(prior, Distribution) and not isinstance(prior, TorchDistributionMixin):
        raise TypeError(f"prior must be one of pyro.distributions; got torch's: dist.{type(prior).__name__}(...)")
    if isinstance(prior, Distribution) and (prior.batch_shape or prior.event_shape):
        raise ValueError(
            f"prior must be the distribution of one weight; got one of shape "
            f"{tuple(prior.batch_shape + prior.event_shape)}: pass numbers for its parameters"
        )
    if not names:
        raise ValueError('names of what is to be latent are missing: bayesianize(model, "decoder")')
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
    """The paths of the parameters that a name means."""
    if name.split(".")[0] == "encoders":
        raise ValueError(f"{name!r} is a part of the guide, not of the model: its weights have no prior in the model")
    found = [path for path, _ in model.named_parameters() if path == name or path.startswith(f"{name}.")]
    found = [path for path in found if not path.startswith("encoders.")]
    if not found:
        parts = sorted({path.split(".")[0] for path, _ in model.named_parameters()} - {"encoders"})
        raise ValueError(f"{name!r} names no parameters of {type(model).__name__}: there are {parts}")
    if constrained := [path for path in found if path.endswith("_unconstrained")]:
        raise ValueError(f"{constrained[0]!r} is constrained, a PyroParam: write its prior into the model itself")
    return iter(found)


def _owner(model: CountModel, path: str) -> tuple[PyroModule, str]:
    """The module that has a parameter, as a PyroModule, and the parameter's name in it."""
    parent, _, name = path.rpartition(".")
    owner = model.get_submodule(parent)
    if not isinstance(owner, PyroModule):
        to_pyro_module_(owner)
    return owner, name


def _make_latent(owner: PyroModule, name: str, prior: Distribution | WeightPrior) -> None:
    value = getattr(owner, name)
    delattr(owner, name)
    # On the weights' device wherever the model is moved to: of a distribution's own numbers, no module knows.
    owner.register_buffer(f"_{name}_like", torch.zeros((), dtype=value.dtype, device=value.device), persistent=False)
    if isinstance(prior, WeightPrior):
        for part, sample in prior.parts(name, value.shape).items():
            setattr(owner, part, sample)
        return
    setattr(owner, name, PyroSample(_Independent(prior, value.shape, f"_{name}_like")))


class _Mixture(dist.MixtureSameFamily):
    """A mixture with the support of its components: of its own, torch has no transform to the reals."""

    @property
    def support(self) -> Any:
        return self.component_distribution.support


def _supported(prior: Distribution) -> Distribution:
    if type(prior) is dist.MixtureSameFamily and isinstance(prior, torch.distributions.MixtureSameFamily):
        return _Mixture(prior.mixture_distribution, prior.component_distribution)
    return prior


def _check_start(path: str, value: Tensor, prior: Distribution) -> None:
    """Raise where a weight cannot start at its present value, which the guide has to map to the reals."""
    support = _moved(_supported(prior), value).support
    inside = support.check(value) & biject_to(support).inv(value).isfinite()
    if not bool(inside.all()):
        outside = float(value[~inside].flatten()[0])
        raise ValueError(
            f"prior={type(prior).__name__} has the support {support}, and {path!r} has values outside of it, such as "
            f"{outside:.3g}: choose a prior over the reals, such as dist.Normal, dist.Laplace or dist.StudentT"
        )


class _Independent:
    """The prior of each entry of a weight; callable, for PyroSample, and a class, so that it can be pickled."""

    def __init__(self, prior: Distribution, shape: torch.Size, like: str) -> None:
        self.prior, self.shape, self.like = _supported(prior), shape, like

    def __call__(self, owner: nn.Module) -> Distribution:
        fn: Any = _moved(self.prior, getattr(owner, self.like))
        return fn.expand(self.shape).to_event(len(self.shape))


def _moved(part: Any, like: Tensor) -> Any:
    """A distribution, and what it is made of, with its numbers on another's device and in its precision."""
    if isinstance(part, Tensor):
        return part.to(like if part.is_floating_point() else like.device)
    if isinstance(part, list):
        items = [_moved(item, like) for item in part]
        return part if all(map(operator.is_, items, part)) else items
    if not isinstance(part, Distribution | Transform):
        return part
    # A transform and its inverse know each other.
    moved = {name: _moved(value, like) for name, value in vars(part).items() if name != "_inv"}
    if all(value is vars(part)[name] for name, value in moved.items()):
        return part  # as in every step but on another device
    copied = copy.copy(part)
    vars(copied).update(moved)
    return copied


EDITS["bayesianize"] = lambda model, names, prior: bayesianize(model, *names, prior=prior)
