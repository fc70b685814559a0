"""A faster Trace_ELBO: no synchronisation with the device, and only sample sites are traced."""

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
    r"""The ELBO, estimated from draws of the guide: value and gradient of Pyro's Trace_ELBO, in less time.

    .. math:: \mathcal L = \frac{1}{S} \sum_s \log p(x, z_s) - \log q(z_s), \quad z_s \sim q

    with Pyro's score-function terms for sites that cannot be reparameterised. The value stays on the device, where
    Pyro's ELBO reads one number per site. With validation on (as in the first step of `SVIModule`), model and guide run
    under Pyro's own handlers and their checks. With validation off, they run under a handler that records sample sites
    alone, so that ``pyro.param`` statements are not traced. A NaN raises a warning on a CPU, as in Pyro; on other
    devices it shows in the logged ELBO.

    Where the KL of guide and model has a closed form (both Normal), ``pyro.infer.TraceMeanField_ELBO()`` uses it
    instead of an estimate.

    Parameters
    ----------
    num_particles
        S, the number of draws.
    max_plate_nesting
        nesting depth of plates, needed with vectorised particles alone; inferred by default.
    vectorize_particles
        whether to make the S draws at once, in a plate of particles, instead of one after the other.

    Source: Ranganath et al. 2014; Kingma and Welling 2014; pyro.infer.Trace_ELBO.
    """

    def __init__(
        self, num_particles: int = 1, max_plate_nesting: float = math.inf, vectorize_particles: bool = False
    ) -> None:
        check_positive(num_particles=num_particles)
        super().__init__(num_particles, max_plate_nesting, vectorize_particles=vectorize_particles)
        self.kl: Any = 0.0  # log q - log p of the latents in the last call, at the scales of that call

    def differentiable_loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kw: Any) -> Any:
        """The negative ELBO over the full data, in nats, with the gradient of Pyro's surrogate."""
        loss: Any = 0.0
        self.kl = 0.0
        for p, q in self._particles(model, guide, args, kw):
            particle, kl = _loss(p, q)
            loss = loss + particle / self.num_particles
            self.kl = self.kl + kl / self.num_particles
        if _is_on_cpu(loss):  # on other devices, reading the value would wait for all kernels
            warn_if_nan(loss.detach(), "loss")
        return loss

    def _particles(self, model: Any, guide: Any, args: Any, kw: Any) -> Iterator[tuple[Sites, Sites]]:
        """The sample sites of model and guide, for each draw."""
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
            yield p.without_plates, q.without_plates


class SampleSites(Messenger):
    """Record sample sites, and replay given ones: poutine.trace and poutine.replay for sample sites alone.

    Parameters
    ----------
    known
        sites to replay, name -> site; None samples all.
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
    def without_plates(self) -> Sites:
        """The recorded sites but those of plates' subsamples."""
        return {name: site for name, site in self.sites.items() if not site_is_subsample(site)}


def _samples(trace: Trace) -> Sites:
    return {name: site for name, site in trace.nodes.items() if site["type"] == "sample"}


def _loss(p: Sites, q: Sites) -> tuple[Any, Any]:
    """The negative ELBO of one draw, with the gradient of Pyro's surrogate; and its KL term."""
    observed: Any = 0.0
    kl: Any = 0.0
    surrogate: Any = 0.0  # the surrogate minus the value: it adds to the gradient alone
    scores = []
    for site in p.values():
        if site["is_observed"]:
            observed = observed + _log_prob_sum(site)
        else:
            kl = kl - _log_prob_sum(site)
    for site in q.values():
        log_q, score, entropy = _score_parts(site)
        kl = kl + log_q.sum()
        if entropy is not log_q:
            surrogate = surrogate - log_q.sum()
            if not is_identically_zero(entropy):
                surrogate = surrogate + entropy.sum()
        if not is_identically_zero(score):
            scores.append((site, score))
    if scores:
        log_r = _compute_log_r(_Nodes(p), _Nodes(q))
        for site, score in scores:
            surrogate = surrogate - (log_r.sum_to(site["cond_indep_stack"]) * score).sum()
    loss = kl - observed
    if isinstance(surrogate, Tensor):
        loss = loss + (surrogate - surrogate.detach())
    return loss, kl.detach() if isinstance(kl, Tensor) else kl


class _Nodes:
    """Sites with the interface of a trace, for Pyro's functions."""

    def __init__(self, nodes: Sites) -> None:
        self.nodes = nodes


def _log_prob_sum(site: dict[str, Any]) -> Any:
    if "log_prob" not in site:
        log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        site["log_prob"] = scale_and_mask(log_prob, site["scale"], site["mask"])
    return site["log_prob"].sum()


def _score_parts(site: dict[str, Any]) -> Any:
    if "score_parts" not in site:
        parts = site["fn"].score_parts(site["value"], *site["args"], **site["kwargs"])
        whole = parts.entropy_term is parts.log_prob
        log_q = scale_and_mask(parts.log_prob, site["scale"], site["mask"])
        entropy = log_q if whole else scale_and_mask(parts.entropy_term, site["scale"], site["mask"])
        site["log_prob"] = log_q
        site["score_parts"] = (log_q, parts.score_function, entropy)
    return site["score_parts"]


def _is_on_cpu(loss: Any) -> bool:
    return isinstance(loss, Tensor) and loss.device.type == "cpu"
