"""Priors over the latent z: a prior is a PyroModule that, called on a batch, returns a distribution.

A new prior is one class: override `Prior.complete` to make the parameters and `Prior.forward` to return the
distribution.
"""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_omics.batch import CellBatch, Sizes
from pyro_omics.parts import Part, positive


class Prior(Part):
    """A distribution over z, made without sizes and completed by `build`.

    Parameters
    ----------
    n_latent
        dimension of z; None leaves it to the model, which calls `build`.
    """

    def __init__(self, n_latent: int | None = None) -> None:
        super().__init__()
        self.n_latent = n_latent
        if n_latent is not None:
            positive(n_latent=n_latent)
            self.complete(n_latent)

    def build(self, sizes: Sizes) -> None:
        """Complete the prior for ``sizes.n_latent`` dimensions, for the model that takes it."""
        super().build(sizes)
        if sizes.n_latent is None or self.n_latent not in (None, sizes.n_latent):
            raise ValueError(f"the prior was made with n_latent={self.n_latent}, and the model has {sizes.n_latent}")
        if self.n_latent is None:
            self.n_latent = sizes.n_latent
            self.complete(sizes.n_latent)

    def complete(self, n_latent: int) -> None:
        """Make parameters and buffers for ``n_latent`` dimensions."""

    def forward(self, batch: CellBatch | None = None) -> TorchDistribution:
        """The distribution of one row's z: event shape (k,), batch shape () or (n,)."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(batch)")

    def transform(self, z: Tensor) -> Tensor:
        """What the decoder sees of z (..., k): z itself, unless the prior says otherwise."""
        return z


class StandardNormal(Prior):
    """z_n ~ Normal(0, I_k)."""

    zeros: Tensor

    def complete(self, n_latent: int) -> None:
        """Make the location, a buffer, so that the prior follows the model to its device and dtype."""
        self.register_buffer("zeros", torch.zeros(n_latent), persistent=False)

    def forward(self, batch: CellBatch | None = None) -> TorchDistribution:
        """Normal(0, I_k), event shape (k,)."""
        return dist.Normal(self.zeros, torch.ones_like(self.zeros)).to_event(1)


class LogisticNormal(StandardNormal):
    """z_n ~ Normal(0, I_k), and the decoder sees softmax(z_n), a point of the simplex: proportions of k programs.

    The site "z" holds the Normal coordinates, because softmax of k coordinates has no density on k coordinates;
    `Posterior.latent` reports the proportions.

    Source: Svensson et al. 2020, Bioinformatics 36(11) (scVI with latent distribution "ln").
    """

    def transform(self, z: Tensor) -> Tensor:
        """softmax(z), (..., k)."""
        return torch.softmax(z, -1)
