"""What guides over rows share: a location and a scale for each row's own latents, another guide for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.transforms import ReshapeTransform
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import Tensor
from torch.distributions import biject_to

from pyro_omics.batch import RowBatch
from pyro_omics.distributions import masked
from pyro_omics.guides.global_guide import global_guide, start_at
from pyro_omics.guides.guided_model import GuidedModel
from pyro_omics.guides.hooks import TrainingHooks
from pyro_omics.layers.module import FastPyroModule
from pyro_omics.serialization.arguments import RecordsArguments
from pyro_omics.sites import latent_sites

Offsets: TypeAlias = Mapping[str, tuple[Tensor, Tensor]]


class LocalGuide(FastPyroModule, TrainingHooks, RecordsArguments):
    """A distribution for each row's own latents, by location and scale, and a guide ``rest`` for all others.

    A subclass says where location and scale come from (`start`), and may say what they are the location and scale of
    (`posterior`: a Normal), and what each row adds to them (`offsets`). It may also act when the optimizer is made
    (`on_optimizer`) and when training ends (`on_train_end`), as any part of a guide that is a `hooks.TrainingHooks`.

    Parameters
    ----------
    model
        the model; the guide holds a reference that is not registered, so parameters are counted once.
    rest
        callable from a program to a guide over its latents: any Pyro AutoGuide; AutoNormal when None. Not called when
        the model has none beyond its local sites.
    """

    def __init__(self, model: GuidedModel, rest: Callable[[Callable[..., Any]], PyroModule] | None = None) -> None:
        super().__init__()
        self._model = (model,)
        self._known: tuple[Any, Offsets] | None = None  # offsets of the batch that is being sampled
        self._supports: dict[str, tuple[Any, torch.Size]] = {}
        sites = latent_sites(model.example_trace())
        for name in model.local_sites:
            if name not in sites:
                raise ValueError(
                    f"{type(model).__name__}.local_sites names {name!r}, and the model has no such latent site: "
                    f"it has {sorted(sites)}"
                )
            fn = sites[name]["fn"]
            self._supports[name] = (fn.support, biject_to(fn.support).inverse_shape(fn.event_shape))
        self.rest = None
        # Most autoguides raise on a program without latents.
        if set(sites) - set(model.local_sites):
            self.rest = global_guide(rest or AutoNormal, model)

    @property
    def model(self) -> GuidedModel:
        """The model that the guide is for."""
        return self._model[0]

    def size(self, name: str) -> int:
        """Number of unconstrained dimensions of a local site."""
        return math.prod(self._supports[name][1])

    def forward(self, batch: RowBatch) -> None:
        """Sample the global latents, then each row's own."""
        if self.rest is not None:
            self.rest(batch)
        # Before the plate opens: working them out runs the model, which opens its own.
        self._known = (batch, self.offsets(batch))
        latents: dict[str, Tensor] = {}
        try:
            with self.model.plate(batch):
                for name in self.model.local_sites:
                    latents[name] = pyro.sample(name, self.local(name, batch, latents))
        finally:
            self._known = None

    def start_at(self, site: str, start: dist.Gamma) -> None:
        """Start the factor of a positive global latent at a Gamma, see `global_guide.start_at`."""
        if self.rest is not None:
            start_at(self.rest, site, start)

    def local(self, name: str, batch: RowBatch, latents: Mapping[str, Tensor] | None = None) -> TorchDistribution:
        """The posterior of one local site for each row of the batch, given the ``latents`` sampled before it."""
        loc, scale = self.start(name, batch, latents)
        offsets = self._known[1] if self._known is not None and self._known[0] is batch else self.offsets(batch)
        if name in offsets:
            shift, stretch = offsets[name]
            loc, scale = loc + shift, scale * stretch.exp()
        return self.distribution(name, batch, loc, scale)

    def start(self, name: str, batch: RowBatch, latents: Mapping[str, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Location and scale (n, d) of a local site in its d unconstrained dimensions, without offsets."""
        raise NotImplementedError(f"{type(self).__name__} must define start(name, batch, latents)")

    def offsets(self, batch: RowBatch) -> Offsets:
        """What is added to the locations and to the log scales of each row, by site (n, d) each; none here."""
        return {}

    def distribution(self, name: str, batch: RowBatch, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """The distribution of a local site at these locations and scales (n, d), mapped to its support."""
        base, informed = self.posterior(name, loc, scale), self.model.informed(name, batch)
        if informed is not None:
            base = masked(base, informed)
        support = self._supports[name][0]
        return base if _is_real(support) else dist.TransformedDistribution(base, [biject_to(support)])

    def posterior(self, name: str, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """The distribution of a local site in unconstrained space: Normal, unless a subclass says otherwise.

        Parameters
        ----------
        name
            of the site.
        loc, scale
            (..., n, d); the distribution's events have the site's shape, `shaped`.
        """
        loc, scale = self.shaped(name, loc), self.shaped(name, scale)
        return dist.Normal(loc, scale).to_event(len(self._supports[name][1]))

    def shaped(self, name: str, value: Tensor) -> Tensor:
        """(..., n, d) in the unconstrained shape of the site's events."""
        return value.reshape((*value.shape[:-1], *self._supports[name][1]))

    def constrained(self, name: str, value: Tensor) -> Tensor:
        """The value of a site (..., n, *event) of its unconstrained dimensions (..., n, d)."""
        return biject_to(self._supports[name][0])(self.shaped(name, value))

    def flattened(self, name: str) -> ReshapeTransform:
        """The transform from d numbers to the site's unconstrained shape."""
        return ReshapeTransform((self.size(name),), self._supports[name][1], cache_size=1)


def _is_real(support: Any) -> bool:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support is dist.constraints.real
