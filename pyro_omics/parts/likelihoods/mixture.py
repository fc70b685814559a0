"""`NegativeBinomialMixture`: a mixture of background and foreground counts."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_omics import distributions as counts
from pyro_omics.batch import CellBatch
from pyro_omics.parts.likelihoods.negative_binomial import NegativeBinomial


class NegativeBinomialMixture(NegativeBinomial):
    r"""Mixture of a background, whose mean is given, and a foreground above it: totalVI's proteins.

    .. math:: y_{nt} \sim \pi_{nt} \, \mathrm{NB}(\mathrm{mean}_{nt}, \theta)
        + (1 - \pi_{nt}) \, \mathrm{NB}(\alpha_{nt} \, \mathrm{mean}_{nt}, \theta)

    with alpha = 1 + relu(1 + foreground) and pi = sigmoid(background_logits), two outputs of the decoder.

    Parameters
    ----------
    dispersion
        of theta, see `dispersions`; by default one theta for each column.

    Source: Gayoso et al. 2021, Nature Methods 18, 272.
    """

    own_heads = ("foreground", "background_logits")

    def forward(self, mean: Tensor, heads: dict[str, Tensor], batch: CellBatch) -> TorchDistribution:
        """NegativeBinomialMixture(mean, alpha mean, theta, background_logits), event shape (t,)."""
        theta = self.dispersion(heads, batch)
        return counts.NegativeBinomialMixture(
            mean, self._foreground(mean, heads), theta, heads["background_logits"]
        ).to_event(1)

    def expected_counts(self, mean: Tensor, heads: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Contributions of background and foreground, pi mean and (1 - pi) alpha mean, (n, t) each."""
        pi = torch.sigmoid(heads["background_logits"])
        return pi * mean, (1 - pi) * self._foreground(mean, heads)

    def denoised(self, mean: Tensor, heads: dict[str, Tensor], batch: CellBatch) -> Tensor:
        """A draw of the foreground's rate (n, t), 0 where the background is drawn."""
        rate = super().denoised(self._foreground(mean, heads), heads, batch)
        return rate * torch.bernoulli(torch.sigmoid(-heads["background_logits"]))

    def _foreground(self, mean: Tensor, heads: dict[str, Tensor]) -> Tensor:
        # alpha starts near 2: if relu's argument were negative in all cells, it would have no gradient.
        return mean * (1 + torch.relu(1 + heads["foreground"]))
