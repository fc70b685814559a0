"""The size of a guide over the global latents, known before it is made: some grow with the square of their number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
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

# Bytes of parameters, and of the matrices that a draw is made of; an optimizer with moments takes three times as much.
LIMIT = 2e9


def check_size(rest: Any, sites: Iterable[dict[str, Any]]) -> None:
    """Raise where an autoguide over these latents would be too large for memory.

    Parameters
    ----------
    rest
        the callable program -> guide: an autoguide's class, or a partial of one.
    sites
        the latent sites of a trace that the guide would be over.

    Raises
    ------
    ValueError
        That names the guide, the number of latent dimensions d, the size, and what to use.
    """
    kind, options = _unwrapped(rest)
    count = next((count for known, count in COUNTS.items() if issubclass(kind, known)), None)
    if count is None:
        return
    sizes = [
        math.prod(biject_to(site["fn"].support).inverse_shape(site["value"].shape))
        for site in sites
        if not site["infer"].get("is_auxiliary")
    ]
    size = 4 * count(sizes, options)
    if size > LIMIT:
        raise ValueError(
            f"rest={kind.__name__} over d={sum(sizes):,} global latent dimensions would have {size / 1e9:,.1f} GB of "
            "parameters and matrices: use AutoNormal, or functools.partial(AutoLowRankMultivariateNormal, rank=10)"
        )


def _unwrapped(rest: Any) -> tuple[type, dict[str, Any]]:
    """The class that a partial, or a partial of partials, makes, and its keyword arguments."""
    if isinstance(rest, partial):
        # jsonargparse hides the class among the arguments of its own partial.
        found = [_unwrapped(item) for item in (rest.func, *rest.args)]
        kind, options = next((pair for pair in found if pair[0] is not object), (object, {}))
        return kind, {**options, **rest.keywords}
    return (rest, {}) if isinstance(rest, type) else (object, {})


def _full(sizes: list[int], options: dict[str, Any]) -> int:
    return sum(sizes) ** 2


def _low_rank(sizes: list[int], options: dict[str, Any]) -> int:
    """A factor (d, rank), and the matrix (rank, rank) that each density needs the Cholesky factor of."""
    d = sum(sizes)
    rank = options.get("rank") or round(math.sqrt(d))
    return d * rank + rank**2


def _gaussian(sizes: list[int], options: dict[str, Any]) -> int:
    """The precision (d, d), its two Cholesky factors and their inverse, made at each draw."""
    return 4 * sum(sizes) ** 2


def _autoregressive(sizes: list[int], options: dict[str, Any]) -> int:
    """Weights of the networks, d -> hidden layers -> 2 d; Pyro's hidden layer has 3 d + 1 units."""
    d = sum(sizes)
    hidden = options.get("hidden_dim") or [3 * d + 1]
    widths = [d, *([hidden] if isinstance(hidden, int) else hidden), 2 * d]
    one = sum(n_in * n_out for n_in, n_out in pairwise(widths))
    return one * (options.get("num_transforms") or 1)


def _structured(sizes: list[int], options: dict[str, Any]) -> int:
    """A full covariance for each site, and a matrix for each pair of sites."""
    squares = sum(size**2 for size in sizes)
    full = options.get("conditionals", "mvn") == "mvn"
    pairs = options.get("dependencies", "linear") == "linear"
    return squares * full + (sum(sizes) ** 2 - squares) // 2 * pairs


COUNTS: dict[type, Callable[[list[int], dict[str, Any]], int]] = {
    AutoMultivariateNormal: _full,
    AutoLaplaceApproximation: _full,
    AutoLowRankMultivariateNormal: _low_rank,
    AutoGaussian: _gaussian,
    AutoIAFNormal: _autoregressive,
    AutoStructured: _structured,
}
