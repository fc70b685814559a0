"""Base class of the likelihoods."""

from __future__ import annotations

from typing import ClassVar

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_omics.batch import CellBatch
from pyro_omics.parts.base import Part


class Likelihood(Part):
    """Distribution of counts p(x | mean, heads): created without sizes, and completed once by `build`."""

    own_heads: ClassVar[tuple[str, ...]] = ()

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the decoder outputs, (n, g) each, that the likelihood needs besides the mean."""
        return self.own_heads

    def forward(self, mean: Tensor, heads: dict[str, Tensor], batch: CellBatch) -> TorchDistribution:
        """The distribution of the counts: batch shape (n,), event shape (g,)."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(mean, heads, batch)")

    def denoised(self, mean: Tensor, heads: dict[str, Tensor], batch: CellBatch) -> Tensor:
        """A draw of the rate underlying the counts (n, g): without counting noise, dropout or background."""
        return mean
