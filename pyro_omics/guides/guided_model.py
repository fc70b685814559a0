"""Types of guides, and of the models that guides are made for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeAlias

import pyro
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_omics.batch import RowBatch

Guide: TypeAlias = PyroModule


class GuidedModel(Protocol):
    """A Pyro program over a batch that a guide can be made for; `models.CountModel` is one.

    Attributes
    ----------
    n_obs
        number of training rows: the plate's size.
    local_sites
        names of the latents that each row has.
    starts
        name of a latent site -> its initial value in a guide.
    """

    n_obs: int
    local_sites: tuple[str, ...]
    starts: dict[str, Tensor]

    def __call__(self, batch: RowBatch) -> Any:
        """Run the program."""

    def plate(self, batch: RowBatch) -> pyro.plate:
        """The plate over rows, of size `n_obs`."""

    def example_batch(self) -> Any:
        """A tiny batch of the right shapes."""

    def example_trace(self) -> Trace:
        """The trace of the model on an example batch."""

    def informed(self, site: str, batch: RowBatch) -> Tensor | None:
        """Mask of the entries of a local latent that the batch's data inform; None means all."""

    def require_encoder(self, site: str, n_out: int) -> None:
        """Create the encoder of a local site if there is none."""

    def encode(self, batch: RowBatch, site: str, latents: Mapping[str, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Location and scale of a local site's posterior from its encoder."""

    def modules(self) -> Iterator[nn.Module]:
        """The model and all modules in it."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """The model's parameters."""

    def buffers(self) -> Iterator[Tensor]:
        """The model's buffers."""


class ConditionedModel(GuidedModel, Protocol):
    """A model that can compute the posterior of its local latents given the global ones."""

    def conditional(self, site: str, batch: RowBatch, latents: dict[str, Tensor]) -> TorchDistribution:
        """The posterior of one local site given the global latents and the local ones before it."""
