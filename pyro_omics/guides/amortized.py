"""Amortized guides: an encoder network gives each row's posterior."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.transforms import AffineTransform
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn import functional

from pyro_omics.batch import RowBatch
from pyro_omics.distributions.flows import flow_distribution, zuko
from pyro_omics.guides.base import LocalGuide
from pyro_omics.guides.guided_model import GuidedModel
from pyro_omics.parts.base import check_positive


class Amortized(LocalGuide):
    r"""An encoder network for the model's local sites, and an autoguide for all other latents.

    .. math:: q(z_n \mid x_n) = \mathrm{Normal}(\mu(x_n), \mathrm{diag}\,\sigma^2(x_n))

    for each name in ``model.local_sites``, in their order (in a model, a site may depend on those before it), mapped to
    the site's support where that is constrained (a positive site gets a LogNormal). The networks are the model's
    (``model.encoders``): passed to the model, or built for the site's size.

    Parameters
    ----------
    model
        the model; the guide holds an unregistered reference, so that parameters are counted once.
    rest
        callable from a program to a guide over its latents, such as any Pyro AutoGuide; AutoNormal by default. Not
        called for a model without global latents.

    Raises
    ------
    ValueError
        If ``rest`` is too large for memory (see `memory_limits.check_memory`), or an encoder has the wrong width.

    Source: Kingma and Welling 2014 (amortization); Pyro's autoguides.
    """

    def __init__(self, model: GuidedModel, rest: Callable[[Callable[..., Any]], PyroModule] | None = None) -> None:
        super().__init__(model, rest)
        for name in model.local_sites:
            model.require_encoder(name, self.size(name))

    def start(self, name: str, batch: RowBatch, latents: Mapping[str, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Location and scale (n, d) from the site's encoder."""
        loc, scale = self.model.encode(batch, name, latents)
        if loc.shape[-2:] != (len(batch.index), self.size(name)):
            raise ValueError(
                f"the encoder of {name!r} must return {self.size(name)} numbers for each of {len(batch.index)} rows; "
                f"got the shape {tuple(loc.shape)}"
            )
        return loc, scale


class AmortizedFlow(Amortized):
    r"""An encoder's Normal transformed by a normalizing flow: a row's posterior may be skewed or have several modes.

    .. math::
        \epsilon &\sim \mathrm{Normal}(0, I) \\
        z_n &= \mu(x_n) + \sigma(x_n) \odot T(\epsilon; \mu(x_n), \log \sigma(x_n))

    with T a neural spline coupling flow, which starts as the identity, so that training starts at `Amortized`. With
    couplings, a draw and a density take one pass each, at any dimension. T differs from the identity within (-5, 5)
    standard deviations.

    A site of one unconstrained dimension (a latent library size) keeps the Normal of `Amortized`, because a coupling
    needs two dimensions. So does a site some of whose entries the model leaves out (``model.informed``, such as
    totalVI's background of proteins that were not measured): a joint density does not factor into entries.

    Parameters
    ----------
    model, rest
        as in `Amortized`.
    n_transforms
        number of couplings; with two or more, each dimension can depend on others.
    n_hidden
        width of the two hidden layers of each coupling's network.

    Raises
    ------
    Source: Durkan et al. 2019, arXiv:1906.04032 (neural spline flows); Rezende and Mohamed 2015, arXiv:1505.05770.
    """

    def __init__(
        self,
        model: GuidedModel,
        rest: Callable[[Callable[..., Any]], PyroModule] | None = None,
        n_transforms: int = 2,
        n_hidden: int = 64,
    ) -> None:
        super().__init__(model, rest)
        check_positive(n_transforms=n_transforms, n_hidden=n_hidden)
        self.flows = PyroModule[nn.ModuleDict]()
        for name in model.local_sites:
            if self.is_joint(name):
                self.flows[name] = _coupling_flow(self.size(name), n_transforms, n_hidden)

    def posterior(self, name: str, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """The flow's distribution, or the Normal of a site without a flow."""
        if name not in self.flows:
            return super().posterior(name, loc, scale)
        base = flow_distribution(self.flows[name], torch.cat([loc, scale.log()], -1))
        # Cached, so that the density of a draw is not computed by inverting the transform.
        return dist.TransformedDistribution(
            base, [AffineTransform(loc, scale, event_dim=1, cache_size=1), self.flattened(name)]
        )


def _coupling_flow(n: int, n_transforms: int, n_hidden: int) -> nn.Module:
    """A neural spline coupling flow of n dimensions, given 2 n numbers, that starts as the identity."""
    flow = zuko().flows.NSF(n, context=2 * n, passes=2, transforms=n_transforms, hidden_features=(n_hidden, n_hidden))
    with torch.no_grad():
        for transform in flow.transform.transforms:
            transform.hyper[-1].weight.zero_()
            transform.hyper[-1].bias.zero_()
    return flow


class AmortizedStudentT(Amortized):
    r"""An encoder with a Student's t posterior, whose tails are learned for each latent dimension.

    .. math:: q(z_{nk} \mid x_n) = \mathrm{StudentT}(\nu_k, \mu_k(x_n), \sigma_k(x_n)), \quad \nu_k > 2

    The degrees of freedom nu of each dimension of a local site are shared by all rows, and start at 10. The standard
    deviation is sigma sqrt(nu / (nu - 2)).

    Parameters
    ----------
    model, rest
        as in `Amortized`.

    Source: Domke and Sheldon 2018, arXiv:1808.09034 (heavier tails in variational inference).
    """

    def __init__(self, model: GuidedModel, rest: Callable[[Callable[..., Any]], PyroModule] | None = None) -> None:
        super().__init__(model, rest)
        self.raw_df = PyroModule[nn.ParameterDict]()
        for name in model.local_sites:
            self.raw_df[name] = nn.Parameter(torch.full((self.size(name),), 8.0).expm1().log())

    def degrees_of_freedom(self, name: str) -> Tensor:
        """Degrees of freedom (d,) of a local site's dimensions."""
        return 2 + functional.softplus(self.raw_df[name])

    def posterior(self, name: str, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """Student's t with these locations and scales."""
        df, loc, scale = (self.shaped(name, value) for value in (self.degrees_of_freedom(name), loc, scale))
        return dist.StudentT(df, loc, scale).to_event(self.event_dim(name))
