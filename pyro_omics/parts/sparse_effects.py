"""Sparse non-negative effects: priors of what a building block, a pair of them or a whole compound adds to survival."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_omics.parts.base import Part
from pyro_omics.sizes import DELSizes, Sizes


class SparseGamma(Part):
    r"""Gamma with a shape below 1: most of the effects near 0, few large, none exactly 0.

    .. math:: f \sim \mathrm{Gamma}(\mathrm{shape}, \mathrm{shape} / \mathrm{mean})

    Parameters
    ----------
    shape
        in (0, 1); the smaller, the sparser.
    mean
        of the effects, in multiples of the background, > 0.
    learned
        which of "shape" and "mean" are fitted to the data (empirical Bayes), from where they are given.

    Source: Cemgil 2009, Computational Intelligence and Neuroscience 785152 (sparse Gamma priors of Poisson sources).
    """

    def __init__(self, shape: float = 0.3, mean: float = 1.0, learned: Sequence[str] = ("shape", "mean")) -> None:
        super().__init__()
        if not 0 < shape < 1:
            raise ValueError(f"shape must lie in (0, 1); got {shape}: above 1 an effect near 0 would be unlikely")
        if not 0 < mean < math.inf:
            raise ValueError(f"mean must be a number above 0; got {mean}")
        if unknown := set(learned) - {"shape", "mean"}:
            raise ValueError(f'learned must name "shape", "mean" or both; got {sorted(unknown)}')
        self.shape, self.mean, self.learned = float(shape), float(mean), tuple(learned)

    def build(self, sizes: Sizes | DELSizes) -> None:
        """Make the parameters, or constants."""
        super().build(sizes)
        log_mean, logit_shape = math.log(self.mean), math.log(self.shape / (1 - self.shape))
        for what, name, start in (("mean", "log_mean", log_mean), ("shape", "logit_shape", logit_shape)):
            if what in self.learned:
                self.register_parameter(name, nn.Parameter(torch.tensor(start)))
            else:
                self.register_buffer(name, torch.tensor(start))

    def forward(self) -> TorchDistribution:
        """Gamma(shape, shape / mean), of batch shape ()."""
        return dist.Gamma(self.concentration, self.rate)

    @torch.no_grad()
    def set_mean(self, mean: float) -> None:
        """Go on from this mean."""
        self.log_mean.fill_(math.log(mean))

    @property
    def concentration(self) -> Tensor:
        """The Gamma's shape, ()."""
        return torch.sigmoid(self.logit_shape)

    @property
    def rate(self) -> Tensor:
        """The Gamma's rate, ()."""
        return self.concentration * (-self.log_mean).exp()
