r"""Ratios of gamma functions for counts, and their derivatives, without gamma functions.

Stirling's series at an argument shifted by k, and the recurrence that undoes the shift:

.. math:: \log\Gamma(z) = (z - \tfrac12) \log Z - Z + \tfrac12 \log 2\pi + s(Z) - \log Q(Z), \quad Z = z + k, \;
    Q(Z) = \prod_{m=1}^k (1 - m / Z), \; s(Z) = \sum_i b_i Z^{1 - 2i}

It costs two logarithms, where torch's lgamma and digamma cost sixteen and sixty-four exponentials, and holds for every
z > 0. The large terms of a count's log-probability cancel before they are rounded: in float32 it is more accurate than
lgamma, and large inverse dispersions need no other formula.

Source: Abramowitz and Stegun 1964, 6.1.15, 6.1.41 and 6.3.18.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-8
SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
SHIFT = {torch.float32: 3, torch.float64: 8}  # with `TERMS` terms, the first term left out is below the rounding error
TERMS = {torch.float32: 4, torch.float64: 7}


def series(inverse: Tensor) -> Tensor:
    """s(Z) from 1 / Z."""
    return _odd_polynomial(inverse, SERIES[: TERMS[inverse.dtype]])


def series_derivative(inverse: Tensor) -> Tensor:
    """Derivative of s at Z, from 1 / Z."""
    derivatives = [-(2 * i + 1) * b for i, b in enumerate(SERIES[: TERMS[inverse.dtype]])]
    return _odd_polynomial(inverse, derivatives).mul_(inverse)


def _odd_polynomial(w: Tensor, coefficients: Sequence[float]) -> Tensor:
    """c_0 w + c_1 w^3 + ..."""
    *rest, last = coefficients
    square = w * w
    total = square * last
    for c in reversed(rest[1:]):
        total.add_(c).mul_(square)
    return total.add_(rest[0]).mul_(w)


def shift_product(inverse: Tensor, derivative: bool = False) -> tuple[Tensor, Tensor | None]:
    """Q(Z) from 1 / Z and, if ``derivative``, the sum over m of 1 / (Z - m), the derivative of log(Q(Z) Z^k)."""
    q = 1 - inverse
    total = inverse / q if derivative else None
    for m in range(2, SHIFT[inverse.dtype] + 1):
        factor = torch.rsub(inverse, 1, alpha=m)
        q.mul_(factor)
        if total is not None:
            total.addcdiv_(inverse, factor)
    return q, total


def theta_terms(theta: Tensor, derivative: bool) -> tuple[Tensor, Tensor | None]:
    """Terms in theta alone of `log_coefficient`, log Q(T) - s(T) with T = theta + k, and of its derivative."""
    shift = SHIFT[theta.dtype]
    w = 1 / (theta + shift)
    q, total = theta * w, 1 / theta if derivative else None
    for j in range(1, shift):  # not with `shift_product`, which loses digits where theta is far below 1
        factor = theta + j
        q.mul_(factor * w)
        if total is not None:
            total.add_(1 / factor)
    return q.log_().sub_(series(w)), None if total is None else total.sub_(series_derivative(w)).add_(w, alpha=0.5)


class FactorialTerms(NamedTuple):
    """-log x! = -x log V + x + log q + tail, with V = x + 1 + k."""

    v: Tensor
    q: Tensor
    tail: Tensor


def factorial_terms(x: Tensor) -> FactorialTerms:
    """Terms of -log x!."""
    shift = SHIFT[x.dtype]
    v = x + (1 + shift)
    w = 1 / v
    q, _ = shift_product(w)
    return FactorialTerms(v, q.mul_(w.sqrt()), series(w).neg_().add_(1 + shift - 0.5 * math.log(2 * math.pi)))


class LogCoefficient(NamedTuple):
    """The logarithm of the binomial coefficient in NB(x; mu, theta), Gamma(x + theta) / (Gamma(theta) x!).

    Attributes
    ----------
    value
        the logarithm, without its term x log(Z / V).
    ratio
        Z / V.
    derivative
        of the logarithm with respect to theta, or None.
    """

    value: Tensor
    ratio: Tensor
    derivative: Tensor | None


def log_coefficient(x: Tensor, theta: Tensor, constants: tuple[Tensor, Tensor | None]) -> LogCoefficient:
    """The binomial coefficient at ``x`` > 0; ``constants`` are the `theta_terms`."""
    constant, constant_derivative = constants
    factorial = factorial_terms(x)
    t = theta + SHIFT[x.dtype]
    z = t + x
    w = 1 / z
    log_z_over_t = torch.log1p(x / t)
    q, product_derivative = shift_product(w, constant_derivative is not None)
    value = ((theta - 0.5) * log_z_over_t).add_(torch.div(factorial.q, q, out=q).log_())
    value.add_(series(w)).add_(factorial.tail).add_(constant)
    derivative = None
    if constant_derivative is not None and product_derivative is not None:
        derivative = log_z_over_t.add_(series_derivative(w)).sub_(w, alpha=0.5)
        derivative.sub_(product_derivative).add_(constant_derivative)
    return LogCoefficient(value, z.div_(factorial.v), derivative)


def log_coefficient_or_zero(x: Tensor, theta: Tensor, constants: tuple[Tensor, Tensor | None]) -> LogCoefficient:
    """`log_coefficient` for ``x`` >= 0; it is 0 where x = 0."""
    is_zero = x == 0
    value, ratio, derivative = log_coefficient(x.masked_fill(is_zero, 1.0), theta, constants)
    return LogCoefficient(
        value.masked_fill_(is_zero, 0.0), ratio, None if derivative is None else derivative.masked_fill_(is_zero, 0.0)
    )
