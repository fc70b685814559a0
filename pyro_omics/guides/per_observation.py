"""`PerObservation`: a table of parameters, a row of its own for each observation."""

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
from pyro_omics.sites import latent_sites

RATE = 0.03  # how far a step of the optimizer moves a row's location and log scale
N_DRAWS = 1000  # from the prior, for the moments that it has in no closed form


class PerObservation(LocalGuide):
    r"""No encoder: a location and a scale for each row of the data, mapped to the site's support.

    .. math:: q(z_n) = \mathrm{Normal}(\mu_n, \mathrm{diag}\,\sigma_n^2), \quad n = 1 \ldots n_{obs}

    A minibatch gives gradients to its own rows only (``batch.index``). All rows start at the prior's mean, at half its
    standard deviation and at most 0.5, in unconstrained space. Entries of which the data say nothing
    (``model.informed``) have the prior's own location and standard deviation there.

    Held-out rows (``batch.index`` of n_obs or more) have no row in the table. They are refined by `Refinement` before
    they are scored, from the same start, with every parameter frozen: n_steps passes for each batch, remembered for the
    draws that follow. Validation each epoch costs that each epoch: ``Trainer(check_val_every_n_epoch=...)``.

    Parameters
    ----------
    model
        the model; the guide holds a reference that is not registered.
    rest
        as in `Amortized`.
    n_steps, lr
        steps and learning rate of Adam for held-out rows.
    speed
        how many times as fast as other parameters the table's move at a step of Adam: a row is seen once an epoch, and
        a weight at each step. None takes what moves a row by 0.03 at a step of the optimizer, and at least 1; known
        when training begins (`on_optimizer`).

    Raises
    ------
    ValueError
        For a speed of 0 or below, and as `Refinement` and `Amortized` do.

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
            raise ValueError(f"speed must be a factor of the table's learning rate, above 0; got {speed}")
        self._given = speed
        self.refinement = Refinement(n_steps, lr)
        self.tables = PyroModule[nn.ModuleDict]()
        sites = latent_sites(model.example_trace())
        for name in model.local_sites:
            self.tables[name] = Table(*_moments(sites[name]["fn"], self.size(name)), model.n_obs, speed or 1.0)

    def on_optimizer(self, lr: float) -> None:
        """Set the tables' speed for an optimizer of this learning rate, unless it was given; not once trained."""
        for table in self.tables.values():
            if self._given is None and not table.loc.any() and not table.log_scale.any():
                table.speed.fill_(max(1.0, RATE / lr))

    def start(self, name: str, batch: RowBatch, latents: Mapping[str, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Location and scale (n, d) from the table, or where rows that it does not have start."""
        loc, scale = self.tables[name](batch.index)
        informed = self.model.informed(name, batch)
        if informed is not None:
            known = informed.reshape(loc.shape)
            loc = torch.where(known, loc, self.tables[name].prior_loc)
            scale = torch.where(known, scale, self.tables[name].prior_scale)
        return loc, scale

    def offsets(self, batch: RowBatch) -> Offsets:
        """What held-out rows add to their start; 0 for the rows of the table."""
        held_out = batch.index >= self.model.n_obs
        if not bool(held_out.any()):
            return {}
        found = self.refinement(self, take_rows(batch, held_out))
        return {
            name: (_placed(shift, held_out), _placed(stretch, held_out)) for name, (shift, stretch) in found.items()
        }


class Table(PyroModule):
    """A location and a log scale (d,) for each of n rows, as multiples of ``speed`` from where all start.

    Parameters
    ----------
    loc, scale
        the prior's, (d,).
    n
        rows.
    speed
        of the parameters under Adam.
    """

    prior_loc: Tensor
    prior_scale: Tensor
    speed: Tensor

    def __init__(self, loc: Tensor, scale: Tensor, n: int, speed: float) -> None:
        super().__init__()
        self.register_buffer("prior_loc", loc)
        self.register_buffer("prior_scale", scale)
        self.register_buffer("speed", torch.tensor(speed))  # saved: the table means nothing without it
        self.loc = nn.Parameter(torch.zeros(n, len(loc)))
        self.log_scale = nn.Parameter(torch.zeros(n, len(loc)))

    def forward(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale (len(index), d); of an index beyond the table, those at the start."""
        n = len(self.loc)
        known = (index < n).unsqueeze(-1)
        at = index.clamp(max=n - 1)
        shift, stretch = (
            torch.where(known, table[at], table.new_zeros(())) * self.speed for table in (self.loc, self.log_scale)
        )
        return self.prior_loc + shift, self.prior_scale.clamp(max=1.0) / 2 * stretch.exp()


def _moments(fn: Any, size: int) -> tuple[Tensor, Tensor]:
    """The prior's mean, mapped to unconstrained space, and its standard deviation there (size,), at the first row."""
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


def _placed(rows: Tensor, mask: Tensor) -> Tensor:
    """Rows at the places of a mask, among rows of 0."""
    whole = rows.new_zeros(len(mask), rows.shape[-1])
    whole[mask] = rows
    return whole
