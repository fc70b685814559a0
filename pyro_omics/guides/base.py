"""`LocalGuide`: base of the guides with a location and a scale for each row's local latents."""

from __future__ import annotations

import math
import warnings
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
from pyro_omics.sites import is_real, latent_sites

Offsets: TypeAlias = Mapping[str, tuple[Tensor, Tensor]]


class LocalGuide(FastPyroModule, TrainingHooks, RecordsArguments):
    """A distribution for each row's local latents, with a location and a scale, and a guide ``rest`` for all others.

    A subclass defines `start`, which returns location and scale, and may override `posterior`, the distribution with
    this location and scale (a Normal by default), and `offsets`, which each row adds to them. It may also act when the
    optimizer is made (`on_optimizer`) and when training ends (`on_train_end`); see `hooks.TrainingHooks`.

    Parameters
    ----------
    model
        the model; the guide holds an unregistered reference, so that parameters are counted once.
    rest
        callable from a program to a guide over its latents, such as any Pyro AutoGuide; AutoNormal by default. Not
        called for a model without global latents.
    """

    def __init__(self, model: GuidedModel, rest: Callable[[Callable[..., Any]], PyroModule] | None = None) -> None:
        # A name of its own: pyro.infer.SVI collects the parameters of model and guide by name.
        super().__init__(type(self).__name__)
        self._model = (model,)
        self._current: tuple[Any, Offsets] | None = None  # the batch that is being sampled, and its offsets
        self._supports: dict[str, tuple[Any, torch.Size, bool]] = {}  # the support, its shape, whether it is real
        sites = latent_sites(model.example_trace())
        for name in model.local_sites:
            if name not in sites:
                raise ValueError(
                    f"{type(model).__name__}.local_sites must name latent sites of the model, which are "
                    f"{sorted(sites)}; got {name!r}"
                )
            fn = sites[name]["fn"]
            shape = biject_to(fn.support).inverse_shape(fn.event_shape)
            self._supports[name] = (fn.support, shape, is_real(fn.support))
        self.rest = None
        # Most autoguides raise on a program without latents.
        if set(sites) - set(model.local_sites):
            self.rest = global_guide(rest or AutoNormal, model)
        elif rest is not None:
            warnings.warn(
                f"rest={getattr(rest, '__name__', rest)} does nothing: {type(model).__name__} has no global latents; "
                'bayesianize(model, "decoder") makes weights latent',
                UserWarning,
                stacklevel=3,
            )

    @property
    def model(self) -> GuidedModel:
        """The model of the guide."""
        return self._model[0]

    def size(self, name: str) -> int:
        """Number of unconstrained dimensions of a local site."""
        return math.prod(self._supports[name][1])

    def event_dim(self, name: str) -> int:
        """Number of event dimensions of a local site, in unconstrained space."""
        return len(self._supports[name][1])

    def is_joint(self, name: str) -> bool:
        """Whether a local site may have a posterior whose entries depend on each other.

        A site of one dimension has nothing to depend on. Of a site whose entries may be left out one by one
        (``model.informed``), each entry needs a density of its own.
        """
        return self.size(name) > 1 and self.model.informed(name, self.model.example_batch()) is None

    def forward(self, batch: RowBatch) -> None:
        """Sample the global latents, then the local latents of each row."""
        if self.rest is not None:
            self.rest(batch)
        # Before the plate opens: computing offsets may run the model, which opens its own plate.
        self._current = (batch, self.offsets(batch))
        latents: dict[str, Tensor] = {}
        try:
            with self.model.plate(batch):
                for name in self.model.local_sites:
                    latents[name] = pyro.sample(name, self.local(name, batch, latents))
        finally:
            self._current = None

    def start_at(self, site: str, start: dist.Gamma) -> None:
        """Initialize the factor of a positive global latent with a Gamma; see `global_guide.start_at`."""
        if self.rest is not None:
            start_at(self.rest, site, start)

    def local(self, name: str, batch: RowBatch, latents: Mapping[str, Tensor] | None = None) -> TorchDistribution:
        """The posterior of one local site for each row of the batch, given the ``latents`` sampled before it."""
        loc, scale = self.start(name, batch, latents)
        known = self._current
        offsets = known[1] if known is not None and known[0] is batch else self.offsets(batch)
        if name in offsets:
            shift, stretch = offsets[name]
            loc, scale = loc + shift, scale * stretch.exp()
        return self.distribution(name, batch, loc, scale)

    def start(self, name: str, batch: RowBatch, latents: Mapping[str, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Location and scale (n, d) of a local site in its d unconstrained dimensions, without offsets."""
        raise NotImplementedError(f"{type(self).__name__} must define start(name, batch, latents)")

    def offsets(self, batch: RowBatch) -> Offsets:
        """Site -> what each row adds to location and log scale, (n, d) each; empty unless overridden."""
        return {}

    def distribution(self, name: str, batch: RowBatch, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """The distribution of a local site with these locations and scales (n, d), mapped to the site's support."""
        base, informed = self.posterior(name, loc, scale), self.model.informed(name, batch)
        if informed is not None:
            base = masked(base, informed)
        support, _, real = self._supports[name]
        return base if real else dist.TransformedDistribution(base, [biject_to(support)])

    def posterior(self, name: str, loc: Tensor, scale: Tensor) -> TorchDistribution:
        """The distribution of a local site in unconstrained space: a Normal unless overridden.

        Parameters
        ----------
        name
            name of the site.
        loc, scale
            (..., n, d); the events of the distribution have the site's unconstrained shape, see `shaped`.
        """
        loc, scale = self.shaped(name, loc), self.shaped(name, scale)
        return dist.Normal(loc, scale).to_event(self.event_dim(name))

    def shaped(self, name: str, value: Tensor) -> Tensor:
        """``value`` (..., n, d) reshaped to the unconstrained shape of the site's events."""
        return value.reshape((*value.shape[:-1], *self._supports[name][1]))

    def constrained(self, name: str, value: Tensor) -> Tensor:
        """The value of a site (..., n, *event), from its unconstrained dimensions (..., n, d)."""
        return biject_to(self._supports[name][0])(self.shaped(name, value))

    def flattened(self, name: str) -> ReshapeTransform:
        """The transform from d numbers to the site's unconstrained shape."""
        return ReshapeTransform((self.size(name),), self._supports[name][1], cache_size=1)
