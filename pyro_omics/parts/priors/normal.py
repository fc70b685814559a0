"""`StandardNormal` and `LogisticNormal`: priors without parameters."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_omics.batch import CellBatch
from pyro_omics.parts.priors.base import Prior


class StandardNormal(Prior):
    """Standard Normal prior: z_n ~ Normal(0, I_k)."""

    zeros: Tensor

    def complete(self, n_latent: int) -> None:
        """Create the location as a buffer, so that the prior follows the model to its device and dtype."""
        self.register_buffer("zeros", torch.zeros(n_latent), persistent=False)

    def forward(self, batch: CellBatch | None = None) -> TorchDistribution:
        """Normal(0, I_k), event shape (k,)."""
        return dist.Normal(self.zeros, torch.ones_like(self.zeros)).to_event(1)


class LogisticNormal(StandardNormal):
    """Logistic-normal prior: z_n ~ Normal(0, I_k), and the decoder's input is softmax(z_n), proportions of k programs.

    The site "z" holds the Normal coordinates, because the softmax of k coordinates has no density in k dimensions;
    `Posterior.latent` reports the proportions.

    Source: Svensson et al. 2020, Bioinformatics 36(11) (scVI with latent distribution "ln").
    """

    def transform(self, z: Tensor) -> Tensor:
        """softmax(z), (..., k)."""
        return torch.softmax(z, -1)
