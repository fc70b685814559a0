"""Checks that model and guide sample each latent in the same plates, on the same support."""

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
    """Check that each latent is local in both model and guide or in neither, and has the same support in both."""
    in_guide = latent_sites(prototype_trace(svi.guide, batch))
    for name, site in latent_sites(prototype_trace(svi.model, batch)).items():
        where = ["in" if is_local(side) else "outside" for side in (site, in_guide[name])]
        require(
            where[0] == where[1],
            f"{name!r} is {where[0]} self.plate(batch) in the model and {where[1]} it in the guide: sample a local "
            "latent inside the plate in both, and a global one outside it in both",
        )
        _check_supports(name, site, in_guide[name])


def _check_supports(name: str, model: dict[str, Any], guide: dict[str, Any]) -> None:
    fn, support = guide["fn"], _support(model["fn"])
    if support is None:
        return
    draws = [guide["value"]] if is_delta(fn) else [guide["value"], fn.sample((N_DRAWS,))]
    require(
        all(bool(support.check(value).all()) for value in draws),
        f"the guide draws values of {name!r} outside of the model's support, {support}: map its distribution there "
        "with TransformedDistribution(base, [biject_to(support)])",
    )
    # The support of a Delta is no use: an autoguide's Delta is drawn from a density over the transform's whole range.
    own = None if is_delta(fn) else _support(fn)
    if own is None:
        return
    require(
        bool(own.check(_inside(model["fn"], support)).all()),
        f"the guide's {name!r} is on {own}, which leaves out part of the model's support, {support}, so that posterior "
        "mass there is missed: use a distribution on the whole support",
    )


def _support(fn: Any) -> Any:
    try:
        return fn.support
    except (NotImplementedError, AttributeError):
        return None


def _inside(fn: Any, support: Any) -> Tensor:
    """Values in all parts of a support, but not at its edge, where rounding could move them outside."""
    value = fn.sample((N_DRAWS,))
    try:
        transform = biject_to(support)
    except NotImplementedError:  # integers and some manifolds have no bijection
        return value
    return transform(2 * torch.randn_like(transform.inv(value)))
