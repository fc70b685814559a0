"""Adapters that give every ELBO one interface for training; only this file distinguishes the classes of ELBOs."""

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
from pyro_omics.inference.checks import ENUM_ELBO, check_plate
from pyro_omics.inference.elbos.delta_kl import CorrectDeltaKL
from pyro_omics.inference.elbos.renyi import RenyiELBO
from pyro_omics.inference.elbos.trace import TraceELBO
from pyro_omics.inference.elbos.vectorised import check_vectorised
from pyro_omics.inference.kl_warmup import LatentSites, ScaleLatents
from pyro_omics.sites import latent_sites, sample_sites

ALTERNATIVES = {  # Pyro's ELBOs that cannot be trained here -> what to use instead
    "RenyiELBO": "pyro_omics.elbos.RenyiELBO(alpha=..., num_particles=...), the same bound for each row",
    "ReweightedWakeSleep": "pyro_omics.elbos.RenyiELBO(alpha=0.0, num_particles=...), the importance-weighted bound",
    "TraceTailAdaptive_ELBO": "pyro_omics.elbos.RenyiELBO(alpha=..., num_particles=...), weights of each row's draws",
    "TraceTMC_ELBO": "pyro_omics.elbos.RenyiELBO(alpha=0.0, num_particles=...), the importance-weighted bound",
    "TraceGraph_ELBO": "Trace_ELBO(), or " + ENUM_ELBO + " for discrete latents",
}


class BoundAdapter:
    """Adapter of any ELBO whose loss torch's autograd can differentiate.

    Parameters
    ----------
    bound
        the ELBO.
    """

    def __init__(self, bound: ELBO) -> None:
        self.bound = bound

    @property
    def nesting(self) -> int | None:
        """Nesting depth of plates, where the bound sums discrete latents out; else None."""
        return None

    def check(self, name: str, n_obs: int, p: Trace, q: Trace) -> None:
        """Raise where the bound cannot handle the latents of a model and its guide.

        Parameters
        ----------
        name
            name of the model's class.
        n_obs
            size of the model's plate.
        p, q
            traces of the model and of the guide, on the same batch.

        Raises
        ------
        ValueError
            Where discrete latents are to be summed out and the bound cannot, or the reverse.
        """
        if marked := list(latent_sites(p, summed_out=True)):
            raise ValueError(f"discrete latent {marked[0]!r} of {name} needs elbo={ENUM_ELBO}, which sums it out")

    def check_particles(self, pair: ELBOModule, batch: RowBatch) -> None:
        """Raise a ValueError where the bound's vectorised particles would be wrong for a model and its guide."""
        if self.bound.vectorize_particles and self.bound.num_particles > 1:
            check_vectorised(self.bound, pair, batch)

    def step(self, pair: ELBOModule, batch: RowBatch, weight: float) -> tuple[Tensor, Tensor]:
        """The loss of a training step and the plain ELBO, both over the full data, in nats.

        The plain ELBO is at weight 1, without gradient. It is estimated from the draws of the loss where the bound
        keeps them, else from new draws.

        Parameters
        ----------
        pair
            model and guide; calling it on a batch gives the bound's loss.
        batch
            the minibatch.
        weight
            weight of the latent sites in the loss (KL warm-up), in (0, 1].
        """
        with _scale_latents(weight):
            loss = self.loss(pair, batch)
        with torch.no_grad():
            return loss, self.plain(pair, batch)

    def loss(self, pair: ELBOModule, batch: RowBatch) -> Tensor:
        """The negative bound over the full data, in nats."""
        loss: Tensor = pair(batch)
        return loss

    def _weighted_loss(self, pair: ELBOModule, batch: RowBatch, weight: float) -> tuple[Tensor, Tensor | float]:
        """The loss with the latent sites at ``weight``, and the loss at weight 1 minus it, at the same draws."""
        if weight == 1:
            return self.loss(pair, batch), 0.0
        with LatentSites() as latents, ScaleLatents(weight):
            loss = self.loss(pair, batch)
        with torch.no_grad():
            return loss, (1 / weight - 1) * latents.kl() / self.bound.num_particles

    def plain(self, pair: ELBOModule, batch: RowBatch) -> Tensor:
        """One draw of the ELBO over the full data, in nats, with discrete latents summed out."""
        return -TraceELBO().differentiable_loss(pair.model, pair.guide, batch)


class TraceELBOAdapter(BoundAdapter):
    """Adapter of `TraceELBO`, which keeps the KL of its last draws."""

    bound: TraceELBO

    def step(self, pair: ELBOModule, batch: RowBatch, weight: float) -> tuple[Tensor, Tensor]:
        """See `BoundAdapter`."""
        with _scale_latents(weight):
            loss = self.loss(pair, batch)
        return loss, -(loss.detach() + (1 / weight - 1) * self.bound.kl)


class PyroTraceAdapter(BoundAdapter):
    """Adapter of Pyro's Trace_ELBO and its subclasses, such as TraceMeanField_ELBO.

    The KL of the draws is recorded in warm-up, so that its full weight can be restored in the plain ELBO.
    """

    def step(self, pair: ELBOModule, batch: RowBatch, weight: float) -> tuple[Tensor, Tensor]:
        """See `BoundAdapter`."""
        loss, rest = self._weighted_loss(pair, batch, weight)
        return loss, -(loss.detach() + rest)

    def loss(self, pair: ELBOModule, batch: RowBatch) -> Tensor:
        """See `BoundAdapter`; with the density of an autoguide's draws in TraceMeanField_ELBO's KL."""
        with CorrectDeltaKL():
            return super().loss(pair, batch)


class SummingAdapter(BoundAdapter):
    """Adapter of a bound that sums out the discrete latents that a model marks."""

    needs_marked: ClassVar[bool] = False

    @property
    def nesting(self) -> int:
        """Nesting depth of plates."""
        return int(self.bound.max_plate_nesting)

    def check(self, name: str, n_obs: int, p: Trace, q: Trace) -> None:
        """See `BoundAdapter`; also sets the bound's ``max_plate_nesting`` from the traces, if it is not set."""
        kind, marked = type(self.bound).__name__, latent_sites(p, summed_out=True)
        if self.needs_marked and self.bound.strict_enumeration_warning and not marked:
            raise ValueError(
                f"elbo={kind} sums discrete latents out, but {name} marks none with infer={{'enumerate': "
                "'parallel'}: use Trace_ELBO()"
            )
        for site in marked.values():
            check_plate("model", n_obs, site)
            if len([frame for frame in site["cond_indep_stack"] if frame.vectorized]) > 1:
                raise ValueError(
                    f"discrete latent {site['name']!r} of {name} must be in the plate over rows alone; got a plate "
                    "inside it: only one discrete value for each row can be summed out"
                )
        sampled = {**latent_sites(q), **latent_sites(q, summed_out=True)}
        if both := sorted(set(marked) & set(sampled)):
            raise ValueError(
                f"the guide samples {both}, which {name} marks to be summed out: leave them out of the guide"
            )
        if self.bound.vectorize_particles:
            raise ValueError(
                f"vectorize_particles=True does not work with discrete latents summed out: use {kind}(num_particles="
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
    """Adapter of `RenyiELBO`, which keeps the plain loss of its last draws, at the weight of the step."""

    bound: RenyiELBO

    def step(self, pair: ELBOModule, batch: RowBatch, weight: float) -> tuple[Tensor, Tensor]:
        """See `BoundAdapter`."""
        loss, rest = self._weighted_loss(pair, batch, weight)
        assert self.bound.plain_loss is not None
        return loss, -(self.bound.plain_loss + rest)


class TraceEnumAdapter(SummingAdapter):
    """Adapter of Pyro's TraceEnum_ELBO, which allows one scale only.

    The loss is computed at full weight, and (1 - weight) KL is subtracted from it in warm-up.
    """

    needs_marked = True

    def step(self, pair: ELBOModule, batch: RowBatch, weight: float) -> tuple[Tensor, Tensor]:
        """See `BoundAdapter`."""
        with LatentSites() if weight < 1 else nullcontext() as latents:
            loss = self.loss(pair, batch)
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
    """The adapter of a bound; None stands for `TraceELBO`.

    Raises
    ------
    TypeError
        For an object that is not an ELBO.
    ValueError
        For an ELBO that computes its own gradients, or needs Pyro's global parameter store.
    """
    bound = TraceELBO() if bound is None else bound
    _check_elbo(bound)
    return next(kind for known, kind in ADAPTERS if isinstance(bound, known))(bound)


def _check_elbo(elbo: ELBO) -> None:
    if not isinstance(elbo, ELBO):
        raise TypeError(f"elbo must be an ELBO, such as Trace_ELBO(), not its class; got {elbo!r}")
    name = type(elbo).__name__
    if type(elbo).__module__.startswith("pyro.") and name in ALTERNATIVES:
        raise ValueError(f"elbo={name} has no loss that minibatches can train: use {ALTERNATIVES[name]}")
    if name.startswith("Jit"):
        raise ValueError(f"elbo={name} needs Pyro's global parameter store, which is off here: use {name[3:]}")
    if not hasattr(elbo, "differentiable_loss"):
        raise ValueError(f"elbo={name} has no differentiable loss, which Lightning needs: use Trace_ELBO()")


def _scale_latents(weight: float) -> AbstractContextManager[Any]:
    return ScaleLatents(weight) if weight < 1 else nullcontext()


def _nesting(p: Trace, q: Trace) -> int:
    """Nesting depth of the plates of a model and its guide; raises Pyro's errors for wrong shapes in them."""
    for trace in (p, q):
        trace.compute_log_prob()
    sites = [site for trace in (p, q) for site in sample_sites(trace)]
    for site in sites:
        check_site_shape(site, max_plate_nesting=math.inf)
    return max((-frame.dim for site in sites for frame in site["cond_indep_stack"] if frame.vectorized), default=0)
