"""Products of a split-and-pool synthesis with the same tag: their cycles, amounts and sums over a library."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_omics.layers.inputs import at_levels

Subset = tuple[int, ...]
ABUNDANCE = 10.0  # shape of the Gamma of a building block's abundance: standard deviation a third of the mean
YIELD = (7.0, 3.0)  # parameters of the Beta of a reaction's yield: mean 0.7, standard deviation 0.14


def truncates(n_cycles: int) -> list[Subset]:
    """The truncated products with at least one building block, each as the cycles whose reaction worked."""
    return [s for k in range(1, n_cycles) for s in itertools.combinations(range(n_cycles), k)]


def amount(subset: Subset, yields: Sequence[Tensor]) -> Tensor:
    r"""The share (...) of a tag's molecules in which exactly the cycles of ``subset`` worked.

    .. math:: w_S = \prod_{i \in S} y_i \prod_{i \notin S} (1 - y_i)

    Parameters
    ----------
    subset
        S, positions of cycles.
    yields
        yield of each cycle, (...) in (0, 1).
    """
    return math.prod(y if i in subset else 1 - y for i, y in enumerate(yields))  # type: ignore[return-value]


def outer(factors: Sequence[Tensor]) -> Tensor:
    """The outer product of vectors, (n_0, n_1, ...)."""
    product = factors[0]
    for factor in factors[1:]:
        product = product.unsqueeze(-1) * factor
    return product


def member_sums(subset: Subset, factors: Sequence[Tensor]) -> Tensor:
    """Sums of products of factors, one per cycle, over a full library, grouped by the building blocks of ``subset``.

    Parameters
    ----------
    subset
        S, positions of cycles.
    factors
        for each cycle, a factor for each building block.

    Returns
    -------
    Tensor with an axis for each cycle of S, of the cycle's size.
    """
    rest = math.prod(float(f.sum()) for i, f in enumerate(factors) if i not in subset)
    return outer([factors[i] for i in subset]) * rest


def entries(table: Tensor, subset: Subset, codes: Tensor) -> Tensor:
    """Entries (..., n) of a subset's table, a global value (..., sizes of S), for compounds with codes (n, cycles)."""
    if len(subset) == 1:
        return at_levels(table, codes[:, subset[0]], 1)
    flat = torch.zeros_like(codes[:, 0])
    for i, size in zip(subset, table.shape[-len(subset) :], strict=True):
        flat = flat * size + codes[:, i]
    return at_levels(table.flatten(-len(subset)), flat, 1)
