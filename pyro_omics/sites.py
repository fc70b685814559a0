"""Pyro's sample sites: which are latent, local or enumerated, and their log-probabilities by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Categorical
from pyro.distributions.util import scale_and_mask
from pyro.poutine import Trace
from pyro.poutine.enum_messenger import EnumMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import constraints

PLATE = "obs"


def is_local(site: dict[str, Any]) -> bool:
    """Whether a sample site lies in the model's plate over rows, so that each row has its own."""
    return any(frame.vectorized and frame.name == PLATE for frame in site["cond_indep_stack"])


def latent_sites(trace: Trace, summed_out: bool = False) -> dict[str, dict[str, Any]]:
    """Latent sample sites of a trace of a model or guide, name -> Pyro's record of the site.

    These are the sites that a guide samples or, if ``summed_out``, the discrete ones that no guide samples, which the
    model marks by ``infer={"enumerate": "parallel"}``. `layers.prototype_trace` makes a trace without side effects.
    """
    return {
        name: site
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and not site["is_observed"]
        and not site_is_subsample(site)
        and (site["infer"].get("enumerate") == "parallel") == summed_out
    }


def latent_values(trace: Trace) -> dict[str, Tensor]:
    """Values of the latent sites of a trace, name -> value, without auxiliary sites of autoguides."""
    return {
        name: site["value"]
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and not site["is_observed"]
        and not site_is_subsample(site)
        and not site["infer"].get("is_auxiliary")
    }


def observed_sites(trace: Trace) -> list[str]:
    """Names of the sites that a model observes, in a trace of the model without its conditioning on counts."""
    samples = ((name, site) for name, site in trace.nodes.items() if site["type"] == "sample")
    return [name for name, site in samples if site["infer"].get("was_observed")]


def is_real(support: Any) -> bool:
    """Whether a support is all real numbers, or arrays of them.

    Constraints are compared by their type: a copied or unpickled one is another object than torch's own.
    """
    return isinstance(_base_constraint(support), type(constraints.real))


def is_positive(support: Any) -> bool:
    """Whether a support is the numbers from 0 on, with 0 or without, or arrays of them; compared as in `is_real`."""
    base = _base_constraint(support)
    if not isinstance(base, constraints.greater_than | constraints.greater_than_eq):
        return False
    return bool(torch.as_tensor(base.lower_bound == 0).all())


def _base_constraint(support: Any) -> Any:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def sample_sites(trace: Trace) -> list[dict[str, Any]]:
    """Sample sites of a trace, without those of plates."""
    return [site for site in trace.nodes.values() if site["type"] == "sample" and not site_is_subsample(site)]


def replayed(model: Callable[..., Any], guide: Trace, args: tuple[Any, ...], nesting: int | None) -> Trace:
    """Trace of a model at the values of a guide.

    Parameters
    ----------
    model
        the model.
    guide
        trace of the guide.
    args
        arguments of the model.
    nesting
        number of nested plates: discrete latents marked for enumeration take all their values at once, along
        dimensions to the left of the plates. None to sample them.
    """
    program = poutine.replay(model, trace=guide)
    if nesting is not None:
        program = EnumMessenger(first_available_dim=-1 - nesting)(program)
    return poutine.trace(program).get_trace(*args)


def plate_scale(site: dict[str, Any]) -> float:
    """Scale of a site from the plate over rows: rows of the data divided by rows of the minibatch."""
    frame = _row_frame(site)
    return frame.full_size / frame.size


def row_terms(sites: Iterable[dict[str, Any]]) -> dict[str, Tensor]:
    r"""Log-probabilities of the local sites by row, name -> (n,), with masks and without the scale of the plate.

    Enumerated sites y are summed out, by the chain rule over the sites s_1, s_2, ... that depend on them, latent ones
    first:

    .. math:: \log p(s_i \mid s_{1..i-1}) = \log \sum_y p(y, s_{1..i}) - \log \sum_y p(y, s_{1..i-1})

    A further scale of a site, such as that of KL warm-up, multiplies its term, which is always a log-probability. With
    several enumerated sites, the sum is over every combination of their levels.
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
    """Log-probabilities of the global sites, name -> scalar."""
    return {site["name"]: scale_and_mask(_log_prob(site), site["scale"]).sum() for site in sites if not is_local(site)}


def is_enumerated(site: dict[str, Any]) -> bool:
    """Whether a site has all of its values at once."""
    return site["infer"].get("_enumerate_dim") is not None


def draw_enumerated(trace: Trace) -> dict[str, Tensor]:
    """Draw the enumerated sites of a `replayed` model given its other sites, name -> (n, ...)."""
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
    """Number of nested plates in a trace with enumerated sites, and the joint log-probability of these by row."""
    sites = [site for site in local if is_enumerated(site)]
    if not sites:
        return None, 0.0
    # Dimensions for enumeration begin to the left of all plates.
    nesting = -1 - max(site["infer"]["_enumerate_dim"] for site in sites)
    return nesting, sum(_by_row(site, nesting) for site in sites)


def _by_row(site: dict[str, Any], nesting: int | None) -> Tensor:
    """Log-probability of a local site, (n,) or (levels..., n), summed over any further plates."""
    value, row = _log_prob(site), _row_frame(site).dim
    deepest = value.ndim if nesting is None else min(nesting, value.ndim)
    others = [dim for dim in range(-deepest, 0) if dim != row]
    return value.sum(others) if others else value


def _log_prob(site: dict[str, Any]) -> Tensor:
    return scale_and_mask(site["fn"].log_prob(site["value"]), mask=site["mask"])


def _row_frame(site: dict[str, Any]) -> Any:
    (frame,) = (frame for frame in site["cond_indep_stack"] if frame.name == PLATE)
    return frame
