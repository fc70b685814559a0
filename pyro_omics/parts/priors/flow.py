"""`FlowPrior`: a normalizing flow over z."""

from __future__ import annotations

from pyro.distributions import TorchDistribution
from torch import nn

from pyro_omics.batch import CellBatch
from pyro_omics.distributions.flows import flow_distribution, zuko
from pyro_omics.parts.base import check_positive
from pyro_omics.parts.priors.base import Prior


class FlowPrior(Prior):
    r"""A neural spline flow: z is a learned invertible map of a standard Normal.

    .. math:: p(z_n) = \mathrm{Normal}(f(z_n); 0, I) \, |\det \partial f / \partial z_n|

    f is a chain of autoregressive rational-quadratic splines over [-5, 5], and the identity beyond. It starts as the
    identity everywhere, so that the prior starts at Normal(0, I). A density takes one pass through each network; a draw
    takes k passes.

    Parameters
    ----------
    n_transforms
        number of autoregressive transforms; with one latent dimension they are splines without a network.
    n_hidden
        width of the two hidden layers of each transform's network.
    n_latent
        as in `Prior`.

    Raises
    ------
    ValueError
        If ``n_transforms`` or ``n_hidden`` is below 1.

    Source: Durkan et al. 2019, NeurIPS (neural spline flows); Chen et al. 2017, ICLR (flows as priors of a VAE).
    """

    def __init__(self, n_transforms: int = 3, n_hidden: int = 64, n_latent: int | None = None) -> None:
        check_positive(n_transforms=n_transforms, n_hidden=n_hidden)
        self.n_transforms, self.n_hidden = n_transforms, n_hidden
        super().__init__(n_latent)

    def complete(self, n_latent: int) -> None:
        """Create the flow, initialized as the identity."""
        hidden = [self.n_hidden, self.n_hidden]
        self.flow = zuko().flows.NSF(n_latent, transforms=self.n_transforms, hidden_features=hidden)
        for transform in self.flow.transform.transforms:
            # In one dimension a transform has no network.
            for parameter in transform.phi if n_latent == 1 else transform.hyper[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, batch: CellBatch | None = None) -> TorchDistribution:
        """The flow, event shape (k,)."""
        return flow_distribution(self.flow)
