"""Library sizes l_n: the scale between a cell's expression frequencies and its expected counts."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_omics.batch import CellBatch
from pyro_omics.parts.base import Part
from pyro_omics.sizes import Sizes


class Library(Part):
    """Library sizes l_n, called inside the plate over cells; ``sites`` names the latents that it samples."""

    sites: tuple[str, ...] = ()

    def forward(self, batch: CellBatch) -> Tensor:
        """The library sizes (n, 1), in counts."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(batch)")


class Observed(Library):
    """Observed library size: l_n = sum_g x_ng over the modelled genes."""

    def forward(self, batch: CellBatch) -> Tensor:
        """Total counts (n, 1)."""
        return batch.x.sum(-1, keepdim=True)


class SizeFactor(Library):
    """Library size l_n given with the data (``CellDataModule(size_factor_key=...)``), in counts."""

    def forward(self, batch: CellBatch) -> Tensor:
        """The given library sizes (n, 1)."""
        if batch.size_factor is None:
            raise ValueError(
                "library=SizeFactor() needs a size factor for each cell, and the data have none: "
                "name its obs column, CellDataModule(adata, size_factor_key=...)"
            )
        return batch.size_factor


class Latent(Library):
    """Latent library size: l_n ~ LogNormal(m_b, v_b), by mean and variance of the log totals in the cell's batch b.

    Source: Lopez et al. 2018, Methods, "The scVI probabilistic model".
    """

    sites = ("library",)
    log_mean: Tensor
    log_sd: Tensor

    def build(self, sizes: Sizes) -> None:
        """Store the mean and standard deviation of log total counts in each batch."""
        super().build(sizes)
        if len(sizes.log_library) != sizes.n_batches:
            raise ValueError(
                f"library=Latent() needs the mean and variance of log total counts in each of {sizes.n_batches} "
                f"batches, and sizes.log_library has {len(sizes.log_library)} batches: use the model's from_data(dm)"
            )
        mean_b, var_b = torch.tensor(sizes.log_library, dtype=torch.get_default_dtype()).T
        # Cells of equal depth have variance 0, and a LogNormal of scale 0 has no density.
        self.register_buffer("log_mean", mean_b.contiguous())
        self.register_buffer("log_sd", var_b.clamp(min=1e-4).sqrt())

    def forward(self, batch: CellBatch) -> Tensor:
        """Sample the site "library", (n, 1)."""
        code = torch.zeros_like(batch.index) if batch.batch is None else batch.batch
        prior = dist.LogNormal(self.log_mean[code].unsqueeze(-1), self.log_sd[code].unsqueeze(-1))
        return pyro.sample("library", prior.to_event(1))
