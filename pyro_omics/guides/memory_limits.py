"""Memory that a guide over the global latents will need, computed before it is made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from pyro.infer.autoguide import (
    AutoGaussian,
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoStructured,
)
from torch.distributions import biject_to

LIMIT = 2e9  # bytes of the guide's largest matrix; with the moments of Adam it takes three times as much
# Guides that hold about d x d numbers for d latent dimensions, if these options have these default values.
SQUARE: dict[type, Mapping[str, Any]] = {
    AutoMultivariateNormal: {},
    AutoLaplaceApproximation: {},
    AutoGaussian: {},
    AutoIAFNormal: {"hidden_dim": None},
    AutoStructured: {"conditionals": "mvn", "dependencies": "linear"},
}


def check_memory(rest: Any, sites: Iterable[dict[str, Any]]) -> None:
    """Raise if an autoguide over these latents would be too large for memory.

    For d latent dimensions, a guide with a full covariance holds about d^2 numbers, and one of low rank d times its
    rank; other guides are always accepted.

    Parameters
    ----------
    rest
        the callable program -> guide: an autoguide's class, or a partial of one.
    sites
        the latent sites of a trace that the guide would cover.

    Raises
    ------
    ValueError
        If the largest matrix would take more than `LIMIT` bytes.
    """
    kind, options = _unwrap_partial(rest)
    square = any(issubclass(kind, known) and _match_defaults(options, defaults) for known, defaults in SQUARE.items())
    if not square and not issubclass(kind, AutoLowRankMultivariateNormal):
        return
    d = sum(
        math.prod(biject_to(site["fn"].support).inverse_shape(site["value"].shape))
        for site in sites
        if not site["infer"].get("is_auxiliary")
    )
    size = 4 * d * (d if square else options.get("rank") or math.isqrt(d))
    if size > LIMIT:
        raise ValueError(
            f"rest={kind.__name__} over d={d:,} global latent dimensions would have {size / 1e9:,.1f} GB of "
            "parameters and matrices: use AutoNormal, or functools.partial(AutoLowRankMultivariateNormal, rank=10)"
        )


def _match_defaults(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    return all(options.get(name, value) == value for name, value in defaults.items())


def _unwrap_partial(rest: Any) -> tuple[type, dict[str, Any]]:
    """The class that a partial, possibly nested, calls, and its keyword arguments."""
    if isinstance(rest, partial):
        # jsonargparse hides the class among the arguments of its own partial.
        found = [_unwrap_partial(item) for item in (rest.func, *rest.args)]
        kind, options = next((pair for pair in found if pair[0] is not object), (object, {}))
        return kind, {**options, **rest.keywords}
    return (rest, {}) if isinstance(rest, type) else (object, {})
