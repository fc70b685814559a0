"""Pyro's sample sites, read in one place: which are latent, local or enumerated, and their log-probabilities by row."""

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

PLATE = "obs"


def is_local(site: dict[str, Any]) -> bool:
    """Whether a sample site lies in the model's plate over rows, so that each row has its own."""
    return any(frame.vectorized and frame.name == PLATE for frame in site["cond_indep_stack"])


def latent_sites(trace: Trace, summed_out: bool = False) -> dict[str, dict[str, Any]]:
    """The latent sample sites of a trace of a model or guide, name -> Pyro's record of it.

    Those that a guide samples; or, if ``summed_out``, those that none does: discrete ones that the model marks
    ``infer={"enumerate": "parallel"}``. `layers.prototype_trace` makes such a trace without side effects.
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
    """The values of a trace's latent sites, without the auxiliary ones of autoguides."""
    return {
        name: site["value"]
        for name, site in trace.nodes.items()
        if site["type"] == "sample"
        and not site["is_observed"]
        and not site_is_subsample(site)
        and not site["infer"].get("is_auxiliary")
    }


def observed_sites(trace: Trace) -> list[str]:
    """Names of the sites that a model observes counts at, in a trace of it unconditioned."""
    samples = ((name, site) for name, site in trace.nodes.items() if site["type"] == "sample")
    return [name for name, site in samples if site["infer"].get("was_observed")]


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
