"""Dropout as a loop compiled by numba, with a generator that needs no state: which entries go is a hash of their place.

Source: the hash is C. Wellons' lowbias32 (Prospecting for Hash Functions, 2018).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pyro_omics.kernels.compiled.cache import compiled
from pyro_omics.kernels.compiled.threads import row_range, together

U = np.uint32
GOLDEN, FIRST, SECOND = U(0x9E3779B9), U(0x7FEB352D), U(0x846CA68B)


@njit(inline="always")
def _hash(k, seed):
    h = U(U(k) * GOLDEN)
    h = U(h ^ seed[0])
    h = U(h ^ U(h >> U(16)))
    h = U(h * FIRST)
    h = U(h ^ U(h >> U(15)))
    h = U(h ^ seed[1])
    h = U(h * SECOND)
    return U(h ^ U(h >> U(16)))


@compiled()
def _part(x, first, seed, below, factor, out):
    for k in range(len(x)):
        out[k] = x[k] * (factor if _hash(U(first) + U(k), seed) >= below else np.float32(0.0))


@compiled()
def _dropout(threads, x, seed, below, factor, out):
    start, stop = row_range(threads, len(x))
    _part(x[start:stop], start, (seed[0], seed[1]), below, factor, out[start:stop])


@compiled()
def dropout(threads, x, seed, p, out):
    """``x`` (n,) times 0 with probability ``p``, else 1 / (1 - p), to ``out``; the same for the same ``seed`` (2,)."""
    below = U(min(p * 2.0**32, 2.0**32 - 1))
    together(_dropout, threads, (threads, x, seed, below, np.float32(1 / (1 - p)), out))
