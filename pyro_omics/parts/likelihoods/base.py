"""What every likelihood has in common."""

from __future__ import annotations

from typing import ClassVar

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_omics.batch import CellBatch
from pyro_omics.parts.base import Part


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
