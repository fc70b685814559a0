"""Rows' log-probabilities: a family over the zeros of a matrix, and over its stored counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from pyro_omics.kernels import gamma
from pyro_omics.kernels.counts import Counts
from pyro_omics.kernels.families import Family, NegativeBinomial, Poisson, Slopes, at_mean

UNDERFLOW = -80.0  # sigmoid of less is no float32


class Kernel(Protocol):
    """Sums over rows, with the derivatives of each entry.

    Attributes
    ----------
    by_column
        which parameters may be (g,), where all rows share them.
    """

    by_column: tuple[int, ...]

    def __call__(self, counts: Counts, parameters: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Slopes]:
        """The rows' log-probabilities (n,), and the derivative of each entry by each parameter wanted, (n, g).

        Parameters
        ----------
        counts
            (n, g).
        parameters
            (n, g) each; theta may be (g,).
        wanted
            of which parameters the derivative is asked for; the others' are None.
        """


class Plain:
    """A family as it is."""

    by_column = (1,)

    def __init__(self, family: Family) -> None:
        self.family = family

    def __call__(self, counts: Counts, parameters: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Slopes]:
        """log p(0) everywhere, and then the counts in their places."""
        deficit, slopes = self.family.zeros(parameters, wanted)
        value, count_slopes = self.family.stored(counts, parameters, wanted)
        slopes = [s.neg_() if s is not None and asked else None for s, asked in zip(slopes, wanted, strict=True)]
        _place(slopes, counts, count_slopes)
        return put(deficit.neg_(), counts, value).sum(-1), slopes


class ZeroInflated:
    """A family with an extra zero of probability sigmoid(logits); the logits (n, g) are its last parameter."""

    by_column = (1,)

    def __init__(self, family: Family) -> None:
        self.family = family

    def __call__(self, counts: Counts, parameters: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Slopes]:
        """With pi = sigmoid(logits) and v = P(extra zero | zero) = sigmoid(logits - log p(0)): P(0) = pi / v.

        Its derivatives are v - pi by the logits, and 1 - v of the family's by the others; at a count, v is 0.
        """
        *own, logits = parameters
        *own_wanted, logits_wanted = wanted
        deficit, slopes = self.family.zeros(own, own_wanted)
        value, count_slopes = self.family.stored(counts, own, own_wanted)
        value.sub_(softplus(counts.of(logits)))
        log_zero, pi, v = _log_zero(logits, deficit.add_(logits))
        if any(wanted):
            put(v, counts, torch.zeros_like(value))
        by_logits = torch.sub(v, pi, out=pi) if logits_wanted else None
        if any(own_wanted):
            rest = v.sub_(1)
            slopes = [s.mul_(rest) if s is not None and ask else None for s, ask in zip(slopes, own_wanted, strict=True)]
            _place(slopes, counts, count_slopes)
        return put(log_zero, counts, value).sum(-1), [*slopes, by_logits]


def _log_zero(logits: Tensor, shifted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log(pi / v), pi and v: the sigmoids of the logits, and of the logits - log p(0), which are never below them."""
    pi = torch.sigmoid(logits)
    # A GPU would have to be waited for; there, the logarithms cost nothing.
    if logits.device.type == "cpu" and bool(logits.amin() > UNDERFLOW):
        v = shifted.sigmoid_()
        return torch.div(pi, v).log_(), pi, v
    return logsigmoid(logits) - logsigmoid(shifted), pi, torch.sigmoid(shifted)


class Mixture:
    """Two negative binomials: mu_background, mu_foreground, theta, and the background's logits.

    For counts most of which are not zero: all entries are treated alike.
    """

    by_column = (2,)

    def __call__(self, counts: Counts, parameters: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Slopes]:
        """With w = P(background | y): w and 1 - w of the components' derivatives, and w - pi by the logits."""
        low, high, theta, logits = parameters
        x = counts.matrix
        shape = gamma.of_shape(x, theta, gamma.of_dispersion(theta, wanted[2]))
        log_low, low_slopes = at_mean(x, low, theta, shape, (wanted[0], wanted[2]))
        log_high, high_slopes = at_mean(x, high, theta, shape, (wanted[1], wanted[2]))
        odds = log_low - log_high + logits
        # log(pi low + (1 - pi) high)
        value = log_high.add_(softplus(odds)).sub_(softplus(logits))
        w = torch.sigmoid(odds)
        rest = torch.sigmoid(odds.neg_())
        by_theta = None
        if low_slopes[1] is not None and high_slopes[1] is not None:
            by_theta = torch.lerp(high_slopes[1], low_slopes[1], w)
        by_logits = w - torch.sigmoid(logits) if wanted[3] else None
        by_low = None if low_slopes[0] is None else low_slopes[0].mul_(w)
        by_high = None if high_slopes[0] is None else high_slopes[0].mul_(rest)
        return value.sum(-1), [by_low, by_high, by_theta, by_logits]


def put(matrix: Tensor, counts: Counts, value: Tensor) -> Tensor:
    """``matrix`` (n, g), contiguous, with the values of stored counts in their places."""
    matrix.view(-1).scatter_(0, counts.position, value)
    return matrix


def _place(slopes: Slopes, counts: Counts, count_slopes: Slopes) -> None:
    for slope, values in zip(slopes, count_slopes, strict=True):
        if slope is not None and values is not None:
            put(slope, counts, values)


POISSON = Plain(Poisson())
NEGATIVE_BINOMIAL = Plain(NegativeBinomial())
ZERO_INFLATED_POISSON = ZeroInflated(Poisson())
ZERO_INFLATED_NEGATIVE_BINOMIAL = ZeroInflated(NegativeBinomial())
NEGATIVE_BINOMIAL_MIXTURE = Mixture()
