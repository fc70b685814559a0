"""Codes of rows of counts, by which the same rows are found in two data sets, whatever holds them."""

from __future__ import annotations

from typing import Any

import numpy as np

BITS = 22  # of a column's weight: sums of up to 2^31 counts are then whole numbers below 2^53, exact in any order


def column_weights(g: int) -> np.ndarray:
    """A fixed weight of each of g columns: whole numbers (g,), in double precision."""
    return (_mixed(np.arange(g, dtype=np.uint64)) >> np.uint64(64 - BITS)).astype(np.float64) + 1.0


def weighted_sums(csr: Any) -> np.ndarray:
    """Each row's sum (n,) over columns times their weights."""
    return csr.astype(np.float64) @ column_weights(csr.shape[1])


def codes_of(sums: np.ndarray) -> np.ndarray:
    """The code (n,) of 32 bits of each row, from its weighted sum."""
    return (_mixed(sums.astype(np.uint64)) >> np.uint64(32)).astype(np.uint32)


def _mixed(x: np.ndarray) -> np.ndarray:
    """Whole numbers spread over 64 bits, one to one: splitmix64 (Steele et al. 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)  # modulo 2^64
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
