"""Log-probabilities of counts, and their derivatives by the parameters, at zeros and at the non-zero counts.

The probability of a zero takes no gamma function, and most entries are zeros: ``at_zeros`` is of whole matrices, and
``at_counts`` of the non-zero entries alone. Derivatives that are not needed are None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from pyro_omics.kernels.likelihood import stirling
from pyro_omics.kernels.likelihood.sparse_counts import Counts
from pyro_omics.kernels.likelihood.stirling import EPS

Slopes = list[Tensor | None]


class Family(Protocol):
    """A distribution over counts."""

    def at_zeros(self, parameters: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Slopes]:
        """-log p(0) of each entry (n, g), in a new tensor; its derivatives by the parameters, not to be written to."""

    def at_counts(self, counts: Counts, parameters: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Slopes]:
        """The log-probability of each non-zero count (nnz,), and its derivative by each parameter."""


class NegativeBinomial:
    """Parameters mu (n, g) and theta, (g,) or (n, g); 1e-8 in logarithms as `distributions.NegativeBinomial` has it."""

    def at_zeros(self, parameters: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Slopes]:
        """Of theta log(1 + mu / theta): c = theta / (theta + mu), and log(1 + mu / theta) - c mu / theta."""
        mu, theta = parameters
        by_mu, by_theta = wanted
        floored = theta + EPS
        ratio = mu / floored
        log_ratio = torch.log1p(ratio)
        slopes: Slopes = [None, None]
        if by_mu or by_theta:
            slopes[0] = c = torch.add(mu, floored)
            torch.div(theta, c, out=c)
            if by_theta:
                slopes[1] = torch.addcmul(log_ratio, c, ratio, value=-1, out=ratio)
        return log_ratio.mul_(theta), slopes

    def at_counts(self, counts: Counts, parameters: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Slopes]:
        """By `stirling.of_shape` and `at_mean`."""
        mu, theta = (counts.of(p) for p in parameters)
        if parameters[1].ndim == 1:  # once a column, and not once a count
            value, slope = stirling.of_dispersion(parameters[1], wanted[1])
            constants = counts.of(value), None if slope is None else counts.of(slope)
        else:
            constants = stirling.of_dispersion(theta, wanted[1])
        return at_mean(counts.x, mu, theta, stirling.of_shape(counts.x, theta, constants), wanted)


def at_mean(
    x: Tensor, mu: Tensor, theta: Tensor, shape: stirling.Shape, wanted: Sequence[bool]
) -> tuple[Tensor, Slopes]:
    """The log-probability of x and its derivatives by mu and theta, given what is known of x and theta alone."""
    floored = theta + EPS
    mean, total = mu + EPS, floored + mu
    ratio = mu / floored
    log_ratio = torch.log1p(ratio)
    value = (shape.ratio / total).mul_(mean).log_().mul_(x).addcmul_(theta, log_ratio, value=-1).add_(shape.value)
    slopes: Slopes = [None, None]
    if wanted[0]:
        slopes[0] = (x / mean).sub_((x + theta).div_(total))
    if wanted[1] and shape.slope is not None:
        slopes[1] = ratio.mul_(theta).sub_(x).div_(total).sub_(log_ratio).add_(shape.slope)
    return value, slopes


class Poisson:
    """Parameter rate (n, g), > 0."""

    def at_zeros(self, parameters: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Slopes]:
        """The rate, and 1."""
        (rate,) = parameters
        return rate.clone(), [rate.new_ones(()).expand_as(rate) if wanted[0] else None]

    def at_counts(self, counts: Counts, parameters: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Slopes]:
        """Of x log rate - rate - log x!: x / rate - 1."""
        x, rate = counts.x, counts.of(parameters[0])
        v, q, tail = stirling.of_count(x)
        value = (rate / v).log_().mul_(x).add_(x - rate).add_(q.log_()).add_(tail)
        return value, [(x / rate).sub_(1) if wanted[0] else None]
