"""Likelihoods with extra zeros: `ZeroInflatedPoisson` and `ZeroInflatedNegativeBinomial`."""

from __future__ import annotations

import math

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_omics import distributions as counts
from pyro_omics.batch import CellBatch
from pyro_omics.parts.dispersions import Dispersion
from pyro_omics.parts.likelihoods.base import Likelihood
from pyro_omics.parts.likelihoods.negative_binomial import NegativeBinomial


class ZeroInflatedPoisson(Likelihood):
    """x_ng = 0 with probability sigmoid(dropout_logits_ng), else Poisson(mean_ng).

    Parameters
    ----------
    gate
        fixed probability of an extra zero, in (0, 1), for every count; None uses the model's dropout logits.
    """

    def __init__(self, gate: float | None = None) -> None:
        super().__init__()
        self.gate = _check_gate(gate)

    @property
    def heads(self) -> tuple[str, ...]:
        """The dropout logits, unless the gate is fixed."""
        return ("dropout_logits",) if self.gate is None else ()

    def forward(self, mean: Tensor, heads: dict[str, Tensor], batch: CellBatch) -> TorchDistribution:
        """ZeroInflatedPoisson(mean, dropout_logits), event shape (g,)."""
        return counts.ZeroInflatedPoisson(mean, _gate_logits(self.gate, heads, mean)).to_event(1)


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """x_ng = 0 with probability sigmoid(dropout_logits_ng), else NegativeBinomial(mean_ng, theta): scVI's default.

    Parameters
    ----------
    dispersion
        of theta, see `dispersions`; by default one theta for each gene.
    gate
        fixed probability of an extra zero, in (0, 1), for every count; None uses the model's dropout logits.
    """

    def __init__(self, dispersion: Dispersion | None = None, gate: float | None = None) -> None:
        super().__init__(dispersion)
        self.gate = _check_gate(gate)

    @property
    def heads(self) -> tuple[str, ...]:
        """The dropout logits, unless the gate is fixed, and the outputs that the dispersion needs."""
        return (("dropout_logits",) if self.gate is None else ()) + self.dispersion.heads

    def forward(self, mean: Tensor, heads: dict[str, Tensor], batch: CellBatch) -> TorchDistribution:
        """ZeroInflatedNegativeBinomial(mean, theta, dropout_logits), event shape (g,)."""
        theta, gate = self.dispersion(heads, batch), _gate_logits(self.gate, heads, mean)
        return counts.ZeroInflatedNegativeBinomial(mean, theta, gate).to_event(1)


def _check_gate(gate: float | None) -> float | None:
    if gate is not None and not 0 < gate < 1:
        raise ValueError(
            f"gate must be a probability in (0, 1); got {gate}: for no extra zeros use a likelihood without a gate"
        )
    return gate


def _gate_logits(gate: float | None, heads: dict[str, Tensor], mean: Tensor) -> Tensor:
    return heads["dropout_logits"] if gate is None else torch.full_like(mean, math.log(gate / (1 - gate)))
