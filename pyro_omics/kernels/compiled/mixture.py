"""Mixture of two negative binomials as a compiled loop over float32; see `torch_kernels.Mixture`."""

from __future__ import annotations

import numpy as np

from pyro_omics.kernels.compiled.cache import compiled
from pyro_omics.kernels.compiled.negative_binomial import (
    EPS,
    FAST,
    F,
    _all_above,
    _exp,
    _has_no_nan,
    _log_nb_at_counts,
    _neg_log_nb_at_zero,
    _shared_theta_terms,
    _softplus,
    _sum,
    _write_theta_terms,
)
from pyro_omics.kernels.compiled.threads import row_range, run_in_threads

LINE = 2048  # entries that are processed at once


@compiled(**FAST)
def _component(x, mu, theta, value, d_mu, d_theta, theta_derivative):
    """Write log NB to ``value``, and its derivatives to ``d_mu`` and ``d_theta``.

    On entry, ``value`` and ``theta_derivative`` hold the terms of theta alone, see `_write_theta_terms`.
    """
    for j in range(len(x)):
        d_mu[j], d_theta[j] = mu[j], theta[j]
    _log_nb_at_counts(x, d_mu, d_theta, value, theta_derivative)
    for j in range(len(x)):  # at zero, the gamma functions cancel, but for rounding
        zero, c, d = _neg_log_nb_at_zero(mu[j], theta[j])
        value[j] = value[j] if x[j] > 0 else -zero
        d_mu[j] = d_mu[j] if x[j] > 0 else -c
        d_theta[j] = d_theta[j] if x[j] > 0 else -d


@compiled(**FAST)
def _mix(logits, low, high, d_low, d_high, d_theta, high_theta, d_logits):
    """Replace ``low`` by the log-probability of the mixture, and the derivatives of the components by its own."""
    for j in range(len(logits)):
        odds = low[j] - high[j] + logits[j]
        w, rest = F(1.0) / (F(1.0) + _exp(-odds)), F(1.0) / (F(1.0) + _exp(odds))
        low[j] = high[j] + _softplus(odds) - _softplus(logits[j])
        d_low[j] *= w
        d_high[j] *= rest
        d_theta[j] = d_theta[j] * w + high_theta[j] * rest
        d_logits[j] = w - F(1.0) / (F(1.0) + _exp(-logits[j]))


@compiled()
def _are_means(low, high, theta):
    return _all_above(low, -EPS) and _all_above(high, -EPS) and _all_above(theta, F(0.0))


@compiled()
def _are_counts(x):
    return _all_above(x, -EPS)


@compiled()
def _mixture(threads, shared, low, high, theta, logits, x, rows, d_low, d_high, d_theta, d_logits):
    """Process several rows at once, as one line: a row of a few proteins fills no register."""
    n, g = low.shape
    step = max(1, LINE // g)
    buffer = np.empty((11, step * g), np.float32)
    first, last = row_range(threads, n)
    for start in range(first, last, step):
        m = (min(start + step, last) - start) * g
        counts, thetas, value, low_slope = buffer[0, :m], buffer[1, :m], buffer[2, :m], buffer[3, :m]
        theta_slope, term_slope, high_value, high_slope = buffer[4, :m], buffer[5, :m], buffer[6, :m], buffer[7, :m]
        high_theta_slope, high_term_slope, logits_slope = buffer[8, :m], buffer[9, :m], buffer[10, :m]
        for at in range(0, m, g):
            i, line = start + at // g, slice(at, at + g)
            counts[line], thetas[line] = x[i % len(x)], theta[i % len(theta)]
            if shared is not None:
                value[line], term_slope[line] = shared[0], shared[1]
        if shared is None:
            _write_theta_terms(thetas, value, term_slope)
        high_value[:], high_term_slope[:] = value, term_slope
        _component(counts, low[start:].reshape(-1)[:m], thetas, value, low_slope, theta_slope, term_slope)
        _component(
            counts, high[start:].reshape(-1)[:m], thetas, high_value, high_slope, high_theta_slope, high_term_slope
        )
        _mix(
            logits[start:].reshape(-1)[:m],
            value,
            high_value,
            low_slope,
            high_slope,
            theta_slope,
            high_theta_slope,
            logits_slope,
        )
        for at in range(0, m, g):
            i, line = start + at // g, slice(at, at + g)
            rows[i] = _sum(value[line])
            is_valid = _are_means(low[i], high[i], thetas[line]) and _are_counts(counts[line])
            if not (is_valid and _has_no_nan(logits[i])):
                rows[i] = np.nan
                low_slope[line], high_slope[line] = np.nan, np.nan
                theta_slope[line], logits_slope[line] = np.nan, np.nan
            target = i % len(d_low)  # if derivatives are not needed, all rows write to one row, which is not read
            d_low[target], d_high[target], d_theta[target] = low_slope[line], high_slope[line], theta_slope[line]
            d_logits[target] = logits_slope[line]


@compiled()
def mixture(threads, low, high, theta, logits, x, rows, d_low, d_high, d_theta, d_logits):
    """Log-probabilities of sigmoid(logits) NB(low, theta) + sigmoid(-logits) NB(high, theta), summed over each row.

    Shapes are those of `negative_binomial`; ``logits`` is (n, g).
    """
    arguments = (
        threads,
        _shared_theta_terms(theta),
        low,
        high,
        theta,
        logits,
        x,
        rows,
        d_low,
        d_high,
        d_theta,
        d_logits,
    )
    run_in_threads(_mixture, threads, arguments)
