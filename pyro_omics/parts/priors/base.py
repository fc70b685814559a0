"""Base class of the priors over the latent z."""

from __future__ import annotations

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_omics.batch import CellBatch
from pyro_omics.parts.base import EncodingModel, Part, check_positive
from pyro_omics.sizes import Sizes


class Prior(Part):
    """A distribution over z, created without sizes and completed once by `build`.

    Parameters
    ----------
    n_latent
        dimension of z; None leaves it to the model, which calls `build`.
    """

    def __init__(self, n_latent: int | None = None) -> None:
        super().__init__()
        self.n_latent = n_latent
        if n_latent is not None:
            check_positive(n_latent=n_latent)
            self.complete(n_latent)

    def build(self, sizes: Sizes) -> None:
        """Complete the prior for the ``sizes.n_latent`` dimensions of its model."""
        super().build(sizes)
        if sizes.n_latent is None or self.n_latent not in (None, sizes.n_latent):
            raise ValueError(
                f"the prior was made with n_latent={self.n_latent}, and the model has n_latent={sizes.n_latent}"
            )
        if self.n_latent is None:
            self.n_latent = sizes.n_latent
            self.complete(sizes.n_latent)

    def complete(self, n_latent: int) -> None:
        """Create parameters and buffers for ``n_latent`` dimensions."""

    def attach(self, model: EncodingModel) -> None:
        """Set up what the prior needs of its model's networks; the model calls it once these exist.

        Parameters
        ----------
        model
            the model that holds the prior; ``encoder_inputs`` and ``require_encoder`` are ready to be called.
        """

    def forward(self, batch: CellBatch | None = None) -> TorchDistribution:
        """The distribution of a row's z: event shape (k,), batch shape () or (n,)."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(batch)")

    def transform(self, z: Tensor) -> Tensor:
        """The decoder's input for z (..., k): z itself, unless overridden."""
        return z
