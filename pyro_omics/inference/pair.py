"""What draws and queries need of a trained pair."""

from __future__ import annotations

from typing import Protocol

from pyro_omics.models.base import CountModel, Guide


class Pair(Protocol):
    """A model and its guide, as an `SVIModule` holds them."""

    n_obs: int

    @property
    def model(self) -> CountModel:
        """The model."""

    @property
    def guide(self) -> Guide:
        """The guide."""

    @property
    def nesting(self) -> int | None:
        """How deep plates are nested, where discrete latents are summed out; else None."""
