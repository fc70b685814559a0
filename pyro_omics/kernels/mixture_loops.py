"""The mixture of two negative binomials as a loop over float32, compiled by numba; see `rows.Mixture`."""

from __future__ import annotations

import numpy as np
from numba import njit

from pyro_omics.kernels.loops import FAST, F, _exp, _of_counts, _of_zero, _shared, _softplus, _sum
from pyro_omics.kernels.team import share, together


@njit(cache=True, **FAST)
def _component(x, mu, theta, shared, value, by_mu, by_theta, slope):
    """Log NB of a row, and its derivatives by mu and theta."""
    for j in range(len(x)):
        value[j], slope[j] = shared[0, j], shared[1, j]
        by_mu[j], by_theta[j] = mu[j], theta[j]
    _of_counts(x, by_mu, by_theta, value, slope)
    for j in range(len(x)):  # what is left of the gamma functions at zero is rounding
        zero, c, d = _of_zero(mu[j], theta[j])
        value[j] = value[j] if x[j] > 0 else -zero
        by_mu[j] = by_mu[j] if x[j] > 0 else -c
        by_theta[j] = by_theta[j] if x[j] > 0 else -d


@njit(cache=True, **FAST)
def _mix(logits, low, high, line, by_logits):
    """Of two components' value and derivatives (3, g), the mixture's: in ``line``, and in their places."""
    for j in range(len(line)):
        odds = low[0, j] - high[0, j] + logits[j]
        w, rest = F(1.0) / (F(1.0) + _exp(-odds)), F(1.0) / (F(1.0) + _exp(odds))
        line[j] = high[0, j] + _softplus(odds) - _softplus(logits[j])
        low[1, j] *= w
        high[1, j] *= rest
        low[2, j] = low[2, j] * w + high[2, j] * rest
        by_logits[j] = w - F(1.0) / (F(1.0) + _exp(-logits[j]))


@njit(cache=True, nogil=True)
def _mixture(team, shared, low, high, theta, logits, x, rows, by_low, by_high, by_theta, by_logits):
    n, g = low.shape
    room, of_low, of_high = np.empty((2, g), np.float32), np.empty((4, g), np.float32), np.empty((4, g), np.float32)
    start, stop = share(team, n)
    for i in range(start, stop):
        seen, own, to = x[i % len(x)], theta[i % len(theta)], i % len(by_low)
        constants = _shared(theta[i % len(theta) : i % len(theta) + 1]) if shared is None else shared
        _component(seen, low[i], own, constants, of_low[0], of_low[1], of_low[2], of_low[3])
        _component(seen, high[i], own, constants, of_high[0], of_high[1], of_high[2], of_high[3])
        _mix(logits[i], of_low, of_high, room[0], room[1])
        rows[i] = _sum(room[0])
        # Where they are not wanted all rows have one place, and the threads may write there as they please.
        by_low[to], by_high[to], by_theta[to], by_logits[to] = of_low[1], of_high[1], of_low[2], room[1]


@njit(cache=True, nogil=True)
def mixture(team, low, high, theta, logits, x, position, bounds, rows, by_low, by_high, by_theta, by_logits):
    """Rows of sigmoid(logits) NB(low, theta) + sigmoid(-logits) NB(high, theta); as `loops.negative_binomial` else."""
    given = (team, _shared(theta), low, high, theta, logits, x, rows, by_low, by_high, by_theta, by_logits)
    together(_mixture, team, given)
