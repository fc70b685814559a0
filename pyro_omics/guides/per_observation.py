"""`PerObservation`: a guide with separate parameters for each training row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import biject_to

from pyro_omics.batch import RowBatch, take_rows
from pyro_omics.guides.base import LocalGuide, Offsets
from pyro_omics.guides.guided_model import GuidedModel
from pyro_omics.guides.refinement import Refinement
from pyro_omics.layers.module import FastPyroModule
from pyro_omics.sites import latent_sites

ROW_STEP = 0.03  # change of a row's location and log scale in a step of the optimizer
N_DRAWS = 1000  # from the prior, for moments without a closed form


class PerObservation(LocalGuide):
    r"""A location and a scale for each training row, without an encoder, mapped to the site's support.

    .. math:: q(z_n) = \mathrm{Normal}(\mu_n, \mathrm{diag}\,\sigma_n^2), \quad n = 1 \ldots n_{obs}

    A minibatch gives gradients to its own rows only (``batch.index``). In unconstrained space, all rows start at the
    prior's mean, with half its standard deviation and at most 0.5. Entries that the data do not inform
    (``model.informed``) have the prior's location and standard deviation.

    Held-out rows (``batch.index`` of n_obs or more) have no parameters. `Refinement` optimizes their location and scale
    from the same initial values, with every parameter frozen: n_steps passes for each batch, kept for the draws that
    follow. Validation costs as much each time: ``Trainer(check_val_every_n_epoch=...)`` makes it less frequent.

    Parameters
    ----------
    model
        the model; the guide holds an unregistered reference.
    rest
        as in `Amortized`.
    n_steps, lr
        number of steps and learning rate of Adam for held-out rows.
    speed
        factor of the learning rate for the rows' parameters: a row is seen once an epoch, a weight at each step. None
        chooses, when the optimizer is made (`on_optimizer`), the factor at which a step of Adam moves a row by 0.03,
        and at least 1.

    Raises
    ------
    ValueError
        If ``speed`` is not above 0, and as `Refinement` and `Amortized`.

    Source: Hoffman et al. 2013, JMLR 14, 1303 (local parameters of stochastic variational inference).
    """

    def __init__(
        self,
        model: GuidedModel,
        rest: Callable[[Callable[..., Any]], PyroModule] | None = None,
        n_steps: int = 50,
        lr: float = 0.2,
        speed: float | None = None,
    ) -> None:
        super().__init__(model, rest)
        if speed is not None and not speed > 0:
            raise ValueError(f"speed must be a factor of the learning rate, above 0; got {speed}")
        self._given_speed = speed
        self.refinement = Refinement(n_steps, lr)
        self.tables = PyroModule[nn.ModuleDict]()
        sites = latent_sites(model.example_trace())
        for name in model.local_sites:
            self.tables[name] = Table(*_moments(sites[name]["fn"], self.size(name)), model.n_obs, speed or 1.0)

    def on_optimizer(self, lr: float) -> None:
        """Set the speed for this learning rate, unless it was given or training has begun."""
        for table in self.tables.values():
            if self._given_speed is None and not table.loc.any() and not table.log_scale.any():
                table.speed.fill_(max(1.0, ROW_STEP / lr))

    def start(self, name: str, batch: RowBatch, latents: Mapping[str, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Location and scale (n, d) of the rows; the initial values for held-out rows."""
        loc, scale = self.tables[name](batch.index)
        informed = self.model.informed(name, batch)
        if informed is not None:
            known = informed.reshape(loc.shape)
            loc = torch.where(known, loc, self.tables[name].prior_loc)
            scale = torch.where(known, scale, self.tables[name].prior_scale)
        return loc, scale

    def offsets(self, batch: RowBatch) -> Offsets:
        """Refined offsets of the held-out rows; 0 for training rows."""
        held_out = batch.index >= self.model.n_obs
        if not bool(held_out.any()):
            return {}
        found = self.refinement(self, take_rows(batch, held_out))
        return {
            name: (_scatter_rows(shift, held_out), _scatter_rows(stretch, held_out))
            for name, (shift, stretch) in found.items()
        }


class Table(FastPyroModule):
    """A location and a log scale (d,) for each of n rows, stored as offsets from common initial values over ``speed``.

    Parameters
    ----------
    loc, scale
        location and scale of the prior, (d,).
    n
        number of rows.
    speed
        factor of the learning rate.
    """

    prior_loc: Tensor
    prior_scale: Tensor
    speed: Tensor

    def __init__(self, loc: Tensor, scale: Tensor, n: int, speed: float) -> None:
        super().__init__()
        self.register_buffer("prior_loc", loc)
        self.register_buffer("prior_scale", scale)
        self.register_buffer(
            "speed", torch.tensor(speed)
        )  # a buffer, so that it is saved: offsets are in multiples of it
        self.loc = nn.Parameter(torch.zeros(n, len(loc)))
        self.log_scale = nn.Parameter(torch.zeros(n, len(loc)))

    def forward(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale (len(index), d); the initial ones for an index of n or more."""
        n = len(self.loc)
        known = (index < n).unsqueeze(-1)
        at = index.clamp(max=n - 1)
        shift, stretch = (
            torch.where(known, table[at], table.new_zeros(())) * self.speed for table in (self.loc, self.log_scale)
        )
        return self.prior_loc + shift, self.prior_scale.clamp(max=1.0) / 2 * stretch.exp()


def _moments(fn: Any, size: int) -> tuple[Tensor, Tensor]:
    """The prior's mean and standard deviation (size,) in unconstrained space, for the first row."""
    transform = biject_to(fn.support)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draws = fn.sample((N_DRAWS,))
        loc = transform.inv(_mean(fn, draws))
        scale = transform.inv(draws).std(0)
    first = (value.reshape(-1, size)[0] for value in (loc, scale))
    loc, scale = (torch.where(value.isfinite(), value, torch.full_like(value, i)) for i, value in enumerate(first))
    return loc, scale.clamp(min=1e-3)


def _mean(fn: Any, draws: Tensor) -> Tensor:
    try:
        mean = fn.mean
    except NotImplementedError:
        mean = draws.mean(0)
    return torch.where(mean.isfinite(), mean, draws.median(0).values)


def _scatter_rows(rows: Tensor, mask: Tensor) -> Tensor:
    """The rows at the positions where the mask is true, and 0 elsewhere."""
    whole = rows.new_zeros(len(mask), rows.shape[-1])
    whole[mask] = rows
    return whole
