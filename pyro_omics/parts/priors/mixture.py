"""`MixtureOfGaussians`, and the mixture of Normals that other priors share."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_omics.batch import CellBatch
from pyro_omics.layers.inputs import beside_rows
from pyro_omics.parts.base import check_positive
from pyro_omics.parts.priors.base import Prior

SPREAD = 0.5  # standard deviation of the components' initial locations


class NormalMixture(dist.MixtureSameFamily):
    """`dist.MixtureSameFamily` of Normals with independent dimensions, whose support is the real vectors.

    For the support that torch gives a mixture, guides have no transform.
    """

    @property
    def support(self) -> constraints.Constraint:
        """Real vectors."""
        return constraints.real_vector


def normal_mixture(logits_c: Tensor, loc_ck: Tensor, scale_ck: Tensor) -> NormalMixture:
    """The mixture sum_c softmax(logits)_c Normal(loc_c, diag(scale_c^2)): event shape (k,), batch shape ()."""
    loc_ck, scale_ck = beside_rows(loc_ck, 2), beside_rows(scale_ck, 2)
    return NormalMixture(dist.Categorical(logits=beside_rows(logits_c, 1)), dist.Normal(loc_ck, scale_ck).to_event(1))


class MixtureOfGaussians(Prior):
    r"""A mixture of Normals whose weights, locations and scales are learned.

    .. math:: z_n \sim \sum_c \pi_c \, \mathrm{Normal}(\mu_c, \mathrm{diag}\,\sigma_c^2)

    It starts with equal weights, scales of 1 and locations drawn from Normal(0, 0.25 I): close to the standard Normal,
    but with distinct components.

    Parameters
    ----------
    n_components
        number of components.
    n_latent
        as in `Prior`.

    Raises
    ------
    ValueError
        If ``n_components`` is below 1.

    Source: Dilokthanakul et al. 2016, arXiv:1611.02648; Jiang et al. 2017, IJCAI (mixture priors of a VAE).
    """

    def __init__(self, n_components: int = 10, n_latent: int | None = None) -> None:
        check_positive(n_components=n_components)
        self.n_components = n_components
        super().__init__(n_latent)

    def complete(self, n_latent: int) -> None:
        """Create the logits (c,), the locations and the log scales (c, k)."""
        self.logits = nn.Parameter(torch.zeros(self.n_components))
        self.loc = nn.Parameter(SPREAD * torch.randn(self.n_components, n_latent))
        self.log_scale = nn.Parameter(torch.zeros(self.n_components, n_latent))

    def forward(self, batch: CellBatch | None = None) -> TorchDistribution:
        """The mixture, event shape (k,)."""
        return normal_mixture(self.logits, self.loc, self.log_scale.exp())
