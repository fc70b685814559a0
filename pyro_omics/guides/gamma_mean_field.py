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
from pyro_omics.serialization.arguments import RecordsArguments
from pyro_omics.sites import PLATE, is_local, latent_sites

SPREAD = 0.1  # standard deviation of a Normal factor at the start, as AutoNormal's
BOUNDS = (-7.0, 30.0)  # of the log of a Gamma's shape: below, its draws are no longer told from 0 in float32


class GammaMeanField(PyroModule, RecordsArguments):
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
        self._local: list[str] = []
        self._size = 0  # of the plate

    def _make(self, batch: RowBatch) -> None:
        """One factor for each latent site, as it is at the prior's mean."""
        program = self._program[0]
        # A model may have a trace already; a part of one has none.
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
        """Start the Gamma of a positive latent at another; see `global_guide.start_at`."""
        self.factor(site).start_at(start)

    @property
    def sites(self) -> list[str]:
        """Names of the latent sites, known once the guide was run."""
        return list(self._names)

    def forward(self, batch: RowBatch) -> dict[str, Tensor]:
        """Sample every latent; returns their values."""
        if not self._names:
            self._make(batch)
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
                f"GammaMeanField has a table of {self._size} training rows for {self._local}, and these are held-out "
                "rows: use guides.PerObservation, guides.Conditional or guides.Amortized, or hold no rows out"
            )
        return pyro.plate(PLATE, self._size, subsample=batch.index)


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


def _factor(fn: Any, value: Tensor, shape: torch.Size) -> GammaFactor | NormalFactor:
    """A factor with the prior's moments; ``value`` (a draw) gives them where the prior has none."""
    support = fn.support
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    mean = _moment(fn, "mean", value)
    if support in (dist.constraints.positive, dist.constraints.nonnegative):
        mean = mean.clamp(min=1e-6)
        variance = _moment(fn, "variance", mean.square()).clamp(min=1e-12)
        concentration = (mean.square() / variance).clamp(1e-2, 1e4)
        return GammaFactor(_table(concentration, shape), _table(concentration / mean, shape), fn.event_dim)
    return NormalFactor(_table(biject_to(support).inv(mean), shape), support, fn.event_dim)


def _table(start: Tensor, shape: torch.Size) -> Tensor:
    """The start at full size: of a row's own latents, all rows start as the first."""
    return (start if start.shape == shape else start[:1]).expand(shape).clone()


def _moment(fn: Any, name: str, instead: Tensor) -> Tensor:
    try:
        value = getattr(fn, name).expand(instead.shape)
    except NotImplementedError:
        value = instead
    return value.where(value.isfinite(), instead).detach()
