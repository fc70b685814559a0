"""The mixture of two negative binomials as a loop over float32, compiled by numba; see `torch_kernels.Mixture`."""

from __future__ import annotations

import numpy as np

from pyro_omics.kernels.compiled.cache import compiled
from pyro_omics.kernels.compiled.negative_binomial import (
    EPS,
    FAST,
    F,
    _all_above,
    _all_numbers,
    _constants,
    _exp,
    _of_counts,
    _of_zero,
    _shared,
    _softplus,
    _sum,
)
from pyro_omics.kernels.compiled.threads import row_range, run_in_threads

LINE = 2048  # entries that are treated at once


@compiled(**FAST)
def _component(x, mu, theta, value, by_mu, by_theta, slope):
    """Log NB, and its derivatives by mu and theta; ``value`` and ``slope`` come as the constants of theta."""
    for j in range(len(x)):
        by_mu[j], by_theta[j] = mu[j], theta[j]
    _of_counts(x, by_mu, by_theta, value, slope)
    for j in range(len(x)):  # what is left of the gamma functions at zero is rounding
        zero, c, d = _of_zero(mu[j], theta[j])
        value[j] = value[j] if x[j] > 0 else -zero
        by_mu[j] = by_mu[j] if x[j] > 0 else -c
        by_theta[j] = by_theta[j] if x[j] > 0 else -d


@compiled(**FAST)
def _mix(logits, low, high, by_low, by_high, by_theta, high_theta, by_logits):
    """Of the components' values and derivatives those of the mixture: in ``low``, and in their places."""
    for j in range(len(logits)):
        odds = low[j] - high[j] + logits[j]
        w, rest = F(1.0) / (F(1.0) + _exp(-odds)), F(1.0) / (F(1.0) + _exp(odds))
        low[j] = high[j] + _softplus(odds) - _softplus(logits[j])
        by_low[j] *= w
        by_high[j] *= rest
        by_theta[j] = by_theta[j] * w + high_theta[j] * rest
        by_logits[j] = w - F(1.0) / (F(1.0) + _exp(-logits[j]))


@compiled()
def _are_means(low, high, theta):
    return _all_above(low, -EPS) and _all_above(high, -EPS) and _all_above(theta, F(0.0))


@compiled()
def _are_counts(x):
    return _all_above(x, -EPS)


@compiled()
def _mixture(threads, shared, low, high, theta, logits, x, rows, by_low, by_high, by_theta, by_logits):
    """Some rows at once, as one line: a row of a few proteins fills no register."""
    n, g = low.shape
    some = max(1, LINE // g)
    space = np.empty((11, some * g), np.float32)
    first, last = row_range(threads, n)
    for start in range(first, last, some):
        m = (min(start + some, last) - start) * g
        seen, own, value, of_low = space[0, :m], space[1, :m], space[2, :m], space[3, :m]
        of_theta, slope, high_value, of_high = space[4, :m], space[5, :m], space[6, :m], space[7, :m]
        high_theta, high_slope, of_logits = space[8, :m], space[9, :m], space[10, :m]
        for at in range(0, m, g):
            i, line = start + at // g, slice(at, at + g)
            seen[line], own[line] = x[i % len(x)], theta[i % len(theta)]
            if shared is not None:
                value[line], slope[line] = shared[0], shared[1]
        if shared is None:
            _constants(own, value, slope)
        high_value[:], high_slope[:] = value, slope
        _component(seen, low[start:].reshape(-1)[:m], own, value, of_low, of_theta, slope)
        _component(seen, high[start:].reshape(-1)[:m], own, high_value, of_high, high_theta, high_slope)
        _mix(logits[start:].reshape(-1)[:m], value, high_value, of_low, of_high, of_theta, high_theta, of_logits)
        for at in range(0, m, g):
            i, line = start + at // g, slice(at, at + g)
            rows[i] = _sum(value[line])
            if not (_are_means(low[i], high[i], own[line]) and _are_counts(seen[line]) and _all_numbers(logits[i])):
                rows[i] = np.nan
                of_low[line], of_high[line], of_theta[line], of_logits[line] = np.nan, np.nan, np.nan, np.nan
            to = i % len(by_low)  # where they are not wanted all rows have one place, which nobody reads
            by_low[to], by_high[to], by_theta[to] = of_low[line], of_high[line], of_theta[line]
            by_logits[to] = of_logits[line]


@compiled()
def mixture(threads, low, high, theta, logits, x, rows, by_low, by_high, by_theta, by_logits):
    """Rows of sigmoid(logits) NB(low, theta) + sigmoid(-logits) NB(high, theta); else as `negative_binomial`."""
    given = (threads, _shared(theta), low, high, theta, logits, x, rows, by_low, by_high, by_theta, by_logits)
    run_in_threads(_mixture, threads, given)
