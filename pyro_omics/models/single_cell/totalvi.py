"""totalVI: RNA and surface proteins of single cells together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.infer.util import is_validation_enabled
from torch import Tensor, nn
from torch.nn import functional

from pyro_omics import distributions as counts
from pyro_omics.batch import CellBatch
from pyro_omics.layers import Branches, Classifier, Decoder, Encoder, at_entries, log_normalised, start_outputs
from pyro_omics.layers.module import pyro_method
from pyro_omics.models.base import Guide
from pyro_omics.models.single_cell.scvi import SCVI
from pyro_omics.parts.base import check_heads, check_part, check_unowned
from pyro_omics.parts.dispersions import PerGene
from pyro_omics.parts.likelihoods import Likelihood, NegativeBinomial, NegativeBinomialMixture
from pyro_omics.parts.protein_background import Background, Efficiency
from pyro_omics.parts.starts import training_batches
from pyro_omics.schema import RowData
from pyro_omics.sizes import Sizes


class TotalVI(SCVI):
    r"""totalVI (Gayoso et al. 2021, Nature Methods 18, 272): scVI's RNA, and proteins from the same latent z.

    .. math::
        z_n &\sim \mathrm{Normal}(0, I_k), \quad
        x_{ng} \sim \mathrm{NB}(l_n \rho_{ng}, \theta_g), \quad \rho_n = \mathrm{softmax}(\mathrm{decoder}(z_n, s_n)) \\
        e_{st} &\sim \mathrm{LogNormal}(0, 1), \quad
        \log \beta_{nt} = c_{st} + d_{st} u_{nt}, \quad u_{nt} \sim \mathrm{Normal}(0, 1) \\
        y_{nt} &\sim \pi_{nt} \, \mathrm{NB}(e_{st} \beta_{nt}, \phi_t)
            + (1 - \pi_{nt}) \, \mathrm{NB}(e_{st} \alpha_{nt} \beta_{nt}, \phi_t)

    with s the cell's batch, and alpha >= 1 and pi = P(background) outputs of the protein decoder at (z_n, s_n). The
    efficiency e is a global latent, counted once per data set. The guide of u_nt is a network of (z_n, s_n): it does
    not take the cell's own count, so that a cell's background is inferred from its state only.

    Proteins that were not measured in a cell are left out of the likelihood and of the KL of u. Queries impute them.
    For proteins that the cell's whole batch lacks, they use the parameters of the batch that measured them in most
    cells.

    Parameters
    ----------
    sizes
        sizes of the data; ``TotalVI.from_data(dm)`` passes them.
    n_latent
        k, the dimension of z.
    n_hidden
        width of the hidden layers.
    n_layers
        number of hidden layers of the encoder (the decoders have one).
    dropout
        dropout rate of all networks.
    likelihood
        of the RNA counts; `likelihoods.NegativeBinomial` by default.
    protein_likelihood
        of the protein counts; `likelihoods.NegativeBinomialMixture` by default. The dispersion is an argument of the
        likelihood.
    protein_decoder
        (z (n, k), covariates) -> dict of (n, t) with the heads of the protein likelihood and of the background.
    efficiency
        of the batches; `proteins.Efficiency` by default. `proteins.PointEfficiency` is that of scvi-tools.
    background
        prior of the background rate, learned or fixed; `proteins.Background` by default, with c and d for each batch,
        which can explain the same differences as e: to study efficiencies use ``Background(shared=True)``.
    adversary
        weight of a penalty on z for a classifier that predicts the batch from it; by default 1 if a batch lacks
        proteins, otherwise 0.
    rna
        the other arguments of `SCVI`: norm, prior, library, encoder, decoder, encode_covariates.

    Raises
    ------
    ValueError
        If the data have no proteins, and as `SCVI`.
    """

    queries: ClassVar[dict[str, str | tuple[str, ...]]] = {
        "normalized_expression": ("genes", "proteins"),
        "denoised_samples": ("genes", "proteins"),
        "protein_foreground_probability": "proteins",
        "protein_background": "proteins",
    }
    axes: Mapping[str, tuple[str, ...]] = {
        "x": ("genes",),
        "y": ("proteins",),
        "background": ("proteins",),
        "efficiency": ("batch", "proteins"),
    }
    measured_bt: Tensor
    stand_in_bt: Tensor

    def __init__(
        self,
        sizes: Sizes,
        n_latent: int = 20,
        n_hidden: int = 256,
        n_layers: int = 2,
        dropout: float = 0.2,
        likelihood: Likelihood | None = None,
        protein_likelihood: NegativeBinomialMixture | None = None,
        protein_decoder: nn.Module | None = None,
        efficiency: Efficiency | None = None,
        background: Background | None = None,
        adversary: float | None = None,
        **rna: Any,
    ) -> None:
        if sizes.n_proteins < 1:
            raise ValueError(
                "TotalVI needs protein counts, and the data have none: name them, "
                "CellDataModule(adata, protein_obsm_key=...) or, for a MuData whose proteins have another name than "
                "'prot' or 'protein', CellDataModule(data.from_mudata(mdata, protein=...), "
                "protein_obsm_key='protein_counts'); or use SCVI"
            )
        rna["likelihood"] = NegativeBinomial() if likelihood is None else likelihood
        super().__init__(sizes, n_latent=n_latent, n_hidden=n_hidden, n_layers=n_layers, dropout=dropout, **rna)
        self.n_proteins = sizes.n_proteins
        # 1.0 is the mean of Uniform(0, 2), from which scvi-tools draws the log theta of proteins.
        mixture = NegativeBinomialMixture(PerGene(start=1.0)) if protein_likelihood is None else protein_likelihood
        self.protein_likelihood = check_part("protein_likelihood", mixture, NegativeBinomialMixture)
        self.protein_likelihood.build(replace(self.sizes, n_genes=sizes.n_proteins))
        self.efficiency = check_part("efficiency", Efficiency() if efficiency is None else efficiency, Efficiency)
        self.background = check_part("background", Background() if background is None else background, Background)
        for part in (self.efficiency, self.background):
            part.build(self.sizes)
        self.protein_heads = (*self.protein_likelihood.heads, *self.background.heads)
        if protein_decoder is None:
            protein_decoder = Branches(*(self.build_decoder({head: self.n_proteins}) for head in self.protein_heads))
        self.protein_decoder = check_unowned("protein_decoder", protein_decoder)
        self.local_sites = (*self.local_sites, "background")
        self._register_panels(sizes)
        missing = not bool(self.measured_bt.all())
        self.adversary = float(missing) if adversary is None else adversary
        if not (isinstance(self.adversary, int | float) and self.adversary >= 0):
            raise ValueError(f"adversary must be the weight of a penalty, 0 or more; got {adversary!r}")
        if self.adversary and sizes.n_batches == 1:
            raise ValueError(f"adversary={adversary} hides the batch, and the data have one batch only: leave it out")
        if self.adversary:
            self.classifier = Classifier(n_latent, sizes.n_batches, norm=self.network["norm"])

    def _register_panels(self, sizes: Sizes) -> None:
        """Register which batches measured which proteins, and for each missing protein the batch to use instead."""
        cells_bt = torch.tensor(sizes.protein_cells).reshape(sizes.n_batches, self.n_proteins)
        own_b1 = torch.arange(sizes.n_batches).unsqueeze(-1)
        self.register_buffer("measured_bt", cells_bt > 0, persistent=False)
        self.register_buffer("stand_in_bt", torch.where(cells_bt > 0, own_b1, cells_bt.argmax(0)), persistent=False)
        self.stand_ins = sorted(set(self.stand_in_bt[cells_bt == 0].tolist()))

    # The program ----------------------------------------------------------------------------------------------------

    def forward(self, batch: CellBatch) -> None:
        """The generative program over a minibatch."""
        efficiency_bt = self.efficiency()
        with self.plate(batch):
            z_nk = self.express(batch)
            u_nt = pyro.sample("background", self._background_prior(batch))
            efficiency_nt = self._batch_values(efficiency_bt, batch)
            self.efficiency.add_cell_terms(efficiency_nt)
            mean_nt, heads = self.decode_proteins(z_nk, u_nt, efficiency_nt, batch)
            y_nt = self.protein_likelihood(mean_nt, heads, self._with_entry_codes(batch))
            pyro.sample("y", counts.masked(y_nt, batch.measured), obs=batch.y)

    def _background_prior(self, batch: CellBatch) -> TorchDistribution:
        zeros = torch.zeros_like(self._counts(batch))
        return counts.masked(dist.Normal(zeros, torch.ones_like(zeros)).to_event(1), batch.measured)

    def informed(self, site: str, batch: CellBatch) -> Tensor | None:
        """The mask of measured proteins for "background"; the others are left out of the KL."""
        return batch.measured if site == "background" else None

    def decode_proteins(
        self, z_nk: Tensor, u_nt: Tensor, efficiency_nt: Tensor, batch: CellBatch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The background's mean e beta, in counts, and the protein likelihood's heads, (n, t) each."""
        heads = self._in_measuring_batches(self._protein_heads, z_nk, batch)
        return efficiency_nt * self.background(u_nt, self._entry_codes(batch), heads), heads

    def _protein_heads(self, z_nk: Tensor, batch: CellBatch) -> dict[str, Tensor]:
        heads = self.protein_decoder(self.prior.transform(z_nk), self.covariates(batch))
        if is_validation_enabled():
            check_heads("protein_decoder", heads, self.protein_heads, f"{self.n_proteins} proteins", self.n_proteins)
        return heads

    # Batches that did not measure a protein -------------------------------------------------------------------------

    def _codes(self, batch: CellBatch) -> Tensor:
        return torch.zeros_like(batch.index) if batch.batch is None else batch.batch

    def _batch_values(self, table_bt: Tensor, batch: CellBatch) -> Tensor:
        """The table's values (n, t) for each entry's batch, see `_entry_codes`."""
        return at_entries(table_bt, self._entry_codes(batch))

    def _entry_codes(self, batch: CellBatch) -> Tensor:
        """Code (n, t) of the batch to decode each cell and protein with: one that measured the protein."""
        return self.stand_in_bt[self._codes(batch)]

    def _with_entry_codes(self, batch: CellBatch) -> CellBatch:
        """The minibatch for the protein likelihood, with batch codes per protein (n, t) if a batch lacks proteins."""
        return batch._replace(batch=self._entry_codes(batch)) if self.stand_ins else batch

    def _in_measuring_batches(
        self, network: Callable[[Tensor, CellBatch], dict[str, Tensor]], z_nk: Tensor, batch: CellBatch
    ) -> dict[str, Tensor]:
        """Outputs (n, t) of a network, for each protein with the code of a batch that measured it.

        In training, the network runs once: proteins that a cell's batch lacks are masked out of the loss.
        """
        out = network(z_nk, batch)
        if self.training or not self.stand_ins:
            return out
        stand_in_nt, own_n1 = self._entry_codes(batch), self._codes(batch).unsqueeze(-1)
        for code in self.stand_ins:
            borrowed_nt = (stand_in_nt == code) & (own_n1 != code)
            if borrowed_nt.any():
                moved = network(z_nk, batch._replace(batch=torch.full_like(batch.index, code)))
                out = {name: torch.where(borrowed_nt, moved[name], value) for name, value in out.items()}
        return out

    # The guide's networks -------------------------------------------------------------------------------------------

    def encoder_inputs(self, batch: CellBatch) -> Tensor:
        """log(1 + x / (1 + mean x)) of RNA and of the measured proteins, concatenated (n, g + t)."""
        return torch.cat([log_normalised(batch.x), log_normalised(self._counts(batch), batch.measured)], -1)

    def _counts(self, batch: CellBatch) -> Tensor:
        if batch.y is None:
            raise ValueError(
                "TotalVI needs proteins in each minibatch, and this one has none: use "
                "CellDataModule(adata, protein_obsm_key=...)"
            )
        return batch.y

    def encode(
        self, batch: CellBatch, site: str = "z", latents: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Location and scale of a site's posterior; for "background" by a network of z and the covariates."""
        if site != "background":
            return super().encode(batch, site)
        if latents is None or "z" not in latents:
            raise ValueError(
                "the posterior of 'background' needs latents['z']: sample model.local_sites in their order"
            )

        def network(z_nk: Tensor, cells: CellBatch) -> dict[str, Tensor]:
            inputs = self.prior.transform(z_nk)
            return dict(zip(("loc", "scale"), self.run_encoder(site, inputs, self.covariates(cells)), strict=True))

        out = self._in_measuring_batches(network, latents["z"], batch)
        return self.background.standardised(out["loc"], out["scale"], self._entry_codes(batch))

    def build_encoder(self, site: str, n_out: int) -> nn.Module:
        """Make the encoder of the counts of both modalities, or, for "background", of z and the covariates."""
        if site != "background":
            return super().build_encoder(site, n_out)
        return Encoder(self.n_latent, n_out, n_cov=self.covariates.n_out, **self._decoder_network())

    def build_decoder(self, heads: dict[str, int]) -> nn.Module:
        """Make a decoder with one hidden layer and dropout; the outputs also take z and covariates, as published."""
        return Decoder(self.n_latent, heads, n_cov=self.covariates.n_out, **self._decoder_network())

    def _decoder_network(self) -> dict[str, Any]:
        return {**self.network, "n_layers": 1, "dropout": self.dropout, "skip": True}

    # Training -------------------------------------------------------------------------------------------------------

    @property
    def decoders(self) -> tuple[nn.Module, ...]:
        """The networks from z to the parameters of the counts, of RNA and of proteins."""
        return self.decoder, self.protein_decoder

    def warm_start(self, guide: Guide, dm: RowData) -> None:
        """Start as `SCVI`, and the protein decoder at each protein's share and level of foreground cells."""
        super().warm_start(guide, dm)
        start_outputs(self.protein_decoder, self.start_proteins(dm))

    def start_proteins(self, dm: RowData) -> dict[str, Tensor]:
        """``foreground`` and ``background_logits`` (t,) of cells above the background's 97.5th percentile."""
        totals = torch.zeros(3, self.n_proteins, dtype=torch.double)
        for batch in training_batches(dm):
            y_nt = self._counts(batch)
            codes_nt = self._entry_codes(batch)
            loc_nt = at_entries(self.background.start_loc.expand(self.sizes.n_batches, -1), codes_nt)
            scale_nt = at_entries(self.background.start_scale.expand(self.sizes.n_batches, -1), codes_nt)
            measured_nt = torch.ones_like(y_nt) if batch.measured is None else batch.measured.to(y_nt)
            high_nt = measured_nt * (y_nt.log1p() > loc_nt + 2 * scale_nt)
            totals += torch.stack([(high_nt * (y_nt / loc_nt.exp())).sum(0), high_nt.sum(0), measured_nt.sum(0)])
        ratio, n_high, n = totals.float()
        share = (n_high + 1) / (n + 2)
        alpha = (ratio + 2) / (n_high + 1)
        return {"foreground": alpha.clamp(2, 50) - 2, "background_logits": -torch.logit(share).clamp(-3, 3)}

    def penalty(self, batch: CellBatch, latents: Mapping[str, Tensor]) -> Tensor | None:
        """Cross-entropy of a classifier of the batch given z, with reversed gradient; None without an adversary.

        Source: Gayoso et al. 2021, Nature Methods 18, 272 (missing proteins).
        """
        if not hasattr(self, "classifier"):
            return None
        logits = self.classifier(self.prior.transform(latents["z"]))
        codes = self._codes(batch).expand(logits.shape[:-1])
        return self.adversary * functional.cross_entropy(logits.flatten(0, -2), codes.flatten())

    # Queries --------------------------------------------------------------------------------------------------------

    def _decode_latents(self, batch: CellBatch, latents: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        efficiency_bt = latents["efficiency"] if "efficiency" in latents else self.efficiency()
        efficiency_nt = self._batch_values(efficiency_bt, batch)
        return self.decode_proteins(latents["z"], latents["background"], efficiency_nt, batch)

    @pyro_method
    def normalized_expression(
        self,
        batch: CellBatch,
        latents: dict[str, Tensor],
        library_size: float | None = 1.0,
        include_protein_background: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Expected expression: of RNA (n, g), frequencies times a library size; of proteins (n, t), counts.

        Proteins are e beta (pi + (1 - pi) alpha), the expected counts in the batch's experiment, so that imputed and
        measured proteins are comparable; or, without the background, (1 - pi) e alpha beta (the default in scvi-tools).

        Parameters
        ----------
        batch
            the cells, with the covariates to decode with.
        latents
            values of the latent sites.
        library_size
            the sum of each cell's RNA expression, in counts; None uses the cell's own library size.
        include_protein_background
            whether to include the background's expected counts, pi e beta.
        """
        rna_ng = super().normalized_expression(batch, latents, library_size)
        background_nt, foreground_nt = self.protein_likelihood.expected_counts(*self._decode_latents(batch, latents))
        return rna_ng, foreground_nt + background_nt if include_protein_background else foreground_nt

    @pyro_method
    def denoised_samples(
        self, batch: CellBatch, latents: dict[str, Tensor], library_size: float | None = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Draws of the rates underlying the counts, RNA (n, g) and proteins (n, t), the latter 0 for background.

        Parameters
        ----------
        batch, latents, library_size
            as in `normalized_expression`.

        Source: Gayoso et al. 2021, Nature Methods 18, 272.
        """
        rna_ng = super().denoised_samples(batch, latents, library_size)
        mean_nt, heads = self._decode_latents(batch, latents)
        return rna_ng, self.protein_likelihood.denoised(mean_nt, heads, self._with_entry_codes(batch))

    @pyro_method
    def protein_foreground_probability(self, batch: CellBatch, latents: dict[str, Tensor]) -> Tensor:
        """P(foreground | y, z), (n, t), by Bayes' rule in the mixture; 1 - pi for a protein that was not measured.

        Parameters
        ----------
        batch
            the cells; cells decoded as another batch count as not measured.
        latents
            values of the latent sites.
        """
        mean_nt, heads = self._decode_latents(batch, latents)
        mixture = self.protein_likelihood(mean_nt, heads, self._with_entry_codes(batch)).base_dist
        posterior_nt = mixture.foreground_probability(self._counts(batch))
        if batch.measured is None:
            return posterior_nt
        return torch.where(batch.measured, posterior_nt, torch.sigmoid(-heads["background_logits"]))

    @pyro_method
    def protein_background(self, batch: CellBatch, latents: dict[str, Tensor]) -> Tensor:
        """The background's rate e beta, (n, t), in counts.

        Parameters
        ----------
        batch, latents
            the cells, and values of the latent sites.
        """
        return self._decode_latents(batch, latents)[0]
