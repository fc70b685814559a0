"""Pyro's Trace_ELBO with nothing read back from the device, and without what only a trace's other users need."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from pyro import poutine
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer import Trace_ELBO
from pyro.infer.trace_elbo import _compute_log_r
from pyro.infer.util import is_validation_enabled
from pyro.poutine import Trace
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from pyro.util import warn_if_nan
from torch import Tensor

from pyro_omics.parts.base import check_positive
from pyro_omics.serialization.arguments import RecordsArguments

Sites: TypeAlias = dict[str, dict[str, Any]]


class TraceELBO(Trace_ELBO, RecordsArguments):
    r"""The ELBO from draws of the guide: value and gradient of Pyro's Trace_ELBO, in less time.

    .. math:: \mathcal L = \frac{1}{S} \sum_s \log p(x, z_s) - \log q(z_s), \quad z_s \sim q

    with Pyro's score-function terms for sites that cannot be reparameterised. The value stays on the device until
    somebody asks for it, where Pyro's reads a number for each site. With validation on (`SVIModule` has it on in the
    first step) the programs run under Pyro's own handlers, with their checks; with validation off, under one that keeps
    the sample sites alone, so a program may not rely on traced ``pyro.param`` statements. On a CPU a NaN is warned of,
    as Pyro does; on other devices the logged ELBO shows it.

    Where guide and model have closed-form divergences (both Normal), ``pyro.infer.TraceMeanField_ELBO()`` takes them
    instead of draws of the KL.

    Parameters
    ----------
    num_particles
        S.
    max_plate_nesting
        how deep plates are nested, asked for with vectorised particles alone; found out where it is not given.
    vectorize_particles
        whether the S draws are made at once: for models without global latents.

    Source: Ranganath et al. 2014; Kingma and Welling 2014; pyro.infer.Trace_ELBO.
    """

    def __init__(
        self, num_particles: int = 1, max_plate_nesting: float = math.inf, vectorize_particles: bool = False
    ) -> None:
        check_positive(num_particles=num_particles)
        super().__init__(num_particles, max_plate_nesting, vectorize_particles=vectorize_particles)
        self.kl: Any = 0.0  # of the last call's draws, log q - log p of the latents with the scales they had

    def differentiable_loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kw: Any) -> Any:
        """The negative ELBO over the full data, in nats, with the gradient of Pyro's surrogate."""
        loss: Any = 0.0
        self.kl = 0.0
        for p, q in self._particles(model, guide, args, kw):
            particle, kl = _loss(p, q)
            loss = loss + particle / self.num_particles
            self.kl = self.kl + kl / self.num_particles
        if _is_free(loss):
            warn_if_nan(loss.detach(), "loss")
        return loss

    def _particles(self, model: Any, guide: Any, args: Any, kw: Any) -> Iterator[tuple[Sites, Sites]]:
        """Sample sites of model and guide, by draw."""
        messenger = isinstance(poutine.unwrap(guide), Messenger)
        if is_validation_enabled() or self.vectorize_particles or messenger:
            for traces in self._get_traces(model, guide, args, kw):
                p, q = (_samples(trace) for trace in traces)
                yield p, q
            return
        for _ in range(self.num_particles):
            with SampleSites() as q:
                guide(*args, **kw)
            with SampleSites(q.sites) as p:
                model(*args, **kw)
            yield p.scored, q.scored


class SampleSites(Messenger):
    """What poutine.trace and poutine.replay do to sample sites, and nothing to any other.

    Parameters
    ----------
    known
        sites whose values are taken over, name -> site; None to sample.
    """

    def __init__(self, known: Sites | None = None) -> None:
        super().__init__()
        self.known = {} if known is None else known
        self.sites: Sites = {}

    def _pyro_sample(self, msg: Any) -> None:
        site = self.known.get(msg["name"])
        if site is None or msg["is_observed"]:
            return
        if site["is_observed"]:
            raise RuntimeError(f"site {msg['name']} must be sampled in trace")
        msg["done"], msg["value"], msg["infer"] = True, site["value"], site["infer"]

    def _pyro_post_sample(self, msg: Any) -> None:
        if not msg["infer"].get("_do_not_trace"):
            if msg["name"] in self.sites:
                raise RuntimeError(f"Multiple sample sites named '{msg['name']}'")
            self.sites[msg["name"]] = msg.copy()

    @property
    def scored(self) -> Sites:
        """The sites without those of plates."""
        return {name: site for name, site in self.sites.items() if not site_is_subsample(site)}


def _samples(trace: Trace) -> Sites:
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}


def _loss(p: Sites, q: Sites) -> tuple[Any, Any]:
    """The negative ELBO of one draw, whose gradient is that of Pyro's surrogate; and the latents' part of it."""
    observed: Any = 0.0
    kl: Any = 0.0
    beyond: Any = 0.0  # what the surrogate has beyond the value
    scores = []
    for site in p.values():
        if site["is_observed"]:
            observed = observed + _scored(site)
        else:
            kl = kl - _scored(site)
    for site in q.values():
        log_q, score, entropy = _parts(site)
        kl = kl + log_q.sum()
        if entropy is not log_q:
            beyond = beyond - log_q.sum()
            if not is_identically_zero(entropy):
                beyond = beyond + entropy.sum()
        if not is_identically_zero(score):
            scores.append((site, score))
    if scores:
        log_r = _compute_log_r(_Nodes(p), _Nodes(q))
        for site, score in scores:
            beyond = beyond - (log_r.sum_to(site["cond_indep_stack"]) * score).sum()
    loss = kl - observed
    if isinstance(beyond, Tensor):
        loss = loss + (beyond - beyond.detach())
    return loss, kl.detach() if isinstance(kl, Tensor) else kl


class _Nodes:
    """Sites as Pyro's functions of a trace expect them."""

    def __init__(self, nodes: Sites) -> None:
        self.nodes = nodes


def _scored(site: dict[str, Any]) -> Any:
    if "log_prob" not in site:
        log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        site["log_prob"] = scale_and_mask(log_prob, site["scale"], site["mask"])
    return site["log_prob"].sum()


def _parts(site: dict[str, Any]) -> Any:
    if "score_parts" not in site:
        parts = site["fn"].score_parts(site["value"], *site["args"], **site["kwargs"])
        whole = parts.entropy_term is parts.log_prob
        log_q = scale_and_mask(parts.log_prob, site["scale"], site["mask"])
        entropy = log_q if whole else scale_and_mask(parts.entropy_term, site["scale"], site["mask"])
        site["log_prob"] = log_q
        site["score_parts"] = (log_q, parts.score_function, entropy)
    return site["score_parts"]


def _is_free(loss: Any) -> bool:
    """Whether looking at a number costs no wait for a device."""
    return isinstance(loss, Tensor) and loss.device.type == "cpu"
