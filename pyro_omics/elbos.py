"""Bounds on the evidence: importance-weighted and Renyi bounds by row, sums over discrete latents, and a mended KL.

Pyro 1.9's TraceMeanField_ELBO is wrong at constrained sites of autoguides: an autoguide's Delta carries the density of
its unconstrained sample in ``log_density``, and the KL registered for Delta drops it (exact posterior mean of a
LogNormal toy 0.20, mean-field -0.11). Importing this module registers the KL with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Categorical, Delta
from pyro.distributions.distribution import Distribution
from pyro.distributions.util import scale_and_mask
from pyro.infer import ELBO, TraceEnum_ELBO
from pyro.poutine import Trace
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import register_kl

from pyro_omics.models.base import PLATE, is_local
from pyro_omics.parts import positive
from pyro_omics.serialization.arguments import Recipe
from pyro_omics.trace_elbo import TraceELBO

__all__ = ["ImportanceWeightedELBO", "RenyiELBO", "TraceELBO"]


@register_kl(Delta, Distribution)
def _kl_delta(p: Delta, q: Distribution) -> Tensor:
    return p.log_density - q.log_prob(p.v)


class RenyiELBO(ELBO, Recipe):
    r"""The Renyi bound of order alpha over each row's latents, differentiable by torch's autograd.

    .. math::
        \mathcal L = \mathrm{E}_{q(f)} \Big[ \sum_n \frac{1}{1 - \alpha} \log \frac{1}{S} \sum_{s=1}^S
        \Big( \frac{p(x_n, z_{ns} \mid f)}{q(z_{ns} \mid x_n, f)} \Big)^{1 - \alpha} \Big]
        - \mathrm{KL}(q(f) \,\|\, p(f)), \quad z_{ns} \sim q(z_n \mid x_n, f)

    with f the global latents and z_n those of row n. alpha = 0 is the importance-weighted bound, which rises with S
    to log p(x_n | f) of each row; alpha = 1 is the ELBO, and alpha > 1 lies below it. The global latents are drawn
    once, and their KL is estimated from that draw. The sum over a minibatch is scaled to the data set after the
    logarithm: weights of whole minibatches would be another quantity. Discrete latents marked
    ``infer={"enumerate": "parallel"}`` are summed out of each weight.

    In KL warm-up at weight w, each factor of a row's weight that is of latents is raised to the power w.

    Parameters
    ----------
    alpha
        order, 0 or more; below 0 there is no bound.
    num_particles
        S, draws of the row's latents in each step; the guide and the model run so often.

    Raises
    ------
    ValueError
        For an alpha below 0, and for a guide with a site that cannot be reparameterised.

    Source: Burda et al. 2016, equation 8 (alpha = 0); Li and Turner 2016, equation 14.
    """

    def __init__(self, alpha: float = 0.0, num_particles: int = 2) -> None:
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha is the bound's order, 0 or more, and is {alpha}: below 0 there is no lower bound")
        positive(num_particles=num_particles)
        super().__init__(num_particles=num_particles)
        self.alpha = alpha
        self.plain_loss: Tensor | None = None  # at alpha = 1, of the last call's draws

    def differentiable_loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any) -> Tensor:
        """The negative bound over the full data, in nats."""
        if self.max_plate_nesting == math.inf:
            with torch.random.fork_rng(devices=[]):
                self._guess_max_plate_nesting(model, guide, args, {})
        weights, shared, scale = [], None, 1.0
        outside: Tensor | float = 0.0
        for _ in range(self.num_particles):
            again = guide if shared is None else poutine.replay(guide, trace=shared)
            p, q = (sample_sites(trace) for trace in self._get_trace(model, again, args, {}))
            weights.append(_total(row_terms(p)) - _total(row_terms(q)))
            if shared is None:
                _check_reparameterised(q)
                shared = _shared(q)
                outside = _total(global_terms(p)) - _total(global_terms(q))
                scale = next((plate_scale(site) for site in p if is_local(site)), 1.0)
        weights_sn = torch.stack([torch.as_tensor(weight) for weight in weights])
        self.plain_loss = torch.as_tensor(-(scale * weights_sn.mean(0).sum() + outside)).detach()
        return -(scale * _renyi(weights_sn, self.alpha).sum() + outside)

    @torch.no_grad()
    def loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any) -> float:
        """The negative bound over the full data, in nats, without gradient."""
        return self.differentiable_loss(model, guide, *args).item()

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        q = poutine.trace(guide).get_trace(*args, **kwargs)
        return replayed(model, q, args, int(self.max_plate_nesting)), q


class ImportanceWeightedELBO(RenyiELBO):
    """`RenyiELBO` at alpha = 0: the bound of importance-weighted autoencoders.

    Parameters
    ----------
    num_particles
        S.

    Source: Burda et al. 2016, equation 8.
    """

    def __init__(self, num_particles: int = 2) -> None:
        super().__init__(0.0, num_particles)


def enumerates(elbo: ELBO) -> bool:
    """Whether an ELBO sums out the discrete latents that a model marks."""
    return isinstance(elbo, TraceEnum_ELBO | RenyiELBO)


# Log-probabilities of traces, by row -------------------------------------------------------------------------------


def sample_sites(trace: Trace) -> list[dict[str, Any]]:
    """The sample sites of a trace, without those of plates."""
    return [site for site in trace.nodes.values() if site["type"] == "sample" and not site_is_subsample(site)]


def replayed(model: Callable[..., Any], guide: Trace, args: tuple[Any, ...], nesting: int | None) -> Trace:
    """The model's trace at the guide's values.

    Parameters
    ----------
    model, guide, args
        a program, the guide's trace, and what the program is called on.
    nesting
        how deep plates are nested; the discrete latents marked for it then take all their values at once, along
        dimensions to the left of the plates'. None to sample them.
    """
    program = poutine.replay(model, trace=guide)
    if nesting is not None:
        program = EnumMessenger(first_available_dim=-1 - nesting)(program)
    return poutine.trace(program).get_trace(*args)


def plate_scale(site: dict[str, Any]) -> float:
    """What the plate over rows scales a site by: rows of the data by rows of the minibatch."""
    frame = _row_frame(site)
    return frame.full_size / frame.size


def row_terms(sites: Iterable[dict[str, Any]]) -> dict[str, Tensor]:
    r"""The local sites' log-probabilities by row, name -> (n,), with masks and without the plate's scale.

    Enumerated sites y are summed out, by the chain rule over the sites s_1, s_2, ... that depend on them, those of
    latents first:

    .. math:: \log p(s_i \mid s_{1..i-1}) = \log \sum_y p(y, s_{1..i}) - \log \sum_y p(y, s_{1..i-1})

    A scale of a site's own (KL warm-up's) multiplies its term: what it weights is always a log-probability. The sum
    is over every combination of levels where there are several enumerated sites.
    """
    local = [site for site in sites if is_local(site)]
    nesting, joint = _enumerated(local)
    terms: dict[str, Tensor] = {}
    before: Tensor | float = 0.0
    for site in sorted(local, key=lambda site: site["is_observed"]):
        if is_enumerated(site):
            continue
        term = _by_row(site, nesting)
        if term.ndim > 1:
            joint = joint + term
            after = joint.flatten(0, -2).logsumexp(0)
            term, before = after - before, after
        terms[site["name"]] = term * (site["scale"] / plate_scale(site))
    return terms


def global_terms(sites: Iterable[dict[str, Any]]) -> dict[str, Tensor]:
    """The other sites' log-probabilities, name -> a number."""
    return {site["name"]: scale_and_mask(_log_prob(site), site["scale"]).sum() for site in sites if not is_local(site)}


def is_enumerated(site: dict[str, Any]) -> bool:
    """Whether a site holds all of its values at once."""
    return site["infer"].get("_enumerate_dim") is not None


def draw_enumerated(trace: Trace) -> dict[str, Tensor]:
    """A draw of the enumerated sites of a `replayed` model, name -> (n, ...), given all else in the trace."""
    local = [site for site in sample_sites(trace) if is_local(site)]
    nesting, joint = _enumerated(local)
    if nesting is None:
        return {}
    for site in local:
        term = _by_row(site, nesting)
        if term.ndim > 1 and not is_enumerated(site):
            joint = joint + term
    flat_n = Categorical(logits=joint.flatten(0, -2).T).sample()
    level = torch.unravel_index(flat_n, joint.shape[:-1])
    drawn = {}
    for site in filter(is_enumerated, local):
        axis = joint.ndim + site["infer"]["_enumerate_dim"] + nesting - 1
        support = site["value"].reshape(joint.shape[axis], *site["fn"].event_shape)
        drawn[site["name"]] = support[level[axis]]
    return drawn


def _enumerated(local: list[dict[str, Any]]) -> tuple[int | None, Any]:
    """How deep plates are nested in a trace with enumerated sites, and these sites' joint log-probability by row."""
    sites = [site for site in local if is_enumerated(site)]
    if not sites:
        return None, 0.0
    # Dimensions for enumeration begin to the left of all plates.
    nesting = -1 - max(site["infer"]["_enumerate_dim"] for site in sites)
    return nesting, sum(_by_row(site, nesting) for site in sites)


def _by_row(site: dict[str, Any], nesting: int | None) -> Tensor:
    """A local site's log-probability (n,), or (levels..., n), summed over any further plates."""
    value, row = _log_prob(site), _row_frame(site).dim
    deepest = value.ndim if nesting is None else min(nesting, value.ndim)
    others = [dim for dim in range(-deepest, 0) if dim != row]
    return value.sum(others) if others else value


def _log_prob(site: dict[str, Any]) -> Tensor:
    return scale_and_mask(site["fn"].log_prob(site["value"]), mask=site["mask"])


def _row_frame(site: dict[str, Any]) -> Any:
    (frame,) = (frame for frame in site["cond_indep_stack"] if frame.name == PLATE)
    return frame


def _renyi(weights_sn: Tensor, alpha: float) -> Tensor:
    if alpha == 1:
        return weights_sn.mean(0)
    return (((1 - alpha) * weights_sn).logsumexp(0) - math.log(len(weights_sn))) / (1 - alpha)


def _total(terms: dict[str, Tensor]) -> Any:
    return sum(terms.values())


def _shared(sites: list[dict[str, Any]]) -> Trace:
    """The guide's global latents alone, to replay it on."""
    trace = Trace()
    for site in sites:
        if not is_local(site):
            trace.add_node(site["name"], **site)
    return trace


def _check_reparameterised(sites: list[dict[str, Any]]) -> None:
    if fixed := [site["name"] for site in sites if not (site["is_observed"] or site["fn"].has_rsample)]:
        raise ValueError(
            f"elbo=RenyiELBO takes its gradient through the draws, and the guide's sites {fixed} have none: sample "
            "them from a distribution with rsample, or mark discrete ones infer={'enumerate': 'parallel'} in the model "
            "and leave them out of the guide"
        )
