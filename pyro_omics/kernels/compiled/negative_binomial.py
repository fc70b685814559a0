"""The kernels of the negative binomials as loops over float32, compiled by numba: memory is read once.

Logarithms and exponentials are polynomials here, those of Cephes: the compiler can then work on several entries at
once, which a call of the mathematical library would prevent. The module is imported when a kernel is first used; numba
compiles it in a second or two, and keeps the machine code on disk for the next process.

Source: Moshier, Cephes Mathematical Library (expf, logf); the formulas of `densities` and `stirling`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from pyro_omics.kernels.compiled.cache import compiled
from pyro_omics.kernels.compiled.nonzero import nonzero_columns
from pyro_omics.kernels.compiled.threads import row_range, run_in_threads

F = np.float32
EPS = F(1e-8)
LARGEST = F(40.0)  # beyond, softplus is the identity
LOG2_E = F(1.4426950408889634)
LN_2_HIGH, LN_2_LOW = F(0.693359375), F(-2.12194440e-4)
SHIFT = F(3.0)  # of Stirling's series, as `stirling.SHIFT`
TAIL = F(4.0 - 0.5 * math.log(2 * math.pi))
# The compiler may assume that there are no infinities and no NaN: `_all_above` and `_all_numbers` look for rows with
# values outside the distribution's domain, which become NaN. Reassociation is not allowed: it makes (1 + x) - 1 into x.
FAST: dict[str, Any] = {
    "fastmath": {"nnan", "ninf", "nsz", "arcp", "contract"},
    "error_model": "numpy",
    "nogil": True,
}


@intrinsic
def _bits(typing: Any, x: Any) -> Any:
    """The bits of a float32 as an int32."""
    return types.int32(types.float32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.IntType(32)
    )


@intrinsic
def _of_bits(typing: Any, x: Any) -> Any:
    """The float32 of these bits."""
    return types.float32(types.int32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.FloatType()
    )


@njit(inline="always", **FAST)
def _exp(x):
    x = min(max(x, F(-87.0)), F(88.0))
    n = F(math.floor(x * LOG2_E + F(0.5)))
    x = x - n * LN_2_HIGH - n * LN_2_LOW
    y = F(1.9875691500e-4)
    y = y * x + F(1.3981999507e-3)
    y = y * x + F(8.3334519073e-3)
    y = y * x + F(4.1665795894e-2)
    y = y * x + F(1.6666665459e-1)
    y = y * x + F(5.0000001201e-1)
    y = y * x * x + x + F(1.0)
    return y * _of_bits(np.int32((np.int32(n) + np.int32(127)) << np.int32(23)))


@njit(inline="always", **FAST)
def _log(x):
    bits = _bits(x)
    exponent = np.int32(bits - np.int32(0x3F3504F3)) >> np.int32(23)
    f = _of_bits(np.int32(bits - np.int32(exponent << np.int32(23)))) - F(1.0)
    y = F(7.0376836292e-2)
    y = y * f + F(-1.1514610310e-1)
    y = y * f + F(1.1676998740e-1)
    y = y * f + F(-1.2420140846e-1)
    y = y * f + F(1.4249322787e-1)
    y = y * f + F(-1.6668057665e-1)
    y = y * f + F(2.0000714765e-1)
    y = y * f + F(-2.4999993993e-1)
    y = y * f + F(3.3333331174e-1)
    n = F(exponent)
    y = y * f * f * f + n * LN_2_LOW - F(0.5) * f * f
    return f + y + n * LN_2_HIGH


@njit(inline="always", **FAST)
def _log1p(x):
    u = F(1.0) + x
    return _log(u) + (x - (u - F(1.0))) / u


@njit(inline="always", **FAST)
def _series(w):
    """Stirling's, from the inverse of its argument."""
    s = w * w
    return w * (F(1 / 12) + s * (F(-1 / 360) + s * (F(1 / 1260) + s * F(-1 / 1680))))


@njit(inline="always", **FAST)
def _series_slope(w):
    s = w * w
    return s * (F(-1 / 12) + s * (F(3 / 360) + s * (F(-5 / 1260) + s * F(7 / 1680))))


@njit(inline="always", **FAST)
def _of_dispersion(theta):
    """`stirling.of_dispersion`."""
    w = F(1.0) / (theta + SHIFT)
    one, two = theta + F(1.0), theta + F(2.0)
    value = _log(theta * w * (one * w) * (two * w)) - _series(w)
    slope = F(1.0) / theta + F(1.0) / one + F(1.0) / two - _series_slope(w) + F(0.5) * w
    return value, slope


@njit(inline="always", **FAST)
def _of_count(x, mu, theta, constant, constant_slope):
    """`stirling.of_shape` and `densities.at_mean`: log NB at x > 0, and its derivatives by mu and theta."""
    t, v = theta + SHIFT, x + F(4.0)
    z = t + x
    w, w_v = F(1.0) / z, F(1.0) / v
    log_z_t = _log1p(x / t)
    one, two, three = F(1.0) - w, F(1.0) - F(2.0) * w, F(1.0) - F(3.0) * w
    back = one * two * three
    back_v = (F(1.0) - w_v) * (F(1.0) - F(2.0) * w_v) * (F(1.0) - F(3.0) * w_v) * math.sqrt(w_v)
    shape = (theta - F(0.5)) * log_z_t + _log(back_v / back) + _series(w) - _series(w_v) + TAIL + constant
    shape_slope = log_z_t + _series_slope(w) - F(0.5) * w - w * (F(1.0) / one + F(1.0) / two + F(1.0) / three)
    floored, mean = theta + EPS, mu + EPS
    total, ratio = floored + mu, mu / floored
    log_ratio = _log1p(ratio)
    value = x * _log(z * w_v / total * mean) - theta * log_ratio + shape
    by_mu = x / mean - (x + theta) / total
    by_theta = (ratio * theta - x) / total - log_ratio + shape_slope + constant_slope
    return value, by_mu, by_theta


@njit(inline="always", **FAST)
def _of_zero(mu, theta):
    """-log NB at 0, and its derivatives by mu and theta."""
    floored = theta + EPS
    ratio, inverse = mu / floored, F(1.0) / (floored + mu)
    u = F(1.0) + ratio
    # log1p(ratio), with 1 / u from what is there: divisions are what costs.
    log_ratio = _log(u) + (ratio - (u - F(1.0))) * (floored * inverse)
    c = theta * inverse
    return theta * log_ratio, c, log_ratio - c * ratio


@njit(inline="always", **FAST)
def _softplus(x):
    return max(x, F(0.0)) + _log1p(_exp(-abs(x)))


@compiled()
def _all_above(line, least):
    above = 0
    for j in range(len(line)):
        above += line[j] > least  # no NaN is
    return above == len(line)


@compiled()
def _all_numbers(line):
    numbers = 0
    for j in range(len(line)):
        numbers += line[j] == line[j]
    return numbers == len(line)


@compiled(fastmath={"reassoc"})
def _sum(line):
    total = F(0.0)
    for j in range(len(line)):
        total += line[j]
    return total


@compiled(**FAST)
def _constants(theta, value, slope):
    for j in range(len(theta)):
        value[j], slope[j] = _of_dispersion(theta[j])


@compiled(**FAST)
def _of_counts(x, mu, theta, constant, slope):
    """In the places of ``constant``, ``mu`` and ``theta``: log NB, and its derivatives by mu and theta."""
    for k in range(len(x)):
        constant[k], mu[k], theta[k] = _of_count(x[k], mu[k], theta[k], constant[k], slope[k])


@compiled(**FAST)
def _no_extra_zero(logits, value):
    """Add log sigmoid(-logits) to ``value``; its derivative by the logits in their place."""
    for k in range(len(logits)):
        value[k] -= _softplus(logits[k])
        logits[k] = -F(1.0) / (F(1.0) + _exp(-logits[k]))


@compiled(**FAST)
def _at_counts(mu, theta, columns, shared, x, room):
    """A row's counts at ``columns``, gathered first and then computed together: value, derivatives by mu and theta."""
    m = len(columns)
    value, by_mu, by_theta, slope, counts = room[0, :m], room[1, :m], room[2, :m], room[3, :m], room[4, :m]
    for k in range(m):
        by_mu[k], by_theta[k], counts[k] = mu[columns[k]], theta[columns[k]], x[columns[k]]
    if shared is None:
        _constants(by_theta, value, slope)
    else:
        for k in range(m):
            value[k], slope[k] = shared[0, columns[k]], shared[1, columns[k]]
    _of_counts(counts, by_mu, by_theta, value, slope)
    return value, by_mu, by_theta


@compiled(**FAST)
def _nb_zeros(mu, theta, line, by_mu, by_theta):
    for j in range(len(mu)):
        value, c, d = _of_zero(mu[j], theta[j])
        line[j], by_mu[j], by_theta[j] = -value, -c, -d


@compiled(**FAST)
def _zinb_zeros(mu, theta, logits, line, by_mu, by_theta, by_logits):
    """Log p(0) = log((1 + e^b) / (1 + e^a)); beyond 40 softplus is the identity, and e^80 is a float32."""
    for j in range(len(mu)):
        deficit, c, d = _of_zero(mu[j], theta[j])
        a = -logits[j]
        b = a - deficit
        low, high = F(1.0) + _exp(min(b, LARGEST)), F(1.0) + _exp(min(a, LARGEST))
        inverse = F(1.0) / (low * high)
        line[j] = _log(low * low * inverse) + max(b - LARGEST, F(0.0)) - max(a - LARGEST, F(0.0))
        v = high * inverse
        by_mu[j], by_theta[j], by_logits[j] = c * (v - F(1.0)), d * (v - F(1.0)), v - low * inverse


@compiled()
def _shared(theta):
    """The constants of columns that all rows share (2, g), or None."""
    if len(theta) > 1:
        return None
    made = np.empty((2, theta.shape[1]), np.float32)
    _constants(theta[0], made[0], made[1])
    return made


@compiled()
def _is_sound(mu, theta, own, counts):
    """Whether a row has means, inverse dispersions and counts; theta that all rows share is looked at once."""
    is_theta = len(theta) == 1 or _all_above(own, F(0.0))
    return is_theta and _all_above(mu, -EPS) and _all_above(counts, F(0.0))


@compiled()
def _nb_rows(threads, shared, mu, theta, x, rows, by_mu, by_theta):
    n, g = mu.shape
    line, room, found = np.empty(g, np.float32), np.empty((5, g), np.float32), np.empty(g, np.int64)
    start, stop = row_range(threads, n)
    is_theta = len(theta) > 1 or _all_above(theta[0], F(0.0))
    for i in range(start, stop):
        seen, own, to = i % len(x), theta[i % len(theta)], i % len(by_mu)
        columns = found[: nonzero_columns(x[seen], found)]
        _nb_zeros(mu[i], own, line, by_mu[to], by_theta[to])
        value, slope_mu, slope_theta = _at_counts(mu[i], own, columns, shared, x[seen], room)
        for k in range(len(columns)):
            j = columns[k]
            line[j], by_mu[to, j], by_theta[to, j] = value[k], slope_mu[k], slope_theta[k]
        rows[i] = _sum(line)
        if not (is_theta and _is_sound(mu[i], theta, own, room[4, : len(columns)])):
            rows[i] = np.nan
            by_mu[to], by_theta[to] = np.nan, np.nan


@compiled()
def negative_binomial(threads, mu, theta, x, rows, by_mu, by_theta):
    """Rows of NB(mu, theta) at counts of which few are not zero.

    ``mu`` is (n, g); ``theta`` (n, g), or (1, g) for all rows; ``x`` (m, g) the counts, of which row i sees row i % m.
    Written are ``rows`` (n,) and the derivatives (n, g). Where derivatives are not needed they are given as (1, g), and
    their content has no meaning: all threads write there.
    """
    run_in_threads(_nb_rows, threads, (threads, _shared(theta), mu, theta, x, rows, by_mu, by_theta))


@compiled()
def _zinb_rows(threads, shared, mu, theta, logits, x, rows, by_mu, by_theta, by_logits):
    n, g = mu.shape
    line, room, extra = np.empty(g, np.float32), np.empty((5, g), np.float32), np.empty(g, np.float32)
    found = np.empty(g, np.int64)
    start, stop = row_range(threads, n)
    is_theta = len(theta) > 1 or _all_above(theta[0], F(0.0))
    for i in range(start, stop):
        seen, own, to = i % len(x), theta[i % len(theta)], i % len(by_mu)
        columns = found[: nonzero_columns(x[seen], found)]
        _zinb_zeros(mu[i], own, logits[i], line, by_mu[to], by_theta[to], by_logits[to])
        value, slope_mu, slope_theta = _at_counts(mu[i], own, columns, shared, x[seen], room)
        slope_logits = extra[: len(columns)]
        for k in range(len(columns)):
            slope_logits[k] = logits[i, columns[k]]
        _no_extra_zero(slope_logits, value)
        for k in range(len(columns)):
            j = columns[k]
            line[j], by_mu[to, j], by_theta[to, j] = value[k], slope_mu[k], slope_theta[k]
            by_logits[to, j] = slope_logits[k]
        rows[i] = _sum(line)
        if not (is_theta and _all_numbers(logits[i]) and _is_sound(mu[i], theta, own, room[4, : len(columns)])):
            rows[i] = np.nan
            by_mu[to], by_theta[to], by_logits[to] = np.nan, np.nan, np.nan


@compiled()
def zero_inflated_negative_binomial(
    threads,
    mu,
    theta,
    logits,
    x,
    rows,
    by_mu,
    by_theta,
    by_logits,
):
    """The same with an extra zero of probability sigmoid(logits), (n, g); see `torch_kernels.ZeroInflated`."""
    given = (threads, _shared(theta), mu, theta, logits, x, rows, by_mu, by_theta, by_logits)
    run_in_threads(_zinb_rows, threads, given)
