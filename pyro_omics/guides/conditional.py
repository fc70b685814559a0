"""`Conditional`: the model's own posterior of its local latents given the global ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.nn import PyroModule
from torch import Tensor

from pyro_omics.batch import RowBatch
from pyro_omics.guides.gamma_mean_field import GammaMeanField
from pyro_omics.guides.global_guide import global_guide, start_at
from pyro_omics.guides.guided_model import ConditionedModel
from pyro_omics.layers.module import FastPyroModule
from pyro_omics.serialization.arguments import RecordsArguments


class Conditional(FastPyroModule, RecordsArguments):
    r"""A guide over the global latents, with the posterior of the local latents given these and the row's counts.

    .. math:: q(f, g_{1..n}) = q(f) \prod_n p(g_n \mid f, x_n)

    The ELBO is then that of the global latents alone, with the local latents integrated out. There are no parameters
    per row, so that held-out rows are treated like training rows.

    Parameters
    ----------
    model
        a model with a method ``conditional(site, batch, latents)``, which returns the distribution of one of its
        ``local_sites`` given the global latents and the local ones before it.
    rest
        callable from a program to a guide over its global latents; `GammaMeanField` by default.

    Raises
    ------
    TypeError
        If the model has no method ``conditional``.
    ValueError
        If parameters of the model are latent by `bayesianize`.

    Source: collapsed variational inference, e.g. Hensman et al. 2012, arXiv:1206.5162.
    """

    def __init__(self, model: ConditionedModel, rest: Callable[[Callable[..., Any]], PyroModule] | None = None) -> None:
        super().__init__(type(self).__name__)  # as in LocalGuide
        if not hasattr(model, "conditional"):
            raise TypeError(
                f"{type(model).__name__} has no method conditional(site, batch, latents), which guides.Conditional "
                "needs: use guides.Amortized, or write the method"
            )
        if model.starts:
            raise ValueError(
                f"{sorted(model.starts)} are latent by bayesianize, and {type(model).__name__}.conditional needs them "
                "as parameters: use guides.Amortized or guides.GammaMeanField"
            )
        self._model = (model,)
        self.rest = global_guide(rest or GammaMeanField, model)

    @property
    def model(self) -> ConditionedModel:
        """The model of the guide."""
        return self._model[0]

    def forward(self, batch: RowBatch) -> None:
        """Sample the global latents, then the local latents of each row given these."""
        latents: dict[str, Tensor] = dict(self.rest(batch))
        with self.model.plate(batch):
            for name in self.model.local_sites:
                latents[name] = pyro.sample(name, self.model.conditional(name, batch, latents))

    def start_at(self, site: str, start: dist.Gamma) -> None:
        """Initialize the factor of a positive global latent with a Gamma; see `global_guide.start_at`."""
        start_at(self.rest, site, start)
