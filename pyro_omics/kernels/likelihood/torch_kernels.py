"""Kernels in torch operations: one formula for zeros over the whole matrix, one for counts at non-zero entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from pyro_omics.kernels import dispatch
from pyro_omics.kernels.likelihood import stirling
from pyro_omics.kernels.likelihood.densities import Family, Poisson, Slopes, at_mean
from pyro_omics.kernels.likelihood.sparse_counts import Counts

UNDERFLOW = -80.0  # sigmoid of less is no float32


class Kernel(Protocol):
    """Sums over rows, with the derivatives of each entry.

    Attributes
    ----------
    by_column
        positions, among the parameters, of those that may be (g,) where all rows share them.
    """

    by_column: tuple[int, ...]

    def smallest(self, like: Tensor) -> tuple[int, int]:
        """The number of entries and of columns from which it is faster than the elementwise formula."""

    def __call__(self, counts: Counts, parameters: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Slopes]:
        """The rows' log-probabilities (n,), and the derivative of each entry by each parameter wanted, (n, g).

        Parameters
        ----------
        counts
            (n, g).
        parameters
            (n, g) each; theta may be (g,).
        wanted
            for each parameter, whether its derivative is needed; those that are not are None.
        """


class TorchKernel:
    """What kernels in torch operations share."""

    def smallest(self, like: Tensor) -> tuple[int, int]:
        """The number of entries and of columns that pay for a hundred operations."""
        return dispatch.MIN_ENTRIES, dispatch.MIN_COLUMNS


class FamilyKernel(TorchKernel):
    """A family of distributions, without extra zeros."""

    by_column: tuple[int, ...] = (1,)

    def __init__(self, family: Family) -> None:
        self.family = family

    def __call__(self, counts: Counts, parameters: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Slopes]:
        """The formula for zeros everywhere, and that for counts written over it at the non-zero entries."""
        value, at_counts = self.family.at_counts(counts, parameters, wanted)
        value.neg_()
        rows, slopes = _results(counts, parameters, wanted)
        for block in counts.blocks():
            deficit, at_zeros = self.family.at_zeros([block.of(p) for p in parameters], wanted)
            torch.sum(block.put(deficit, value), -1, out=rows[block.rows])
            for slope, zeros, nonzero in zip(slopes, at_zeros, at_counts, strict=True):
                if slope is not None and zeros is not None and nonzero is not None:
                    block.put(torch.neg(zeros, out=slope[block.rows]), nonzero)
        return rows.neg_(), slopes


class ZeroInflated(TorchKernel):
    """A family with an extra zero of probability sigmoid(logits); the logits (n, g) are its last parameter."""

    by_column: tuple[int, ...] = (1,)

    def __init__(self, family: Family) -> None:
        self.family = family

    def __call__(self, counts: Counts, parameters: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Slopes]:
        """With pi = sigmoid(logits) and v = P(extra zero | zero) = sigmoid(logits - log p(0)): P(0) = pi / v.

        Its derivatives are v - pi by the logits, and 1 - v of the family's by the others; at a count, v is 0.
        """
        *own, logits = parameters
        value, at_counts = self.family.at_counts(counts, own, wanted[:-1])
        value.sub_(softplus(counts.of(logits)))
        none = torch.zeros_like(value)
        rows, slopes = _results(counts, parameters, wanted)
        for block in counts.blocks():
            deficit, at_zeros = self.family.at_zeros([block.of(p) for p in own], wanted[:-1])
            log_zero, pi, v = _log_zero(block.of(logits), deficit.add_(block.of(logits)))
            torch.sum(block.put(log_zero, value), -1, out=rows[block.rows])
            if not any(wanted):
                continue
            block.put(v, none)
            if slopes[-1] is not None:
                torch.sub(v, pi, out=slopes[-1][block.rows])
            rest = v.sub_(1)
            for slope, zeros, nonzero in zip(slopes, at_zeros, at_counts, strict=False):
                if slope is not None and zeros is not None and nonzero is not None:
                    block.put(torch.mul(zeros, rest, out=slope[block.rows]), nonzero)
        return rows, slopes


def _results(counts: Counts, parameters: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Slopes]:
    """Room for the rows' log-probabilities (n,) and for the derivatives (n, g) that are wanted."""
    like, n = parameters[0], counts.n_rows
    return like.new_empty(n), [like.new_empty(n, counts.shape[-1]) if is_wanted else None for is_wanted in wanted]


def _log_zero(logits: Tensor, shifted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log(pi / v), pi and v: the sigmoids of the logits, and of the logits - log p(0), which are never below them."""
    pi = torch.sigmoid(logits)
    # A GPU would have to be waited for; there, the logarithms cost nothing.
    if logits.device.type == "cpu" and bool(logits.amin() > UNDERFLOW):
        v = shifted.sigmoid_()
        return torch.div(pi, v).log_(), pi, v
    return logsigmoid(logits) - logsigmoid(shifted), pi, torch.sigmoid(shifted)


class Mixture(TorchKernel):
    """Two negative binomials: mu_background, mu_foreground, theta, and the background's logits.

    For counts most of which are not zero: all entries are treated alike.
    """

    by_column: tuple[int, ...] = (2,)

    def __call__(self, counts: Counts, parameters: Sequence[Tensor], wanted: Sequence[bool]) -> tuple[Tensor, Slopes]:
        """With w = P(background | y): w and 1 - w of the components' derivatives, and w - pi by the logits."""
        low, high, theta, logits = parameters
        x = counts.matrix
        shape = stirling.of_shape_or_zero(x, theta, stirling.of_dispersion(theta, wanted[2]))
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


POISSON = FamilyKernel(Poisson())
ZERO_INFLATED_POISSON = ZeroInflated(Poisson())
