"""Model and guide sample each latent in the same plates, on the same support."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to

from pyro_omics.batch import RowBatch
from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.layers import prototype_trace
from pyro_omics.sites import is_local, latent_sites
from pyro_omics.testing.required import is_delta, require

N_DRAWS = 20


def check_sites(svi: SVIModule, batch: RowBatch) -> None:
    """Each latent is local on both sides or on none, and neither side has values that the other has not."""
    theirs = latent_sites(prototype_trace(svi.guide, batch))
    for name, site in latent_sites(prototype_trace(svi.model, batch)).items():
        where = ["in" if is_local(side) else "outside" for side in (site, theirs[name])]
        require(
            where[0] == where[1],
            f"{name!r} is {where[0]} self.plate(batch) in the model and {where[1]} it in the guide: a latent of each "
            "row is in the plate of both, a global one of neither",
        )
        _check_supports(name, site, theirs[name])


def _check_supports(name: str, model: dict[str, Any], guide: dict[str, Any]) -> None:
    fn, support = guide["fn"], _support(model["fn"])
    if support is None:
        return
    draws = [guide["value"]] if is_delta(fn) else [guide["value"], fn.sample((N_DRAWS,))]
    require(
        all(bool(support.check(value).all()) for value in draws),
        f"the guide draws values of {name!r} outside of the model's support, {support}: map its distribution there, as "
        "TransformedDistribution(base, [biject_to(support)]) does",
    )
    # A Delta holds one value at a time; where an autoguide draws it, the density is of all that its transform reaches.
    own = None if is_delta(fn) else _support(fn)
    if own is None:
        return
    require(
        bool(own.check(_inside(model["fn"], support)).all()),
        f"the guide's {name!r} is on {own}, which leaves out part of the model's support, {support}: no posterior with "
        "mass there can be found; take a distribution on the whole of it",
    )


def _support(fn: Any) -> Any:
    try:
        return fn.support
    except (NotImplementedError, AttributeError):
        return None


def _inside(fn: Any, support: Any) -> Tensor:
    """Values in all parts of a support, none at its edge, where rounding would put them on the other side."""
    value = fn.sample((N_DRAWS,))
    try:
        transform = biject_to(support)
    except NotImplementedError:  # of integers, and of some manifolds
        return value
    return transform(2 * torch.randn_like(transform.inv(value)))
