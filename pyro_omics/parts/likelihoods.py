"""Likelihoods: from a mean to a distribution over counts.

A likelihood is a PyroModule that owns its global parameters, names in ``heads`` what else it needs from the decoder,
and maps (mean, heads, batch) to a distribution. A new one is one class, and needs no edit elsewhere.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_omics import distributions as counts
from pyro_omics.batch import CellBatch
from pyro_omics.parts.base import Part, check_part
from pyro_omics.parts.dispersions import Dispersion, PerGene
from pyro_omics.sizes import Sizes


class Likelihood(Part):
    """p(x | mean, heads): made without sizes, and completed once by `build`."""

    own_heads: ClassVar[tuple[str, ...]] = ()

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the decoder outputs (each one number for a gene) that the likelihood needs beside the mean."""
        return self.own_heads

    def forward(self, mean: Tensor, heads: dict[str, Tensor], batch: CellBatch) -> TorchDistribution:
        """The distribution of the counts: batch shape (n,), event shape (g,)."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(mean, heads, batch)")

    def denoised(self, mean: Tensor, heads: dict[str, Tensor], batch: CellBatch) -> Tensor:
        """A draw of the rate beneath the counts (n, g): without counting noise, dropout or background."""
        return mean


class Poisson(Likelihood):
    """x_ng ~ Poisson(mean_ng)."""

    def forward(self, mean: Tensor, heads: dict[str, Tensor], batch: CellBatch) -> TorchDistribution:
        """Poisson(mean), event shape (g,)."""
        return counts.Poisson(mean).to_event(1)


class ZeroInflatedPoisson(Likelihood):
    """x_ng = 0 with probability sigmoid(dropout_logits_ng), else Poisson(mean_ng).

    Parameters
    ----------
    gate
        a fixed probability of the extra zero, in (0, 1), for every count; None takes the model's dropout logits.
    """

    def __init__(self, gate: float | None = None) -> None:
        super().__init__()
        self.gate = _checked_gate(gate)

    @property
    def heads(self) -> tuple[str, ...]:
        """The dropout logits, where the gate is not fixed."""
        return ("dropout_logits",) if self.gate is None else ()

    def forward(self, mean: Tensor, heads: dict[str, Tensor], batch: CellBatch) -> TorchDistribution:
        """ZeroInflatedPoisson(mean, dropout_logits), event shape (g,)."""
        return counts.ZeroInflatedPoisson(mean, _gate_logits(self.gate, heads, mean)).to_event(1)


class NegativeBinomial(Likelihood):
    """x_ng ~ NegativeBinomial(mean_ng, theta), variance mean + mean^2 / theta.

    Parameters
    ----------
    dispersion
        what theta is shared by; one theta for each gene when None.
    """

    def __init__(self, dispersion: Dispersion | None = None) -> None:
        super().__init__()
        self.dispersion = PerGene() if dispersion is None else check_part("dispersion", dispersion, Dispersion)

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the decoder outputs that the likelihood and its dispersion need."""
        return self.own_heads + self.dispersion.heads

    def build(self, sizes: Sizes) -> None:
        """Make theta for these sizes."""
        super().build(sizes)
        self.dispersion.build(sizes)

    def forward(self, mean: Tensor, heads: dict[str, Tensor], batch: CellBatch) -> TorchDistribution:
        """NegativeBinomial(mean, theta), event shape (g,)."""
        return counts.NegativeBinomial(mean, self.dispersion(heads, batch)).to_event(1)

    def denoised(self, mean: Tensor, heads: dict[str, Tensor], batch: CellBatch) -> Tensor:
        """A draw of the Gamma-distributed rate, mean ``mean`` and variance mean^2 / theta, (n, g)."""
        theta = self.dispersion(heads, batch).expand(mean.shape)
        return torch._standard_gamma(theta) * mean / theta


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """x_ng = 0 with probability sigmoid(dropout_logits_ng), else NegativeBinomial(mean_ng, theta): scVI's default.

    Parameters
    ----------
    dispersion
        what theta is shared by; one theta for each gene when None.
    gate
        a fixed probability of the extra zero, in (0, 1), for every count; None takes the model's dropout logits.
    """

    def __init__(self, dispersion: Dispersion | None = None, gate: float | None = None) -> None:
        super().__init__(dispersion)
        self.gate = _checked_gate(gate)

    @property
    def heads(self) -> tuple[str, ...]:
        """The dropout logits, where the gate is not fixed, and what the dispersion needs."""
        return (("dropout_logits",) if self.gate is None else ()) + self.dispersion.heads

    def forward(self, mean: Tensor, heads: dict[str, Tensor], batch: CellBatch) -> TorchDistribution:
        """ZeroInflatedNegativeBinomial(mean, theta, dropout_logits), event shape (g,)."""
        theta, gate = self.dispersion(heads, batch), _gate_logits(self.gate, heads, mean)
        return counts.ZeroInflatedNegativeBinomial(mean, theta, gate).to_event(1)


class NegativeBinomialMixture(NegativeBinomial):
    r"""Counts of a background, whose mean is given, or of a foreground above it: totalVI's proteins.

    .. math:: y_{nt} \sim \pi_{nt} \, \mathrm{NB}(\mathrm{mean}_{nt}, \theta)
        + (1 - \pi_{nt}) \, \mathrm{NB}(\alpha_{nt} \, \mathrm{mean}_{nt}, \theta)

    with alpha = 1 + relu(1 + foreground) and pi = sigmoid(background_logits), two outputs of the decoder.

    Parameters
    ----------
    dispersion
        what theta is shared by; one theta for each column when None.

    Source: Gayoso et al. 2021, Nature Methods 18, 272.
    """

    own_heads = ("foreground", "background_logits")

    def forward(self, mean: Tensor, heads: dict[str, Tensor], batch: CellBatch) -> TorchDistribution:
        """NegativeBinomialMixture(mean, alpha mean, theta, background_logits), event shape (t,)."""
        theta = self.dispersion(heads, batch)
        return counts.NegativeBinomialMixture(
            mean, self._foreground(mean, heads), theta, heads["background_logits"]
        ).to_event(1)

    def signal(self, mean: Tensor, heads: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """What background and foreground contribute to the expected counts, pi mean and (1 - pi) alpha mean, (n, t)."""
        pi = torch.sigmoid(heads["background_logits"])
        return pi * mean, (1 - pi) * self._foreground(mean, heads)

    def denoised(self, mean: Tensor, heads: dict[str, Tensor], batch: CellBatch) -> Tensor:
        """A draw of the foreground's rate, 0 where the draw is of the background, (n, t)."""
        rate = super().denoised(self._foreground(mean, heads), heads, batch)
        return rate * torch.bernoulli(torch.sigmoid(-heads["background_logits"]))

    def _foreground(self, mean: Tensor, heads: dict[str, Tensor]) -> Tensor:
        # Started at alpha = 2 or so: where relu's argument is negative in all cells, no gradient would bring it back.
        return mean * (1 + torch.relu(1 + heads["foreground"]))


def _checked_gate(gate: float | None) -> float | None:
    if gate is not None and not 0 < gate < 1:
        raise ValueError(f"gate is a probability in (0, 1), and is {gate}: without extra zeros, use a plain likelihood")
    return gate


def _gate_logits(gate: float | None, heads: dict[str, Tensor], mean: Tensor) -> Tensor:
    return heads["dropout_logits"] if gate is None else torch.full_like(mean, math.log(gate / (1 - gate)))
