"""Kernels of the negative binomials as loops over float32, compiled by numba, which read memory once.

Logarithms and exponentials are the polynomials of Cephes: the compiler can vectorise them, unlike a call of the
mathematical library. The module is imported when a kernel is first used; numba compiles it in a second or two, and
caches the machine code on disk for the next process.

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
LARGEST = F(40.0)  # above it, softplus is the identity in float32
LOG2_E = F(1.4426950408889634)
LN_2_HIGH, LN_2_LOW = F(0.693359375), F(-2.12194440e-4)
SHIFT = F(3.0)  # as `stirling.SHIFT`
TAIL = F(4.0 - 0.5 * math.log(2 * math.pi))
# The compiler may assume that there are no infinities and no NaN, so `_all_above` and `_has_no_nan` find the rows with
# values outside the distribution's domain, which become NaN. Reassociation is not allowed: it turns (1 + x) - 1 into x.
FAST: dict[str, Any] = {
    "fastmath": {"nnan", "ninf", "nsz", "arcp", "contract"},
    "error_model": "numpy",
    "nogil": True,
}


@intrinsic
def _float_to_bits(typing: Any, x: Any) -> Any:
    """Reinterpret the bits of a float32 as an int32."""
    return types.int32(types.float32), lambda context, builder, signature, args: builder.bitcast(
        args[0], ir.IntType(32)
    )


@intrinsic
def _bits_to_float(typing: Any, x: Any) -> Any:
    """Reinterpret the bits of an int32 as a float32."""
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
    return y * _bits_to_float(np.int32((np.int32(n) + np.int32(127)) << np.int32(23)))


@njit(inline="always", **FAST)
def _log(x):
    bits = _float_to_bits(x)
    exponent = np.int32(bits - np.int32(0x3F3504F3)) >> np.int32(23)
    f = _bits_to_float(np.int32(bits - np.int32(exponent << np.int32(23)))) - F(1.0)
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
def _stirling_series(w):
    """Stirling's series s(Z) from w = 1 / Z; see `stirling.series`."""
    s = w * w
    return w * (F(1 / 12) + s * (F(-1 / 360) + s * (F(1 / 1260) + s * F(-1 / 1680))))


@njit(inline="always", **FAST)
def _stirling_series_derivative(w):
    s = w * w
    return s * (F(-1 / 12) + s * (F(3 / 360) + s * (F(-5 / 1260) + s * F(7 / 1680))))


@njit(inline="always", **FAST)
def _theta_terms(theta):
    """Terms in theta alone of log NB and of its derivative; see `stirling.theta_terms`."""
    w = F(1.0) / (theta + SHIFT)
    one, two = theta + F(1.0), theta + F(2.0)
    value = _log(theta * w * (one * w) * (two * w)) - _stirling_series(w)
    derivative = F(1.0) / theta + F(1.0) / one + F(1.0) / two - _stirling_series_derivative(w) + F(0.5) * w
    return value, derivative


@njit(inline="always", **FAST)
def _log_nb_at_count(x, mu, theta, theta_term, theta_term_derivative):
    """Log NB at x > 0, and its derivatives; see `stirling.log_coefficient` and `densities.log_nb`."""
    t, v = theta + SHIFT, x + F(4.0)
    z = t + x
    w, w_v = F(1.0) / z, F(1.0) / v
    log_z_t = _log1p(x / t)
    one, two, three = F(1.0) - w, F(1.0) - F(2.0) * w, F(1.0) - F(3.0) * w
    product = one * two * three
    product_v = (F(1.0) - w_v) * (F(1.0) - F(2.0) * w_v) * (F(1.0) - F(3.0) * w_v) * math.sqrt(w_v)
    coefficient = (
        (theta - F(0.5)) * log_z_t
        + _log(product_v / product)
        + _stirling_series(w)
        - _stirling_series(w_v)
        + TAIL
        + theta_term
    )
    coefficient_derivative = (
        log_z_t + _stirling_series_derivative(w) - F(0.5) * w - w * (F(1.0) / one + F(1.0) / two + F(1.0) / three)
    )
    floored, mean = theta + EPS, mu + EPS
    total, ratio = floored + mu, mu / floored
    log_ratio = _log1p(ratio)
    value = x * _log(z * w_v / total * mean) - theta * log_ratio + coefficient
    d_mu = x / mean - (x + theta) / total
    d_theta = (ratio * theta - x) / total - log_ratio + coefficient_derivative + theta_term_derivative
    return value, d_mu, d_theta


@njit(inline="always", **FAST)
def _neg_log_nb_at_zero(mu, theta):
    """-log NB at 0, and its derivatives with respect to mu and theta."""
    floored = theta + EPS
    ratio, inverse = mu / floored, F(1.0) / (floored + mu)
    u = F(1.0) + ratio
    # log1p(ratio), with 1 / u = floored * inverse, which saves a division.
    log_ratio = _log(u) + (ratio - (u - F(1.0))) * (floored * inverse)
    c = theta * inverse
    return theta * log_ratio, c, log_ratio - c * ratio


@njit(inline="always", **FAST)
def _softplus(x):
    return max(x, F(0.0)) + _log1p(_exp(-abs(x)))


@compiled()
def _all_above(line, bound):
    n_above = 0
    for j in range(len(line)):
        n_above += line[j] > bound  # false for NaN
    return n_above == len(line)


@compiled()
def _has_no_nan(line):
    n_numbers = 0
    for j in range(len(line)):
        n_numbers += line[j] == line[j]
    return n_numbers == len(line)


@compiled(fastmath={"reassoc"})
def _sum(line):
    total = F(0.0)
    for j in range(len(line)):
        total += line[j]
    return total


@compiled(**FAST)
def _write_theta_terms(theta, value, derivative):
    for j in range(len(theta)):
        value[j], derivative[j] = _theta_terms(theta[j])


@compiled(**FAST)
def _log_nb_at_counts(x, mu, theta, theta_term, derivative):
    """Overwrite ``theta_term``, ``mu`` and ``theta`` with log NB and its derivatives with respect to mu and theta."""
    for k in range(len(x)):
        theta_term[k], mu[k], theta[k] = _log_nb_at_count(x[k], mu[k], theta[k], theta_term[k], derivative[k])


@compiled(**FAST)
def _add_log_no_extra_zero(logits, value):
    """Add log sigmoid(-logits) to ``value``, and overwrite the logits with its derivative."""
    for k in range(len(logits)):
        value[k] -= _softplus(logits[k])
        logits[k] = -F(1.0) / (F(1.0) + _exp(-logits[k]))


@compiled(**FAST)
def _gather_log_nb(mu, theta, columns, shared, x, buffer):
    """Log NB and its derivatives at the counts in ``columns`` of one row, which are gathered into ``buffer`` first."""
    m = len(columns)
    value, d_mu, d_theta, derivative, counts = buffer[0, :m], buffer[1, :m], buffer[2, :m], buffer[3, :m], buffer[4, :m]
    for k in range(m):
        d_mu[k], d_theta[k], counts[k] = mu[columns[k]], theta[columns[k]], x[columns[k]]
    if shared is None:
        _write_theta_terms(d_theta, value, derivative)
    else:
        for k in range(m):
            value[k], derivative[k] = shared[0, columns[k]], shared[1, columns[k]]
    _log_nb_at_counts(counts, d_mu, d_theta, value, derivative)
    return value, d_mu, d_theta


@compiled(**FAST)
def _write_nb_at_zeros(mu, theta, line, d_mu, d_theta):
    for j in range(len(mu)):
        value, c, d = _neg_log_nb_at_zero(mu[j], theta[j])
        line[j], d_mu[j], d_theta[j] = -value, -c, -d


@compiled(**FAST)
def _write_zinb_at_zeros(mu, theta, logits, line, d_mu, d_theta, d_logits):
    """Log p(0) = log((1 + e^b) / (1 + e^a)), where softplus is the identity above 40, and e^80 is a float32."""
    for j in range(len(mu)):
        deficit, c, d = _neg_log_nb_at_zero(mu[j], theta[j])
        a = -logits[j]
        b = a - deficit
        low, high = F(1.0) + _exp(min(b, LARGEST)), F(1.0) + _exp(min(a, LARGEST))
        inverse = F(1.0) / (low * high)
        line[j] = _log(low * low * inverse) + max(b - LARGEST, F(0.0)) - max(a - LARGEST, F(0.0))
        v = high * inverse
        d_mu[j], d_theta[j], d_logits[j] = c * (v - F(1.0)), d * (v - F(1.0)), v - low * inverse


@compiled()
def _shared_theta_terms(theta):
    """`_theta_terms` of theta that all rows share (2, g), or None where each row has its own theta."""
    if len(theta) > 1:
        return None
    terms = np.empty((2, theta.shape[1]), np.float32)
    _write_theta_terms(theta[0], terms[0], terms[1])
    return terms


@compiled()
def _is_in_domain(mu, theta, theta_row, counts):
    """Whether the means, inverse dispersions and counts of a row are valid; its callers check a shared theta."""
    is_theta = len(theta) == 1 or _all_above(theta_row, F(0.0))
    return is_theta and _all_above(mu, -EPS) and _all_above(counts, F(0.0))


@compiled()
def _nb_rows(threads, shared, mu, theta, x, rows, d_mu, d_theta):
    n, g = mu.shape
    line, buffer, column_buffer = np.empty(g, np.float32), np.empty((5, g), np.float32), np.empty(g, np.int64)
    start, stop = row_range(threads, n)
    is_theta = len(theta) > 1 or _all_above(theta[0], F(0.0))
    for i in range(start, stop):
        source, theta_row, target = i % len(x), theta[i % len(theta)], i % len(d_mu)
        columns = column_buffer[: nonzero_columns(x[source], column_buffer)]
        _write_nb_at_zeros(mu[i], theta_row, line, d_mu[target], d_theta[target])
        value, count_d_mu, count_d_theta = _gather_log_nb(mu[i], theta_row, columns, shared, x[source], buffer)
        for k in range(len(columns)):
            j = columns[k]
            line[j], d_mu[target, j], d_theta[target, j] = value[k], count_d_mu[k], count_d_theta[k]
        rows[i] = _sum(line)
        if not (is_theta and _is_in_domain(mu[i], theta, theta_row, buffer[4, : len(columns)])):
            rows[i] = np.nan
            d_mu[target], d_theta[target] = np.nan, np.nan


@compiled()
def negative_binomial(threads, mu, theta, x, rows, d_mu, d_theta):
    """Log-probabilities of NB(mu, theta) at counts that are mostly zero, summed over each row.

    ``mu`` is (n, g); ``theta`` is (n, g), or (1, g) for all rows; ``x`` holds the counts (m, g), and row i uses its row
    i % m. The results are written to ``rows`` (n,) and to the derivatives (n, g). Where derivatives are not needed,
    pass arrays (1, g): all threads write to them, so their content has no meaning.
    """
    run_in_threads(_nb_rows, threads, (threads, _shared_theta_terms(theta), mu, theta, x, rows, d_mu, d_theta))


@compiled()
def _zinb_rows(threads, shared, mu, theta, logits, x, rows, d_mu, d_theta, d_logits):
    n, g = mu.shape
    line, buffer, logits_buffer = np.empty(g, np.float32), np.empty((5, g), np.float32), np.empty(g, np.float32)
    column_buffer = np.empty(g, np.int64)
    start, stop = row_range(threads, n)
    is_theta = len(theta) > 1 or _all_above(theta[0], F(0.0))
    for i in range(start, stop):
        source, theta_row, target = i % len(x), theta[i % len(theta)], i % len(d_mu)
        columns = column_buffer[: nonzero_columns(x[source], column_buffer)]
        _write_zinb_at_zeros(mu[i], theta_row, logits[i], line, d_mu[target], d_theta[target], d_logits[target])
        value, count_d_mu, count_d_theta = _gather_log_nb(mu[i], theta_row, columns, shared, x[source], buffer)
        count_d_logits = logits_buffer[: len(columns)]
        for k in range(len(columns)):
            count_d_logits[k] = logits[i, columns[k]]
        _add_log_no_extra_zero(count_d_logits, value)
        for k in range(len(columns)):
            j = columns[k]
            line[j], d_mu[target, j], d_theta[target, j] = value[k], count_d_mu[k], count_d_theta[k]
            d_logits[target, j] = count_d_logits[k]
        rows[i] = _sum(line)
        if not (
            is_theta and _has_no_nan(logits[i]) and _is_in_domain(mu[i], theta, theta_row, buffer[4, : len(columns)])
        ):
            rows[i] = np.nan
            d_mu[target], d_theta[target], d_logits[target] = np.nan, np.nan, np.nan


@compiled()
def zero_inflated_negative_binomial(
    threads,
    mu,
    theta,
    logits,
    x,
    rows,
    d_mu,
    d_theta,
    d_logits,
):
    """`negative_binomial` with extra zeros of probability sigmoid(logits), (n, g); see `torch_kernels.ZeroInflated`."""
    arguments = (threads, _shared_theta_terms(theta), mu, theta, logits, x, rows, d_mu, d_theta, d_logits)
    run_in_threads(_zinb_rows, threads, arguments)
