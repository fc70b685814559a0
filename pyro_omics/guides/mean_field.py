"""`GammaMeanField`: a Gamma for each positive latent, a Normal for every other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import biject_to

from pyro_omics.models.base import PLATE, is_local, latent_sites
from pyro_omics.recipe import Recipe

SPREAD = 0.1  # standard deviation of a Normal factor at the start, as AutoNormal's
BOUNDS = (-7.0, 30.0)  # of the log of a Gamma's shape: below, its draws are no longer told from 0 in float32


class GammaMeanField(PyroModule, Recipe):
    r"""Every entry of every latent by itself: Gamma where it is positive, else Normal, mapped to its support.

    .. math:: q(f) = \prod_j \mathrm{Gamma}(f_j; \alpha_j, \beta_j)

    A row's own latents have a table of parameters, n_obs rows, of which a minibatch touches its own.

    Parameters
    ----------
    model
        the model, or part of it (a program over the same batches).

    Raises
    ------
    ValueError
        When asked for held-out rows of a model with local latents: the tables have none for them.

    Source: Blei et al. 2017, JASA 112, 859 (mean-field variational inference).
    """

    def __init__(self, model: Callable[..., Any]) -> None:
        super().__init__()
        self._program = (model,)
        self.factors = PyroModule[nn.ModuleDict]()
        self._names: dict[str, str] = {}  # of sites -> of factors, which may have no dots
        self._sizes: dict[str, int] = {}  # of the plate, for local sites

    def _make(self, batch: Any) -> None:
        """One factor for each latent site, as it is at the prior's mean."""
        for name, site in latent_sites(self._program[0], batch).items():
            fn, shape = site["fn"], site["value"].shape
            if is_local(site):
                (frame,) = (frame for frame in site["cond_indep_stack"] if frame.name == PLATE)
                self._sizes[name] = frame.full_size
                shape = torch.Size((frame.full_size, *shape[1:]))
            self._names[name] = name.replace(".", "__")
            self.factors[self._names[name]] = _factor(fn, shape, site["value"])

    def factor(self, site: str) -> GammaFactor | NormalFactor:
        """The factor of a latent site."""
        return self.factors[self._names[site]]

    @property
    def sites(self) -> list[str]:
        """Names of the latent sites, known once the guide was run."""
        return list(self._names)

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Sample every latent; returns their values."""
        if not self._names:
            self._make(batch)
        return {name: self._sample(name, batch) for name in self._names}

    def _sample(self, name: str, batch: Any) -> Tensor:
        rows = None
        if name in self._sizes:
            rows = batch.index
            if len(rows) and int(rows.max()) >= self._sizes[name]:
                raise ValueError(
                    f"GammaMeanField has a table of {self._sizes[name]} training rows for {name!r}, and these are "
                    "held-out rows: use guides.Conditional or guides.Amortized, or hold no rows out"
                )
        plate = nullcontext() if rows is None else pyro.plate(PLATE, self._sizes[name], subsample=rows)
        with plate:
            return pyro.sample(name, self.factor(name)(rows))


class GammaFactor(PyroModule):
    """Gammas of their own shape and mean, in whose logarithms they are trained: one then moves without the other.

    Parameters
    ----------
    concentration, rate
        at the start.
    event_dim
        of the site.
    """

    def __init__(self, concentration: Tensor, rate: Tensor, event_dim: int) -> None:
        super().__init__()
        self.log_concentration = nn.Parameter(concentration.log())
        self.log_mean = nn.Parameter((concentration / rate).log())
        self.event_dim = event_dim

    def forward(self, rows: Tensor | None = None) -> TorchDistribution:
        """The Gammas, of some rows of the table or of all."""
        chosen = ... if rows is None else rows
        log_concentration, log_mean = self.log_concentration[chosen].clamp(*BOUNDS), self.log_mean[chosen]
        return dist.Gamma(log_concentration.exp(), (log_concentration - log_mean).exp()).to_event(self.event_dim)

    @torch.no_grad()
    def start_at(self, fn: dist.Gamma) -> None:
        """Take the shape and the rate of these Gammas."""
        self.log_concentration.copy_(fn.concentration.expand_as(self.log_concentration).log())
        self.log_mean.copy_(fn.mean.expand_as(self.log_mean).log())


class NormalFactor(PyroModule):
    """Normals, mapped to a support.

    Parameters
    ----------
    loc
        at the start, unconstrained.
    support
        of the site.
    event_dim
        of the site.
    """

    def __init__(self, loc: Tensor, support: Any, event_dim: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(loc.clone())
        self.log_scale = nn.Parameter(torch.full_like(loc, SPREAD).log())
        self.support, self.event_dim = support, event_dim

    def forward(self, rows: Tensor | None = None) -> TorchDistribution:
        """The Normals' images, of some rows of the table or of all."""
        chosen = ... if rows is None else rows
        loc, log_scale = self.loc[chosen], self.log_scale[chosen]
        base = dist.Normal(loc, log_scale.exp()).to_event(self.event_dim)
        transform = biject_to(self.support)
        return base if self.support is dist.constraints.real else dist.TransformedDistribution(base, [transform])

    @torch.no_grad()
    def start_at(self, fn: dist.Normal) -> None:
        """Take the mean and the standard deviation of these Normals, in unconstrained space."""
        self.loc.copy_(fn.loc.expand_as(self.loc))
        self.log_scale.copy_(fn.scale.expand_as(self.log_scale).log())


def _factor(fn: Any, shape: torch.Size, value: Tensor) -> GammaFactor | NormalFactor:
    support = fn.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    if support in (dist.constraints.positive, dist.constraints.nonnegative):
        mean = _finite(fn, "mean", value).clamp(min=1e-6)
        concentration = (mean.square() / _finite(fn, "variance", mean.square()).clamp(min=1e-12)).clamp(1e-2, 1e4)
        return GammaFactor(concentration.expand(shape).clone(), (concentration / mean).expand(shape), fn.event_dim)
    loc = biject_to(support).inv(_finite(fn, "mean", value))
    return NormalFactor(loc[:1].expand(shape) if loc.shape != shape else loc, support, fn.event_dim)


def _finite(fn: Any, moment: str, instead: Tensor) -> Tensor:
    """A moment of the prior, (1 row if it is local): of a draw where it has none."""
    try:
        value = getattr(fn, moment)
    except NotImplementedError:
        value = instead
    value = value.expand(instead.shape)
    return value.where(value.isfinite(), instead).detach()
