"""scVI: a variational autoencoder for single-cell RNA counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from numbers import Real
from typing import Any, ClassVar

import pyro
import torch
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn

from pyro_omics.batch import CellBatch
from pyro_omics.layers import BatchNorm, Covariates, Decoder, Encoder, start_outputs
from pyro_omics.layers.module import pyro_method
from pyro_omics.models.base import CountModel, Guide
from pyro_omics.parts.base import check_at_least, check_heads, check_part, check_positive, check_unowned
from pyro_omics.parts.library_sizes import Library, Observed
from pyro_omics.parts.likelihoods import Likelihood, ZeroInflatedNegativeBinomial
from pyro_omics.parts.priors import Prior, StandardNormal
from pyro_omics.parts.starts import log_frequencies
from pyro_omics.schema import RowData
from pyro_omics.sizes import Sizes


class SCVI(CountModel):
    r"""scVI (Lopez et al. 2018, Nature Methods 15, 1053).

    .. math::
        z_n &\sim \mathrm{Normal}(0, I_k) \\
        \rho_n &= \mathrm{softmax}(\mathrm{decoder}(z_n, s_n)) \\
        x_{ng} &\sim \mathrm{ZINB}(l_n \rho_{ng}, \theta_g, \pi_{ng})

    with l_n the cell's total count, s_n its batch and covariates, theta_g the inverse dispersion and pi_ng the dropout
    logits, an output of the decoder. Prior, library size, decoder and likelihood can be replaced by arguments.

    Parameters
    ----------
    sizes
        sizes of the data; ``SCVI.from_data(dm)`` passes them.
    n_latent
        k, the dimension of z.
    n_hidden
        width of the hidden layers of the encoder and of the decoder.
    n_layers
        number of hidden layers of each.
    dropout
        dropout rate of the encoder (the decoder has none).
    norm
        `layers.BatchNorm`, `layers.LayerNorm`, or None.
    prior
        of z; `priors.StandardNormal` by default.
    likelihood
        of the counts; `likelihoods.ZeroInflatedNegativeBinomial` by default. The dispersion is an argument of the
        likelihood.
    library
        of the library size l_n; `library_sizes.Observed` by default.
    encoder
        (log(1 + x) (n, g), covariates) -> location and scale (n, k) of z; by default created when a guide needs one.
    decoder
        (z (n, k), covariates) -> dict of (n, g) with ``"rho"`` (logits) and the likelihood's heads.
    encode_covariates
        whether the encoder also takes the covariates.
    weight_scale
        standard deviation of a Normal prior over the decoder's weights, whose mode is trained
        (`CountModel.weight_priors`), so that a long training does not overfit; None for no prior, as published.

    Raises
    ------
    ValueError
        If a part already belongs to another model, or needs data that are missing.
    """

    local_sites: tuple[str, ...] = ("z",)
    queries: ClassVar[dict[str, str | tuple[str, ...]]] = {
        "normalized_expression": "genes",
        "denoised_samples": "genes",
    }
    axes: Mapping[str, tuple[str, ...]] = {"x": ("genes",)}

    def __init__(
        self,
        sizes: Sizes,
        n_latent: int = 10,
        n_hidden: int = 128,
        n_layers: int = 1,
        dropout: float = 0.1,
        norm: type[nn.Module] | None = BatchNorm,
        prior: Prior | None = None,
        likelihood: Likelihood | None = None,
        library: Library | None = None,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
        encode_covariates: bool = False,
        weight_scale: float | None = 0.2,
    ) -> None:
        super().__init__(n_obs=sizes.n_obs)
        check_positive(n_latent=n_latent, n_hidden=n_hidden)
        check_at_least(0, n_layers=n_layers)
        self.sizes = replace(sizes, n_latent=n_latent)
        self.n_genes, self.n_latent = sizes.n_genes, n_latent
        self.encode_covariates = encode_covariates
        if weight_scale is not None and not weight_scale > 0:
            raise ValueError(
                f"weight_scale must be a standard deviation, above 0, or None for no prior; got {weight_scale!r}"
            )
        self.weight_scale = weight_scale
        self.covariates = Covariates(sizes)
        self.prior = StandardNormal() if prior is None else check_part("prior", prior, Prior)
        chosen = ZeroInflatedNegativeBinomial() if likelihood is None else likelihood
        self.likelihood = check_part("likelihood", chosen, Likelihood)
        self.library = Observed() if library is None else check_part("library", library, Library)
        for part in (self.prior, self.likelihood, self.library):
            part.build(self.sizes)
        self.local_sites = ("z", *self.library.sites)
        self.network: dict[str, Any] = {"n_hidden": n_hidden, "n_layers": n_layers, "norm": norm}
        self.dropout = dropout
        heads = dict.fromkeys(("rho", *self.likelihood.heads), sizes.n_genes)
        self.decoder = check_unowned("decoder", self.build_decoder(heads) if decoder is None else decoder)
        if encoder is not None:
            self.encoders["z"] = check_unowned("encoder", encoder)
        self.prior.attach(self)

    def forward(self, batch: CellBatch) -> None:
        """The generative program over a minibatch."""
        with self.plate(batch):
            self.express(batch)

    def express(self, batch: CellBatch) -> Tensor:
        """Run the program of the RNA inside the plate, and return z (n, k)."""
        z_nk = self.latent(batch)
        library_n1 = self.library(batch)
        rho_ng, heads = self.decode(z_nk, batch)
        counts = self.likelihood(library_n1 * rho_ng, heads, batch)
        pyro.sample("x", counts, obs=batch.x)
        return z_nk

    def latent(self, batch: CellBatch) -> Tensor:
        """Draw z (n, k) from the prior, inside the plate; a subclass may add observations that depend on z only."""
        return pyro.sample("z", self.prior(batch))

    def decode(self, z_nk: Tensor, batch: CellBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Expression frequencies rho (n, g), which sum to 1 in each row, and the likelihood's heads."""
        heads = self.decoder(self.prior.transform(z_nk), self.covariates(batch))
        if is_validation_enabled():  # as in the run before training, and in its first step
            check_heads("decoder", heads, ("rho", *self.likelihood.heads), f"{self.n_genes} genes", self.n_genes)
        return torch.softmax(heads["rho"], -1), heads

    def encoder_covariates(self, batch: CellBatch) -> Tensor | None:
        """The covariates if ``encode_covariates`` is set, otherwise None."""
        return self.covariates(batch) if self.encode_covariates else None

    def build_decoder(self, heads: dict[str, int]) -> nn.Module:
        """Make the network from z to the outputs ``heads``, name -> width."""
        return Decoder(self.n_latent, heads, n_cov=self.covariates.n_out, **self.network)

    def build_encoder(self, site: str, n_out: int) -> nn.Module:
        """Make the encoder of the counts for "z" or "library"; that of "library" has one hidden layer, as published."""
        network: dict[str, Any] = {**self.network, "dropout": self.dropout}
        if site == "library":
            network["n_layers"] = 1
        n_cov = self.covariates.n_out if self.encode_covariates else 0
        n_in = self.encoder_inputs(self.example_batch()).shape[-1]
        return Encoder(n_in, n_out, n_cov=n_cov, **network)

    @property
    def decoders(self) -> tuple[nn.Module, ...]:
        """The networks from z to the parameters of the counts."""
        return (self.decoder,)

    def weight_priors(self) -> Iterator[tuple[Tensor, float]]:
        """The matrices of the decoders' Linear layers, with ``weight_scale``; not those that are latent."""
        if self.weight_scale is None:
            return
        for decoder in self.decoders:
            for module in decoder.modules():
                weight = module._parameters.get("weight") if isinstance(module, nn.Linear) else None
                if weight is not None:
                    yield weight, self.weight_scale

    def warm_start(self, guide: Guide, dm: RowData) -> None:
        """Start the decoder at the genes' frequencies in all training cells, and the parts as they define it."""
        super().warm_start(guide, dm)
        start_outputs(self.decoder, {"rho": log_frequencies(dm)})

    @pyro_method
    def normalized_expression(
        self, batch: CellBatch, latents: dict[str, Tensor], library_size: float | None = 1.0
    ) -> Tensor:
        """Expression frequencies times a library size, (n, g).

        Parameters
        ----------
        batch
            the cells, with the covariates to decode with.
        latents
            values of the latent sites.
        library_size
            the sum of each cell's expression, in counts; None uses the cell's own library size.
        """
        rho_ng, _ = self.decode(latents["z"], batch)
        return rho_ng * self._library_size(batch, latents, library_size)

    @pyro_method
    def denoised_samples(
        self, batch: CellBatch, latents: dict[str, Tensor], library_size: float | None = 1.0
    ) -> Tensor:
        """Draws of the rate underlying the counts, (n, g): for negative binomials, draws from their Gamma.

        Parameters
        ----------
        batch, latents, library_size
            as in `normalized_expression`.

        Source: Gayoso et al. 2021, Nature Methods 18, 272 (denoised samples, for correlations).
        """
        rho_ng, heads = self.decode(latents["z"], batch)
        mean_ng = rho_ng * self._library_size(batch, latents, library_size)
        return self.likelihood.denoised(mean_ng, heads, batch)

    def _library_size(self, batch: CellBatch, latents: dict[str, Tensor], library_size: float | None) -> Tensor | float:
        """``library_size``, or each cell's own library size (n, 1) if that is None."""
        if library_size is not None:
            if not isinstance(library_size, Real) or not library_size > 0:
                raise ValueError(
                    "library_size must be a number of counts, above 0, or None for each cell's own; got "
                    f"{library_size!r}"
                )
            return float(library_size)
        return latents["library"] if "library" in latents else self.library(batch)
