"""What every prior over the latent z has in common."""

from __future__ import annotations

from pyro.distributions import TorchDistribution
from torch import Tensor

from pyro_omics.batch import CellBatch
from pyro_omics.parts.base import EncodingModel, Part, check_positive
from pyro_omics.sizes import Sizes


class Prior(Part):
    """A distribution over z, made without sizes and completed by `build`.

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
        """Complete the prior for ``sizes.n_latent`` dimensions, for the model that takes it."""
        super().build(sizes)
        if sizes.n_latent is None or self.n_latent not in (None, sizes.n_latent):
            raise ValueError(f"the prior was made with n_latent={self.n_latent}, and the model has {sizes.n_latent}")
        if self.n_latent is None:
            self.n_latent = sizes.n_latent
            self.complete(sizes.n_latent)

    def complete(self, n_latent: int) -> None:
        """Make parameters and buffers for ``n_latent`` dimensions."""

    def attach(self, model: EncodingModel) -> None:
        """Take what the prior needs of its model's networks; the model calls it once it has them.

        Parameters
        ----------
        model
            holds the prior; ``model.encoder_inputs`` and ``model.require_encoder`` work.
        """

    def forward(self, batch: CellBatch | None = None) -> TorchDistribution:
        """The distribution of one row's z: event shape (k,), batch shape () or (n,)."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(batch)")

    def transform(self, z: Tensor) -> Tensor:
        """What the decoder sees of z (..., k): z itself, unless the prior says otherwise."""
        return z
