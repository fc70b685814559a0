"""Protocol of a trained model and guide, as draws and queries use it."""

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

    def check_thread(self) -> None:
        """Raise where the pair is being trained in another thread."""

    @property
    def nesting(self) -> int | None:
        """Nesting depth of plates, where discrete latents are summed out; else None."""
