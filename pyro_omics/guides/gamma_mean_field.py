"""`GammaMeanField`: a Gamma for each positive latent, a Normal for every other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import biject_to

from pyro_omics.batch import RowBatch
from pyro_omics.distributions import masked
from pyro_omics.layers.eval_mode import prototype_trace
from pyro_omics.layers.module import FastPyroModule
from pyro_omics.serialization.arguments import RecordsArguments
from pyro_omics.sites import PLATE, is_local, is_positive, is_real, latent_sites

SPREAD = 0.1  # initial standard deviation of a Normal factor, as in AutoNormal
BOUNDS = (-7.0, 30.0)  # of the log of a Gamma's shape: below, its draws underflow to 0 in float32


class GammaMeanField(FastPyroModule, RecordsArguments):
    r"""Mean-field guide: an independent Gamma for each positive entry, and a Normal, mapped to the support, for others.

    .. math:: q(f) = \prod_j \mathrm{Gamma}(f_j; \alpha_j, \beta_j)

    Local latents have parameters for each of the n_obs training rows; a minibatch trains those of its own rows.

    Parameters
    ----------
    model
        the model, or a part of it (a program over the same batches).

    Raises
    ------
    ValueError
        If it is called on held-out rows of a model with local latents, for which it has no parameters.

    Source: Blei et al. 2017, JASA 112, 859 (mean-field variational inference).
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        super().__init__(type(self).__name__)  # as in LocalGuide
        self._program = (model,)
        self.factors = PyroModule[nn.ModuleDict]()
        self._names: dict[str, str] = {}  # site -> key in factors, where dots are not allowed
        self._local: list[str] = []
        self._size = 0  # size of the plate

    def _make_factors(self, batch: RowBatch) -> None:
        """Create the factor of each latent site, with the moments of its prior."""
        program = self._program[0]
        # A CountModel may have a trace already; a part of a model has none.
        trace = getattr(program, "example_trace", partial(prototype_trace, program))(batch)
        for name, site in latent_sites(trace).items():
            fn, shape = site["fn"], site["value"].shape
            if is_local(site):
                (frame,) = (frame for frame in site["cond_indep_stack"] if frame.name == PLATE)
                self._size = frame.full_size
                self._local.append(name)
                shape = torch.Size((self._size, *shape[1:]))
            self._names[name] = name.replace(".", "__")
            self.factors[self._names[name]] = _factor(fn, site["value"], shape)

    def factor(self, site: str) -> GammaFactor | NormalFactor:
        """The factor of a latent site."""
        return self.factors[self._names[site]]

    def start_at(self, site: str, start: dist.Gamma) -> None:
        """Initialize the Gamma of a positive latent; see `global_guide.start_at`."""
        self.factor(site).start_at(start)

    @property
    def sites(self) -> list[str]:
        """Names of the latent sites, known after the first call."""
        return list(self._names)

    def forward(self, batch: RowBatch) -> dict[str, Tensor]:
        """Sample every latent, and return their values by name."""
        if not self._names:
            self._make_factors(batch)
        values = {name: pyro.sample(name, self.factor(name)()) for name in self._names if name not in self._local}
        if self._local:
            with self._plate(batch):
                values |= {name: pyro.sample(name, self._rows(name, batch)) for name in self._local}
        return values

    def _rows(self, name: str, batch: RowBatch) -> TorchDistribution:
        informed = getattr(self._program[0], "informed", lambda *_: None)(name, batch)
        return masked(self.factor(name)(batch.index), informed)

    def _plate(self, batch: RowBatch) -> pyro.plate:
        if len(batch.index) and int(batch.index.max()) >= self._size:
            raise ValueError(
                f"GammaMeanField has parameters of {self._local} for the {self._size} training rows only; got held-out "
                "rows: use guides.PerObservation, guides.Conditional or guides.Amortized, or hold no rows out"
            )
        return pyro.plate(PLATE, self._size, subsample=batch.index)


class GammaFactor(FastPyroModule):
    """Independent Gammas, parametrized by the logarithms of shape and mean, which can then change separately.

    Parameters
    ----------
    concentration, rate
        initial shape and rate.
    event_dim
        number of event dimensions of the site.
    """

    def __init__(self, concentration: Tensor, rate: Tensor, event_dim: int) -> None:
        super().__init__()
        self.log_concentration = nn.Parameter(concentration.log())
        self.log_mean = nn.Parameter((concentration / rate).log())
        self.event_dim = event_dim

    def forward(self, rows: Tensor | None = None) -> TorchDistribution:
        """The Gammas of these rows; of all rows when None."""
        chosen = ... if rows is None else rows
        log_concentration, log_mean = self.log_concentration[chosen].clamp(*BOUNDS), self.log_mean[chosen]
        return dist.Gamma(log_concentration.exp(), (log_concentration - log_mean).exp()).to_event(self.event_dim)

    @torch.no_grad()
    def start_at(self, fn: dist.Gamma) -> None:
        """Set shape and mean to those of these Gammas."""
        self.log_concentration.copy_(fn.concentration.expand_as(self.log_concentration).log())
        self.log_mean.copy_(fn.mean.expand_as(self.log_mean).log())


class NormalFactor(FastPyroModule):
    """Independent Normals, mapped to a support.

    Parameters
    ----------
    loc
        initial location, unconstrained.
    support
        support of the site.
    event_dim
        number of event dimensions of the site.
    """

    def __init__(self, loc: Tensor, support: Any, event_dim: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(loc.clone())
        self.log_scale = nn.Parameter(torch.full_like(loc, SPREAD).log())
        self.support, self.event_dim = support, event_dim

    def forward(self, rows: Tensor | None = None) -> TorchDistribution:
        """The Normals of these rows, mapped to the support; of all rows when None."""
        chosen = ... if rows is None else rows
        loc, log_scale = self.loc[chosen], self.log_scale[chosen]
        base = dist.Normal(loc, log_scale.exp()).to_event(self.event_dim)
        return base if is_real(self.support) else dist.TransformedDistribution(base, [biject_to(self.support)])


def _factor(fn: Any, value: Tensor, shape: torch.Size) -> GammaFactor | NormalFactor:
    """A factor with the prior's moments; a draw, ``value``, replaces moments that the prior does not have."""
    support = fn.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    mean = _moment(fn, "mean", value)
    if is_positive(support):
        mean = mean.clamp(min=1e-6)
        variance = _moment(fn, "variance", mean.square()).clamp(min=1e-12)
        concentration = (mean.square() / variance).clamp(1e-2, 1e4)
        return GammaFactor(_table(concentration, shape), _table(concentration / mean, shape), fn.event_dim)
    return NormalFactor(_table(biject_to(support).inv(mean), shape), support, fn.event_dim)


def _table(start: Tensor, shape: torch.Size) -> Tensor:
    """``start`` expanded to ``shape``; for local latents, all rows start like the first."""
    return (start if start.shape == shape else start[:1]).expand(shape).clone()


def _moment(fn: Any, name: str, fallback: Tensor) -> Tensor:
    try:
        value = getattr(fn, name).expand(fallback.shape)
    except NotImplementedError:
        value = fallback
    return value.where(value.isfinite(), fallback).detach()
