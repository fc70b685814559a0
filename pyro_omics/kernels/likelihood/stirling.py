r"""Ratios of gamma functions for counts, and their derivatives, without gamma functions.

Of Stirling's series at arguments shifted by k, and the recurrence back from there:

.. math:: \log\Gamma(z) = (z - \tfrac12) \log Z - Z + \tfrac12 \log 2\pi + s(Z) - \log Q(Z), \quad Z = z + k, \;
    Q(Z) = \prod_{m=1}^k (1 - m / Z), \; s(Z) = \sum_i b_i Z^{1 - 2i}

It costs two logarithms where torch's lgamma and digamma cost sixteen and sixty-four exponentials, and holds for every
z > 0. In a count's log-probability what is large then cancels before it is rounded: float32 is closer to the truth
than by lgamma, and large dispersions need no other form.

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
SHIFT = {torch.float32: 3, torch.float64: 8}  # with so many terms, the first left out is below the rounding
TERMS = {torch.float32: 4, torch.float64: 7}


def series(inverse: Tensor) -> Tensor:
    """s(Z), from 1 / Z."""
    return _odd(inverse, SERIES[: TERMS[inverse.dtype]])


def series_slope(inverse: Tensor) -> Tensor:
    """The derivative of s at Z, from 1 / Z."""
    slopes = [-(2 * i + 1) * b for i, b in enumerate(SERIES[: TERMS[inverse.dtype]])]
    return _odd(inverse, slopes).mul_(inverse)


def _odd(w: Tensor, coefficients: Sequence[float]) -> Tensor:
    """c_0 w + c_1 w^3 + ..."""
    *rest, last = coefficients
    square = w * w
    total = square * last
    for c in reversed(rest[1:]):
        total.add_(c).mul_(square)
    return total.add_(rest[0]).mul_(w)


def back(inverse: Tensor, slope: bool = False) -> tuple[Tensor, Tensor | None]:
    """Q(Z), and if asked for the sum over m of 1 / (Z - m), from 1 / Z."""
    q = 1 - inverse
    total = inverse / q if slope else None
    for m in range(2, SHIFT[inverse.dtype] + 1):
        factor = torch.rsub(inverse, 1, alpha=m)
        q.mul_(factor)
        if total is not None:
            total.addcdiv_(inverse, factor)
    return q, total


def of_dispersion(theta: Tensor, slope: bool) -> tuple[Tensor, Tensor | None]:
    """What `of_shape` needs of theta alone: log Q(T) - s(T) with T = theta + k, and its derivative."""
    shift = SHIFT[theta.dtype]
    w = 1 / (theta + shift)
    q, total = theta * w, 1 / theta if slope else None
    for j in range(1, shift):  # not by `back`: theta may be far below 1
        factor = theta + j
        q.mul_(factor * w)
        if total is not None:
            total.add_(1 / factor)
    return q.log_().sub_(series(w)), None if total is None else total.sub_(series_slope(w)).add_(w, alpha=0.5)


class Factorial(NamedTuple):
    """-log x! = -x log V + x + log q + tail, with V = x + 1 + k."""

    v: Tensor
    q: Tensor
    tail: Tensor


def of_count(x: Tensor) -> Factorial:
    """What the densities at ``x`` need of x alone."""
    shift = SHIFT[x.dtype]
    v = x + (1 + shift)
    w = 1 / v
    q, _ = back(w)
    return Factorial(v, q.mul_(w.sqrt()), series(w).neg_().add_(1 + shift - 0.5 * math.log(2 * math.pi)))


class Shape(NamedTuple):
    """The part of log NB(x; mu, theta) that no mean is in, Z / V, and the part's derivative by theta."""

    value: Tensor
    ratio: Tensor
    slope: Tensor | None


def of_shape(x: Tensor, theta: Tensor, constants: tuple[Tensor, Tensor | None]) -> Shape:
    """What log NB at ``x`` > 0 needs of x and theta, with theta's constants `of_dispersion`."""
    constant, constant_slope = constants
    factorial = of_count(x)
    t = theta + SHIFT[x.dtype]
    z = t + x
    w = 1 / z
    log_z_t = torch.log1p(x / t)
    q, back_slope = back(w, constant_slope is not None)
    value = ((theta - 0.5) * log_z_t).add_(torch.div(factorial.q, q, out=q).log_())
    value.add_(series(w)).add_(factorial.tail).add_(constant)
    slope = None
    if constant_slope is not None and back_slope is not None:
        slope = log_z_t.add_(series_slope(w)).sub_(w, alpha=0.5).sub_(back_slope).add_(constant_slope)
    return Shape(value, z.div_(factorial.v), slope)


def of_shape_or_zero(x: Tensor, theta: Tensor, constants: tuple[Tensor, Tensor | None]) -> Shape:
    """`of_shape` for zeros as well, where there is no such part."""
    is_zero = x == 0
    value, ratio, slope = of_shape(x.masked_fill(is_zero, 1.0), theta, constants)
    return Shape(value.masked_fill_(is_zero, 0.0), ratio, None if slope is None else slope.masked_fill_(is_zero, 0.0))
