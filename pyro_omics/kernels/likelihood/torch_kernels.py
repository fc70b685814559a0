"""Kernels in torch operations: the formula for zeros on the whole matrix, and that for counts at non-zero entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from pyro_omics.kernels import dispatch
from pyro_omics.kernels.likelihood import stirling
from pyro_omics.kernels.likelihood.densities import Derivatives, Family, Poisson, log_nb
from pyro_omics.kernels.likelihood.sparse_counts import Counts

UNDERFLOW = -80.0  # the sigmoid of a smaller number may underflow float32


class Kernel(Protocol):
    """Log-probabilities of counts summed over rows, with the derivatives of each entry.

    Attributes
    ----------
    by_column
        positions of the parameters that may be (g,), if all rows share them.
    """

    by_column: tuple[int, ...]

    def smallest(self, like: Tensor) -> tuple[int, int]:
        """The number of entries and of columns from which the kernel is faster than the elementwise formula."""

    def __call__(
        self, counts: Counts, parameters: Sequence[Tensor], needs_grad: Sequence[bool]
    ) -> tuple[Tensor, Derivatives]:
        """Log-probabilities of the rows (n,), and derivatives of the entries with respect to each parameter (n, g).

        Parameters
        ----------
        counts
            (n, g).
        parameters
            (n, g) each, or (g,) for those of ``by_column``.
        needs_grad
            for each parameter, whether its derivative is needed; the others are None.
        """


class TorchKernel:
    """Base class of kernels in torch operations."""

    def smallest(self, like: Tensor) -> tuple[int, int]:
        """The number of entries and of columns from which a hundred torch operations are faster."""
        return dispatch.MIN_ENTRIES, dispatch.MIN_COLUMNS


class FamilyKernel(TorchKernel):
    """Kernel of a family of distributions, without extra zeros."""

    by_column: tuple[int, ...] = (1,)

    def __init__(self, family: Family) -> None:
        self.family = family

    def __call__(
        self, counts: Counts, parameters: Sequence[Tensor], needs_grad: Sequence[bool]
    ) -> tuple[Tensor, Derivatives]:
        """Compute the formula for zeros at all entries, and overwrite it with that for counts at the non-zero ones."""
        value, at_counts = self.family.at_counts(counts, parameters, needs_grad)
        value.neg_()
        rows, derivatives = _results(counts, parameters, needs_grad)
        for block in counts.blocks():
            deficit, at_zeros = self.family.at_zeros([block.rows_of(p) for p in parameters], needs_grad)
            torch.sum(block.write_nonzero(deficit, value), -1, out=rows[block.rows])
            for derivative, zeros, nonzero in zip(derivatives, at_zeros, at_counts, strict=True):
                if derivative is not None and zeros is not None and nonzero is not None:
                    block.write_nonzero(torch.neg(zeros, out=derivative[block.rows]), nonzero)
        return rows.neg_(), derivatives


class ZeroInflated(TorchKernel):
    """Kernel of a family with extra zeros of probability sigmoid(logits); the logits (n, g) are the last parameter."""

    by_column: tuple[int, ...] = (1,)

    def __init__(self, family: Family) -> None:
        self.family = family

    def __call__(
        self, counts: Counts, parameters: Sequence[Tensor], needs_grad: Sequence[bool]
    ) -> tuple[Tensor, Derivatives]:
        """P(0) = pi / v, with pi = sigmoid(logits) and v = P(extra zero | zero) = sigmoid(logits - log p(0)).

        The derivative of log P(0) with respect to the logits is v - pi; with respect to the other parameters it is
        1 - v times the family's. At a non-zero count, v is 0.
        """
        *own, logits = parameters
        value, at_counts = self.family.at_counts(counts, own, needs_grad[:-1])
        value.sub_(softplus(counts.at_nonzero(logits)))
        none = torch.zeros_like(value)
        rows, derivatives = _results(counts, parameters, needs_grad)
        for block in counts.blocks():
            deficit, at_zeros = self.family.at_zeros([block.rows_of(p) for p in own], needs_grad[:-1])
            log_zero, pi, v = _log_zero(block.rows_of(logits), deficit.add_(block.rows_of(logits)))
            torch.sum(block.write_nonzero(log_zero, value), -1, out=rows[block.rows])
            if not any(needs_grad):
                continue
            block.write_nonzero(v, none)
            if derivatives[-1] is not None:
                torch.sub(v, pi, out=derivatives[-1][block.rows])
            rest = v.sub_(1)
            for derivative, zeros, nonzero in zip(derivatives, at_zeros, at_counts, strict=False):
                if derivative is not None and zeros is not None and nonzero is not None:
                    block.write_nonzero(torch.mul(zeros, rest, out=derivative[block.rows]), nonzero)
        return rows, derivatives


def _results(counts: Counts, parameters: Sequence[Tensor], needs_grad: Sequence[bool]) -> tuple[Tensor, Derivatives]:
    """Empty tensors for the log-probabilities of the rows (n,) and for the derivatives (n, g) that are needed."""
    like, n = parameters[0], counts.n_rows
    return like.new_empty(n), [like.new_empty(n, counts.shape[-1]) if is_needed else None for is_needed in needs_grad]


def _log_zero(logits: Tensor, shifted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log(pi / v), pi and v, from ``logits`` and ``shifted`` = logits - log p(0), which is never below them."""
    pi = torch.sigmoid(logits)
    # Not on a GPU, where the comparison would wait for the device and the logarithms cost nothing.
    if logits.device.type == "cpu" and bool(logits.amin() > UNDERFLOW):
        v = shifted.sigmoid_()
        return torch.div(pi, v).log_(), pi, v
    return logsigmoid(logits) - logsigmoid(shifted), pi, torch.sigmoid(shifted)


class Mixture(TorchKernel):
    """Kernel of a mixture of two negative binomials: mu_background, mu_foreground, theta, logits of the background.

    One formula serves all entries, because most counts of proteins are not zero.
    """

    by_column: tuple[int, ...] = (2,)

    def __call__(
        self, counts: Counts, parameters: Sequence[Tensor], needs_grad: Sequence[bool]
    ) -> tuple[Tensor, Derivatives]:
        """With w = P(background | y), the derivatives are w and 1 - w times those of the components, and w - pi."""
        low, high, theta, logits = parameters
        x = counts.matrix
        coefficient = stirling.log_coefficient_or_zero(x, theta, stirling.theta_terms(theta, needs_grad[2]))
        log_low, low_derivatives = log_nb(x, low, theta, coefficient, (needs_grad[0], needs_grad[2]))
        log_high, high_derivatives = log_nb(x, high, theta, coefficient, (needs_grad[1], needs_grad[2]))
        odds = log_low - log_high + logits
        # log(pi low + (1 - pi) high)
        value = log_high.add_(softplus(odds)).sub_(softplus(logits))
        w = torch.sigmoid(odds)
        rest = torch.sigmoid(odds.neg_())
        d_theta = None
        if low_derivatives[1] is not None and high_derivatives[1] is not None:
            d_theta = torch.lerp(high_derivatives[1], low_derivatives[1], w)
        d_logits = w - torch.sigmoid(logits) if needs_grad[3] else None
        d_low = None if low_derivatives[0] is None else low_derivatives[0].mul_(w)
        d_high = None if high_derivatives[0] is None else high_derivatives[0].mul_(rest)
        return value.sum(-1), [d_low, d_high, d_theta, d_logits]


POISSON = FamilyKernel(Poisson())
ZERO_INFLATED_POISSON = ZeroInflated(Poisson())
