"""Priors over z with global latents of their own: `HierarchicalNormal` and `BatchMeans`."""

from __future__ import annotations

from functools import partial

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule, PyroSample
from torch import Tensor

from pyro_omics.batch import CellBatch
from pyro_omics.layers.inputs import at_levels, beside_rows
from pyro_omics.parts.base import check_positive
from pyro_omics.parts.priors.mixture import normal_mixture
from pyro_omics.parts.priors.normal import StandardNormal
from pyro_omics.sizes import Sizes


class HierarchicalNormal(StandardNormal):
    r"""A Normal with a latent scale for each dimension, learned from the whole data set.

    .. math::
        \tau_k &\sim \mathrm{LogNormal}(0, 1) \\
        z_n &\sim \mathrm{Normal}(0, \mathrm{diag}\,\tau^2)

    The scales are the site "prior.scale" (k,), a global latent: the guide's ``rest`` covers it, and its KL counts once
    per data set. Their prior is LogNormal rather than HalfNormal: a factor of e to either side of 1 is one standard
    deviation, and there is no mass at 0, where all z would coincide and log tau would have no mode.

    Source: Gelman et al. 2013, Bayesian Data Analysis, chapter 5; Neal 1996 (automatic relevance determination).
    """

    scale: Tensor

    def complete(self, n_latent: int) -> None:
        """Create the location, a buffer, and the scales, a latent."""
        super().complete(n_latent)
        self.scale = PyroSample(partial(_scales))

    def forward(self, batch: CellBatch | None = None) -> TorchDistribution:
        """Normal(0, diag(tau^2)), event shape (k,)."""
        return dist.Normal(self.zeros, beside_rows(self.scale, 1)).to_event(1)


class BatchMeans(StandardNormal):
    r"""A Normal around a latent mean of the cell's batch.

    .. math::
        \mu_s &\sim \mathrm{Normal}(0, I_k) \\
        z_n &\sim \mathrm{Normal}(\mu_{s_n}, I_k)

    The means are the site "prior.means" (batches, k), a global latent: the guide's ``rest`` covers it, and its KL
    counts once per data set. They let z differ between batches at no cost, which suits batches that are different
    tissues or conditions, and does not suit technical batches.

    Parameters
    ----------
    n_batches
        number of batches; None leaves it to the model, which calls `build`.
    n_latent
        as in `Prior`.

    Raises
    ------
    ValueError
        If the data have only one batch.

    Source: Gelman et al. 2013, Bayesian Data Analysis, chapter 5 (means of groups).
    """

    means: Tensor

    def __init__(self, n_batches: int | None = None, n_latent: int | None = None) -> None:
        if n_batches is not None:
            check_positive(n_batches=n_batches)
        self.n_batches = n_batches
        super().__init__(n_latent)

    def build(self, sizes: Sizes) -> None:
        """Complete the prior for ``sizes``, which must have several batches."""
        if sizes.n_batches < 2:
            raise ValueError(
                "BatchMeans has a mean for each batch, and the data have one batch only: name the batches, "
                "CellDataModule(adata, batch_key=...), or use priors.StandardNormal()"
            )
        if self.n_batches not in (None, sizes.n_batches):
            raise ValueError(
                f"the prior was made with n_batches={self.n_batches}, and the data have {sizes.n_batches} batches"
            )
        self.n_batches = sizes.n_batches
        super().build(sizes)

    def complete(self, n_latent: int) -> None:
        """Create the means, a latent, and the location of their prior, a buffer."""
        super().complete(n_latent)
        self.means = PyroSample(partial(_means))

    def forward(self, batch: CellBatch | None = None) -> TorchDistribution:
        """Normal(mu_s, I), event shape (k,), batch shape (n,).

        Without a batch, or without its codes, the cell's batch is unknown: the mixture over all batches with equal
        weights, batch shape ().
        """
        if batch is None or batch.batch is None:
            means = beside_rows(self.means, 2)
            return normal_mixture(torch.zeros_like(means[..., 0]), means, torch.ones_like(means))
        loc_nk = at_levels(self.means, batch.batch, 2)
        return dist.Normal(loc_nk, torch.ones_like(loc_nk)).to_event(1)


# Module-level functions in a partial: a lambda could not be pickled, and PyroSample renames plain functions.
def _scales(prior: PyroModule) -> TorchDistribution:
    return dist.LogNormal(prior.zeros, torch.ones_like(prior.zeros)).to_event(1)


def _means(prior: PyroModule) -> TorchDistribution:
    if prior.n_batches is None:
        raise ValueError("BatchMeans does not know the number of batches: pass n_batches, or pass the prior to a model")
    return dist.Normal(prior.zeros, 1.0).expand([prior.n_batches, *prior.zeros.shape]).to_event(2)
