"""A check that particles which are run at once are what a loop over them would give."""

from __future__ import annotations

import copy
from typing import Any

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.elbo import ELBOModule
from torch import Tensor

from pyro_omics.batch import RowBatch
from pyro_omics.sites import sample_sites

PARTICLES = 3
RTOL, ATOL = 1e-3, 1e-2  # tolerances of the log-probability of a site in nats, in float32


@torch.no_grad()
def check_vectorised(bound: ELBO, pair: ELBOModule, batch: RowBatch) -> None:
    """Run some particles of model and guide at once, and each by itself at the same values.

    A program that does not expect the leading dimensions of its global latents may fail, or in silence give other
    densities. Run it in evaluation mode.

    Parameters
    ----------
    bound
        the ELBO, with ``vectorize_particles``.
    pair
        model and guide.
    batch
        a minibatch.

    Raises
    ------
    ValueError
        If both are not the same.
    """
    name = type(pair.model).__name__
    instead = (
        f"keep the leading dimensions of {name}'s global latents (layers.at_levels, layers.row_product), or use "
        f"{type(bound).__name__}(num_particles={bound.num_particles}), which loops"
    )
    few = copy.copy(bound)
    few.num_particles = PARTICLES
    try:
        ((p, q),) = few._get_traces(pair.model, pair.guide, (batch,), {})
        for trace in (p, q):
            trace.compute_log_prob()
    except (RuntimeError, ValueError, IndexError) as error:
        raise ValueError(f"vectorize_particles=True does not work with {name} ({error}): {instead}") from error
    bound.max_plate_nesting = few.max_plate_nesting  # which Pyro finds by a run of its own, and logs
    for program, trace in ((pair.guide, q), (pair.model, p)):
        for i in range(PARTICLES):
            if differs := _difference(program, trace, batch, i):
                raise ValueError(
                    f"vectorize_particles=True gives {differs} another log-probability than a loop over the particles: "
                    f"{instead}"
                )


def _difference(program: Any, together: poutine.Trace, batch: RowBatch, i: int) -> str | None:
    """The first site whose log-probability in particle i is another when this particle is run by itself."""
    sites = sample_sites(together)
    values = {site["name"]: _of_particle(site, site["value"], i) for site in sites if not site["is_observed"]}
    alone = poutine.trace(poutine.condition(program, data=values)).get_trace(batch)
    alone.compute_log_prob()
    for site in sites:
        expected, found = alone.nodes[site["name"]]["log_prob"].sum(), _log_prob_of_particle(site, i)
        if not torch.isclose(found, expected, rtol=RTOL, atol=ATOL, equal_nan=True):
            return repr(site["name"])
    return None


def _particle_dim(site: dict[str, Any]) -> int | None:
    return next((frame.dim for frame in site["cond_indep_stack"] if frame.name == "num_particles_vectorized"), None)


def _of_particle(site: dict[str, Any], value: Tensor, i: int) -> Tensor:
    """The value of one particle, without the places of plates that the site is not in."""
    dim, event_dim = _particle_dim(site), site["fn"].event_dim
    if dim is None or value.ndim < event_dim - dim:
        return value
    at = value.ndim + dim - event_dim
    value = value.select(at, i if value.shape[at] > 1 else 0)
    inside = {frame.dim for frame in site["cond_indep_stack"] if frame.vectorized}
    for place in range(dim + 1, 0):  # leftmost first, so that the others keep their places
        if place not in inside:
            value = value.squeeze(place - event_dim)
    return value


def _log_prob_of_particle(site: dict[str, Any], i: int) -> Tensor:
    dim, log_prob = _particle_dim(site), site["log_prob"]
    if dim is None or log_prob.ndim < -dim:
        return log_prob.sum()
    return log_prob.select(dim, i if log_prob.shape[dim] > 1 else 0).sum()
