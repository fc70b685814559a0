"""Log-probabilities of counts at zeros and at non-zero counts, with derivatives with respect to the parameters.

Most entries are zeros, whose probability takes no gamma function: ``at_zeros`` is computed for the whole matrix, and
``at_counts`` for the non-zero entries only. Derivatives that are not needed are None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from pyro_omics.kernels.likelihood import stirling
from pyro_omics.kernels.likelihood.sparse_counts import Counts
from pyro_omics.kernels.likelihood.stirling import EPS

Derivatives = list[Tensor | None]


class Family(Protocol):
    """A family of distributions over counts."""

    def at_zeros(self, parameters: Sequence[Tensor], needs_grad: Sequence[bool]) -> tuple[Tensor, Derivatives]:
        """-log p(0) of each entry (n, g), in a new tensor, and its derivatives, which must not be written to."""

    def at_counts(
        self, counts: Counts, parameters: Sequence[Tensor], needs_grad: Sequence[bool]
    ) -> tuple[Tensor, Derivatives]:
        """Log-probability of each non-zero count (nnz,), and its derivatives with respect to the parameters."""


class NegativeBinomial:
    """Parameters mu (n, g) and theta, (g,) or (n, g); 1e-8 is added as in `distributions.NegativeBinomial`."""

    def at_zeros(self, parameters: Sequence[Tensor], needs_grad: Sequence[bool]) -> tuple[Tensor, Derivatives]:
        """-log p(0) = theta log(1 + mu / theta).

        Its derivatives are c = theta / (theta + mu) and log(1 + mu / theta) - c mu / theta.
        """
        mu, theta = parameters
        needs_mu, needs_theta = needs_grad
        floored = theta + EPS
        ratio = mu / floored
        log_ratio = torch.log1p(ratio)
        derivatives: Derivatives = [None, None]
        if needs_mu or needs_theta:
            derivatives[0] = c = torch.add(mu, floored)
            torch.div(theta, c, out=c)
            if needs_theta:
                derivatives[1] = torch.addcmul(log_ratio, c, ratio, value=-1, out=ratio)
        return log_ratio.mul_(theta), derivatives

    def at_counts(
        self, counts: Counts, parameters: Sequence[Tensor], needs_grad: Sequence[bool]
    ) -> tuple[Tensor, Derivatives]:
        """See `stirling.log_coefficient` and `log_nb`."""
        mu, theta = (counts.at_nonzero(p) for p in parameters)
        if parameters[1].ndim == 1:  # once for a column, not for each count
            value, derivative = stirling.theta_terms(parameters[1], needs_grad[1])
            constants = counts.at_nonzero(value), None if derivative is None else counts.at_nonzero(derivative)
        else:
            constants = stirling.theta_terms(theta, needs_grad[1])
        return log_nb(counts.x, mu, theta, stirling.log_coefficient(counts.x, theta, constants), needs_grad)


def log_nb(
    x: Tensor, mu: Tensor, theta: Tensor, coefficient: stirling.LogCoefficient, needs_grad: Sequence[bool]
) -> tuple[Tensor, Derivatives]:
    """Log NB at x > 0 and its derivatives with respect to mu and theta, from its binomial coefficient."""
    floored = theta + EPS
    mean, total = mu + EPS, floored + mu
    ratio = mu / floored
    log_ratio = torch.log1p(ratio)
    value = (coefficient.ratio / total).mul_(mean).log_().mul_(x)
    value.addcmul_(theta, log_ratio, value=-1).add_(coefficient.value)
    derivatives: Derivatives = [None, None]
    if needs_grad[0]:
        derivatives[0] = (x / mean).sub_((x + theta).div_(total))
    if needs_grad[1] and coefficient.derivative is not None:
        derivatives[1] = ratio.mul_(theta).sub_(x).div_(total).sub_(log_ratio).add_(coefficient.derivative)
    return value, derivatives


class Poisson:
    """Parameter rate (n, g), > 0."""

    def at_zeros(self, parameters: Sequence[Tensor], needs_grad: Sequence[bool]) -> tuple[Tensor, Derivatives]:
        """-log p(0) = rate; its derivative is 1."""
        (rate,) = parameters
        return rate.clone(), [rate.new_ones(()).expand_as(rate) if needs_grad[0] else None]

    def at_counts(
        self, counts: Counts, parameters: Sequence[Tensor], needs_grad: Sequence[bool]
    ) -> tuple[Tensor, Derivatives]:
        """Log p(x) = x log rate - rate - log x!; its derivative is x / rate - 1."""
        x, rate = counts.x, counts.at_nonzero(parameters[0])
        v, q, tail = stirling.factorial_terms(x)
        value = (rate / v).log_().mul_(x).add_(x - rate).add_(q.log_()).add_(tail)
        return value, [(x / rate).sub_(1) if needs_grad[0] else None]
