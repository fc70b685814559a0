"""`Poisson`: counts without overdispersion."""

from __future__ import annotations

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_omics import distributions as counts
from pyro_omics.batch import CellBatch
from pyro_omics.parts.likelihoods.base import Likelihood


class Poisson(Likelihood):
    """x_ng ~ Poisson(mean_ng)."""

    def forward(self, mean: Tensor, heads: dict[str, Tensor], batch: CellBatch) -> TorchDistribution:
        """Poisson(mean), event shape (g,)."""
        return counts.Poisson(mean).to_event(1)
