"""`Conditional`: the local latents' exact posterior given the global ones, worked out by the model itself."""

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
from pyro_omics.serialization.arguments import RecordsArguments


class Conditional(PyroModule, RecordsArguments):
    r"""A guide over the global latents; for each row's own, their posterior given those and the row's counts.

    .. math:: q(f, g_{1..n}) = q(f) \prod_n p(g_n \mid f, x_n)

    The ELBO is then that of the global latents alone, with the local ones summed out. There is nothing to learn for a
    row, so that a held-out one is as good as a training one.

    Parameters
    ----------
    model
        a model that can work its local sites out: ``conditional(site, batch, latents)`` gives the distribution of one
        of ``local_sites`` given the global latents and the local ones before it.
    rest
        callable from a program to a guide over its global latents; `GammaMeanField` when None.

    Raises
    ------
    TypeError
        For a model that cannot.
    ValueError
        For a model whose parameters were made latent.

    Source: collapsed variational inference, e.g. Hensman et al. 2012, arXiv:1206.5162.
    """

    def __init__(self, model: ConditionedModel, rest: Callable[[Callable[..., Any]], PyroModule] | None = None) -> None:
        super().__init__()
        if not hasattr(model, "conditional"):
            raise TypeError(
                f"{type(model).__name__} has no method conditional(site, batch, latents) to work its local sites out "
                "by: use guides.Amortized, or write one"
            )
        if model.starts:
            raise ValueError(
                f"{sorted(model.starts)} are latent by bayesianize, and {type(model).__name__} works its local sites "
                "out by their values as parameters: use guides.Amortized or guides.GammaMeanField"
            )
        self._model = (model,)
        self.rest = global_guide(rest or GammaMeanField, model)

    @property
    def model(self) -> ConditionedModel:
        """The model that the guide is for."""
        return self._model[0]

    def forward(self, batch: RowBatch) -> None:
        """Sample the global latents, then each row's own given them."""
        latents: dict[str, Tensor] = dict(self.rest(batch))
        with self.model.plate(batch):
            for name in self.model.local_sites:
                latents[name] = pyro.sample(name, self.model.conditional(name, batch, latents))

    def start_at(self, site: str, start: dist.Gamma) -> None:
        """Start the factor of a positive global latent at a Gamma, see `global_guide.start_at`."""
        start_at(self.rest, site, start)
