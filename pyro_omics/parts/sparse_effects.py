"""Sparse non-negative priors of the effects of building blocks, their combinations and compounds on survival."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_omics.layers.inputs import beside_rows
from pyro_omics.parts.base import Part
from pyro_omics.sizes import DELSizes, Sizes


class SparseGamma(Part):
    r"""Gamma prior with a shape below 1: most effects near 0, few large, none exactly 0.

    .. math:: f \sim \mathrm{Gamma}(\mathrm{shape}, \mathrm{shape} / \mathrm{mean})

    Parameters
    ----------
    shape
        shape of the Gamma, in (0, 1); a smaller shape is sparser.
    mean
        mean of the effects, in multiples of the background, > 0.
    learned
        which of "shape" and "mean" are fitted to the data (empirical Bayes), starting from the values given.

    Source: Cemgil 2009, Computational Intelligence and Neuroscience 785152 (sparse Gamma priors of Poisson sources).
    """

    def __init__(self, shape: float = 0.3, mean: float = 1.0, learned: Sequence[str] = ("shape", "mean")) -> None:
        super().__init__()
        if not 0 < shape < 1:
            raise ValueError(f"shape must be in (0, 1); got {shape}: above 1 an effect near 0 would be unlikely")
        if not 0 < mean < math.inf:
            raise ValueError(f"mean must be a number above 0; got {mean}")
        if unknown := set(learned) - {"shape", "mean"}:
            raise ValueError(f'learned must name "shape", "mean" or both; got {sorted(unknown)}')
        self.shape, self.mean, self.learned = float(shape), float(mean), tuple(learned)

    def build(self, sizes: Sizes | DELSizes) -> None:
        """Create the mean and the shape as parameters, or as constants where they are not learned."""
        super().build(sizes)
        log_mean, logit_shape = math.log(self.mean), math.log(self.shape / (1 - self.shape))
        for argument, name, start in (("mean", "log_mean", log_mean), ("shape", "logit_shape", logit_shape)):
            if argument in self.learned:
                self.register_parameter(name, nn.Parameter(torch.tensor(start)))
            else:
                self.register_buffer(name, torch.tensor(start))

    def forward(self, shape: Sequence[int] = ()) -> TorchDistribution:
        """Gamma(shape, shape / mean) of events of independent entries, of this shape; batch shape ()."""
        concentration, rate = self.concentration, self.rate
        if not shape:
            return dist.Gamma(concentration, rate)
        # To the right of the dimensions that a latent shape or mean may have.
        size, entries = torch.Size(shape), (1,) * len(shape)
        concentration, rate = (value.reshape(value.shape + entries) for value in (concentration, rate))
        fn = dist.Gamma(concentration, rate)
        return fn.expand(fn.batch_shape[: -len(size)] + size).to_event(len(size))

    @torch.no_grad()
    def set_mean(self, mean: float) -> None:
        """Set the mean."""
        self.log_mean.fill_(math.log(mean))

    @property
    def concentration(self) -> Tensor:
        """The Gamma's shape, ()."""
        return torch.sigmoid(beside_rows(self.logit_shape, 0))

    @property
    def rate(self) -> Tensor:
        """The Gamma's rate, ()."""
        return self.concentration * (-beside_rows(self.log_mean, 0)).exp()
