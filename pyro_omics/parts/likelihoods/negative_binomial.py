"""`NegativeBinomial`: its inverse dispersion is a swappable part."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_omics import distributions as counts
from pyro_omics.batch import CellBatch
from pyro_omics.parts.base import check_part
from pyro_omics.parts.dispersions import Dispersion, PerGene
from pyro_omics.parts.likelihoods.base import Likelihood
from pyro_omics.sizes import Sizes


class NegativeBinomial(Likelihood):
    """x_ng ~ NegativeBinomial(mean_ng, theta), variance mean + mean^2 / theta.

    Parameters
    ----------
    dispersion
        of theta, see `dispersions`; by default one theta for each gene.
    """

    def __init__(self, dispersion: Dispersion | None = None) -> None:
        super().__init__()
        self.dispersion = PerGene() if dispersion is None else check_part("dispersion", dispersion, Dispersion)

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the decoder outputs that the likelihood and its dispersion need."""
        return self.own_heads + self.dispersion.heads

    def build(self, sizes: Sizes) -> None:
        """Create theta for these sizes."""
        super().build(sizes)
        self.dispersion.build(sizes)

    def forward(self, mean: Tensor, heads: dict[str, Tensor], batch: CellBatch) -> TorchDistribution:
        """NegativeBinomial(mean, theta), event shape (g,)."""
        return counts.NegativeBinomial(mean, self.dispersion(heads, batch)).to_event(1)

    def denoised(self, mean: Tensor, heads: dict[str, Tensor], batch: CellBatch) -> Tensor:
        """A draw of the Gamma-distributed rate (n, g), with mean ``mean`` and variance mean^2 / theta."""
        theta = self.dispersion(heads, batch).expand(mean.shape)
        return torch._standard_gamma(theta) * mean / theta
