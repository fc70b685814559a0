"""How each kind of bound is trained: `adapter` chooses, and nothing else in the package asks for an ELBO's class."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.elbo import ELBOModule
from pyro.poutine import Trace
from pyro.util import check_site_shape
from torch import Tensor

from pyro_omics.batch import RowBatch
from pyro_omics.inference.checks import MARGINAL, check_plate
from pyro_omics.inference.elbos.renyi import RenyiELBO
from pyro_omics.inference.elbos.trace import TraceELBO
from pyro_omics.inference.kl_warmup import LatentSites, ScaleLatents
from pyro_omics.sites import is_local, latent_sites, sample_sites

INSTEAD = {
    "RenyiELBO": "pyro_omics.elbos.RenyiELBO(alpha=..., num_particles=...), the same bound by row",
    "ReweightedWakeSleep": "pyro_omics.elbos.RenyiELBO(alpha=0.0, num_particles=...), the importance-weighted bound",
    "TraceTailAdaptive_ELBO": "pyro_omics.elbos.RenyiELBO(alpha=..., num_particles=...), weights of each row's draws",
    "TraceTMC_ELBO": "pyro_omics.elbos.RenyiELBO(alpha=0.0, num_particles=...), the importance-weighted bound",
    "TraceGraph_ELBO": "Trace_ELBO(), or " + MARGINAL + " for discrete latents",
}


class BoundAdapter:
    """A bound as training sees it: any ELBO whose loss torch's autograd differentiates.

    Parameters
    ----------
    bound
        the ELBO.
    """

    def __init__(self, bound: ELBO) -> None:
        self.bound = bound

    @property
    def nesting(self) -> int | None:
        """How deep plates are nested, where the bound sums discrete latents out; else None."""
        return None

    def check(self, name: str, n_obs: int, p: Trace, q: Trace) -> None:
        """Raise where the bound does not go with the latents of a model and its guide.

        Parameters
        ----------
        name, n_obs
            of the model: its class, and its plate's size.
        p, q
            a trace of the model and one of the guide, on the same batch.
        """
        if marked := list(latent_sites(p, summed_out=True)):
            raise ValueError(f"discrete latent {marked[0]!r} of {name} needs elbo={MARGINAL}, which sums it out")
        shared = [name for name, site in latent_sites(p).items() if not is_local(site)]
        if self.bound.vectorize_particles and self.bound.num_particles > 1 and shared:
            raise ValueError(
                f"vectorize_particles=True is wrong for global latents, of which {name} has {shared}: use "
                f"{type(self.bound).__name__}(num_particles={self.bound.num_particles}), which loops and is as fast"
            )

    def step(self, pair: ELBOModule, batch: RowBatch, weight: float) -> tuple[Tensor, Tensor]:
        """The loss of a training step, and the plain ELBO: both over the full data, in nats.

        Parameters
        ----------
        pair
            model and guide, whose call is the bound's loss.
        batch
            the minibatch.
        weight
            of the latent sites in the loss (KL warm-up), in (0, 1]. The plain ELBO is at weight 1 and has no gradient;
            it is of the draws that the loss is of where the bound keeps them, else of others.
        """
        with _at(weight):
            loss = pair(batch)
        with torch.no_grad():
            return loss, self.plain(pair, batch)

    def plain(self, pair: ELBOModule, batch: RowBatch) -> Tensor:
        """One draw of the ELBO over the full data, in nats, with discrete latents summed out."""
        return -TraceELBO().differentiable_loss(pair.model, pair.guide, batch)


class TraceELBOAdapter(BoundAdapter):
    """`TraceELBO`, which keeps the latents' part of its last draws by itself."""

    bound: TraceELBO

    def step(self, pair: ELBOModule, batch: RowBatch, weight: float) -> tuple[Tensor, Tensor]:
        """See `BoundAdapter`."""
        with _at(weight):
            loss = pair(batch)
        return loss, -(loss.detach() + (1 / weight - 1) * self.bound.kl)


class PyroTraceAdapter(BoundAdapter):
    """Pyro's Trace_ELBO and its subclasses, such as TraceMeanField_ELBO: what warm-up takes from the KL is recorded."""

    def step(self, pair: ELBOModule, batch: RowBatch, weight: float) -> tuple[Tensor, Tensor]:
        """See `BoundAdapter`."""
        loss, rest = _scaled(self.bound, pair, batch, weight)
        return loss, -(loss.detach() + rest)


class SummingAdapter(BoundAdapter):
    """A bound that sums out the discrete latents which a model marks."""

    needs_marked: ClassVar[bool] = False

    @property
    def nesting(self) -> int:
        """How deep plates are nested."""
        return int(self.bound.max_plate_nesting)

    def check(self, name: str, n_obs: int, p: Trace, q: Trace) -> None:
        """See `BoundAdapter`; and find out how deep plates are nested, where the bound was not told."""
        kind, marked = type(self.bound).__name__, latent_sites(p, summed_out=True)
        if self.needs_marked and self.bound.strict_enumeration_warning and not marked:
            raise ValueError(
                f"elbo={kind} sums discrete latents out, and {name} marks none with infer={{'enumerate': 'parallel'}}: "
                "use Trace_ELBO()"
            )
        for site in marked.values():
            check_plate("model", n_obs, site)
            if len([frame for frame in site["cond_indep_stack"] if frame.vectorized]) > 1:
                raise ValueError(
                    f"discrete latent {site['name']!r} of {name} is in a plate inside that over rows: it can be summed "
                    "out only where each row has one of it"
                )
        sampled = {**latent_sites(q), **latent_sites(q, summed_out=True)}
        if both := sorted(set(marked) & set(sampled)):
            raise ValueError(
                f"the guide samples {both}, which {name} marks to be summed out: leave them out of the guide"
            )
        if self.bound.vectorize_particles:
            raise ValueError(
                f"vectorize_particles=True does not go with discrete latents summed out: use {kind}(num_particles="
                f"{self.bound.num_particles}, max_plate_nesting=1), which loops"
            )
        if self.bound.max_plate_nesting == math.inf:
            self.bound.max_plate_nesting = _nesting(p, q)

    def plain(self, pair: ELBOModule, batch: RowBatch) -> Tensor:
        """See `BoundAdapter`."""
        elbo = RenyiELBO(alpha=1.0, num_particles=1)
        elbo.max_plate_nesting = self.nesting
        return -elbo.differentiable_loss(pair.model, pair.guide, batch)


class RenyiAdapter(SummingAdapter):
    """`RenyiELBO`, which keeps the plain loss of its last draws, at the weight that they had."""

    bound: RenyiELBO

    def step(self, pair: ELBOModule, batch: RowBatch, weight: float) -> tuple[Tensor, Tensor]:
        """See `BoundAdapter`."""
        loss, rest = _scaled(self.bound, pair, batch, weight)
        assert self.bound.plain_loss is not None
        return loss, -(self.bound.plain_loss + rest)


class TraceEnumAdapter(SummingAdapter):
    """Pyro's TraceEnum_ELBO, which takes one scale only: what warm-up takes from the KL is subtracted after it."""

    needs_marked = True

    def step(self, pair: ELBOModule, batch: RowBatch, weight: float) -> tuple[Tensor, Tensor]:
        """See `BoundAdapter`."""
        with LatentSites() if weight < 1 else nullcontext() as latents:
            loss = pair(batch)
        elbo = -loss.detach()
        if latents is not None:
            loss = loss - (1 - weight) * latents.kl() / self.bound.num_particles
        return loss, elbo


ADAPTERS: tuple[tuple[type[ELBO], type[BoundAdapter]], ...] = (
    (TraceELBO, TraceELBOAdapter),
    (Trace_ELBO, PyroTraceAdapter),
    (RenyiELBO, RenyiAdapter),
    (TraceEnum_ELBO, TraceEnumAdapter),
    (ELBO, BoundAdapter),
)


def adapter(bound: ELBO | None) -> BoundAdapter:
    """The adapter of a bound; of `TraceELBO` for None.

    Raises
    ------
    TypeError
        For what is no ELBO.
    ValueError
        For an ELBO that computes its own gradients, or cannot keep its parameters in the modules.
    """
    bound = TraceELBO() if bound is None else bound
    _check_elbo(bound)
    return next(kind for known, kind in ADAPTERS if isinstance(bound, known))(bound)


def _check_elbo(elbo: ELBO) -> None:
    if not isinstance(elbo, ELBO):
        raise TypeError(f"elbo must be an ELBO, made: Trace_ELBO(), and is {elbo!r}")
    name = type(elbo).__name__
    if type(elbo).__module__.startswith("pyro.") and name in INSTEAD:
        raise ValueError(f"elbo={name} has no loss for Lightning's optimisation by minibatch: use {INSTEAD[name]}")
    if name.startswith("Jit"):
        raise ValueError(f"elbo={name} needs Pyro's global parameter store, which is off here: use {name[3:]}")
    if not hasattr(elbo, "differentiable_loss"):
        raise ValueError(f"elbo={name} has no differentiable loss for Lightning's optimisation: use Trace_ELBO()")


def _at(weight: float) -> AbstractContextManager[Any]:
    return ScaleLatents(weight) if weight < 1 else nullcontext()


def _scaled(bound: ELBO, pair: ELBOModule, batch: RowBatch, weight: float) -> tuple[Tensor, Tensor | float]:
    """The loss with the latent sites at ``weight``, and what a weight of 1 would add to it at the same draws."""
    if weight == 1:
        return pair(batch), 0.0
    with LatentSites() as latents, ScaleLatents(weight):
        loss = pair(batch)
    with torch.no_grad():
        return loss, (1 / weight - 1) * latents.kl() / bound.num_particles


def _nesting(p: Trace, q: Trace) -> int:
    """How deep the plates of a model and a guide are nested; Pyro checks the shapes in them while it can tell."""
    for trace in (p, q):
        trace.compute_log_prob()
    sites = [site for trace in (p, q) for site in sample_sites(trace)]
    for site in sites:
        check_site_shape(site, max_plate_nesting=math.inf)
    return max((-frame.dim for site in sites for frame in site["cond_indep_stack"] if frame.vectorized), default=0)
