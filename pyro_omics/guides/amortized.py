"""Guides: callables from a model to a PyroModule over the same latent sites."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import biject_to

from pyro_omics.distributions import masked
from pyro_omics.guides.rest import over_globals
from pyro_omics.models.base import CountModel, latent_sites
from pyro_omics.recipe import Recipe


class Amortized(PyroModule, Recipe):
    r"""An encoder network for the model's local sites, an autoguide for everything else.

    .. math:: q(z_n \mid x_n) = \mathrm{Normal}(\mu(x_n), \mathrm{diag}\,\sigma^2(x_n))

    for each name in ``model.local_sites``, in their order (a model may let one depend on those before it), mapped to
    the site's support where that is constrained (a positive site gets a LogNormal). The networks are the model's
    (``model.encoders``): given to it, or built for the site's size.

    Parameters
    ----------
    model
        the model; the guide holds a reference that is not registered, so parameters are counted once.
    rest
        callable from a program to a guide over its latents: any Pyro AutoGuide; AutoNormal when None. Not called when
        the model has none beyond its local sites.

    Source: Kingma and Welling 2014 (amortization); Pyro's autoguides.
    """

    def __init__(self, model: CountModel, rest: Callable[[Callable[..., Any]], PyroModule] | None = None) -> None:
        super().__init__()
        self._model = (model,)
        self._supports: dict[str, tuple[Any, torch.Size]] = {}
        sites = latent_sites(model, model.example_batch())
        for name in model.local_sites:
            if name not in sites:
                raise ValueError(
                    f"{type(model).__name__}.local_sites names {name!r}, and the model has no such latent site: "
                    f"it has {sorted(sites)}"
                )
            fn = sites[name]["fn"]
            shape = biject_to(fn.support).inverse_shape(fn.event_shape)
            self._supports[name] = (fn.support, shape)
            model.require_encoder(name, math.prod(shape))
        others = set(sites) - set(model.local_sites)
        # Most autoguides raise on a program without latents.
        self.rest = over_globals(rest or AutoNormal, model) if others else None

    @property
    def model(self) -> CountModel:
        """The model that the guide is for."""
        return self._model[0]

    def forward(self, batch: Any) -> None:
        """Sample the global latents, then each row's own."""
        if self.rest is not None:
            self.rest(batch)
        latents: dict[str, Tensor] = {}
        with self.model.plate(batch):
            for name in self.model.local_sites:
                latents[name] = pyro.sample(name, self.local(name, batch, latents))

    def local(self, name: str, batch: Any, latents: dict[str, Tensor] | None = None) -> TorchDistribution:
        """The posterior of one local site for each row of the batch, given the ``latents`` sampled before it."""
        support, shape = self._supports[name]
        loc, scale = self.model.encode(batch, name, latents)
        if loc.shape[-2:] != (len(batch.index), math.prod(shape)):
            raise ValueError(
                f"the encoder of {name!r} must return {math.prod(shape)} numbers for each of {len(batch.index)} rows, "
                f"and returned the shape {tuple(loc.shape)}"
            )
        loc, scale = (value.reshape(*value.shape[:-1], *shape) for value in (loc, scale))
        base = masked(dist.Normal(loc, scale).to_event(len(shape)), self.model.informed(name, batch))
        return base if _is_real(support) else dist.TransformedDistribution(base, [biject_to(support)])


def _is_real(support: Any) -> bool:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is dist.constraints.real
