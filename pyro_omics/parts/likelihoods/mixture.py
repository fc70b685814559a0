"""`NegativeBinomialMixture`: counts of a background or of a foreground above it."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_omics import distributions as counts
from pyro_omics.batch import CellBatch
from pyro_omics.parts.likelihoods.negative_binomial import NegativeBinomial


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
