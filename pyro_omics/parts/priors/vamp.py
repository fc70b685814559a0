"""`VampPrior`: a mixture of the encoder's posteriors."""

from __future__ import annotations

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_omics.batch import CellBatch
from pyro_omics.layers import eval_mode
from pyro_omics.parts.base import EncodingModel, check_positive
from pyro_omics.parts.priors.base import Prior
from pyro_omics.parts.priors.mixture import normal_mixture
from pyro_omics.schema import RowData

SEED = 0  # for the choice of rows that initialize the pseudo-inputs


class VampPrior(Prior):
    r"""A mixture, with learned weights, of the encoder's posteriors for learned pseudo-inputs u.

    .. math:: z_n \sim \sum_c \pi_c \, \mathrm{Normal}(\mu(u_c), \mathrm{diag}\,\sigma^2(u_c))

    The pseudo-inputs are in the space of the encoder's inputs (``model.encoder_inputs``), and start as random training
    rows. If the encoder takes covariates, those of the same rows are used, and stay fixed. The encoder is the model's,
    created for the prior if no guide needs one. It is run in eval mode on the pseudo-inputs, without dropout and with
    BatchNorm's running statistics, so that rows and pseudo-inputs do not share batch statistics.

    Parameters
    ----------
    n_components
        number of pseudo-inputs; if it exceeds the number of training rows, rows are used more than once.
    n_latent
        as in `Prior`.

    Raises
    ------
    ValueError
        If ``n_components`` is below 1, and when the prior is called before it has a model.

    Notes
    -----
    A custom model that holds the prior calls ``self.prior.attach(self)`` at the end of its ``__init__``. The posteriors
    are those of ``model.latent_site``, from ``model.run_encoder``.

    Source: Tomczak and Welling 2018, AISTATS, arXiv:1705.07120 (there with equal weights).
    """

    cov: Tensor | None
    started: Tensor

    def __init__(self, n_components: int = 50, n_latent: int | None = None) -> None:
        check_positive(n_components=n_components)
        self.n_components = n_components
        super().__init__(n_latent)

    def complete(self, n_latent: int) -> None:
        """Create the logits (c,); `attach` creates the pseudo-inputs, which need the model."""
        self.logits = nn.Parameter(torch.zeros(self.n_components))
        self.register_buffer("started", torch.tensor(False))

    def attach(self, model: EncodingModel) -> None:
        """Create the pseudo-inputs (c, n_in), random multiples of an example's inputs, and the model's encoder."""
        assert self.n_latent is not None
        # In a tuple, so that it is not registered: the encoder's parameters belong to the model.
        self._model = (model,)
        model.require_encoder(model.latent_site, self.n_latent)
        batch = model.example_batch()
        inputs = model.encoder_inputs(batch)[:1].detach()
        cov = model.encoder_covariates(batch)
        self.inputs = nn.Parameter(2 * torch.rand(self.n_components, inputs.shape[-1]) * inputs)
        self.register_buffer("cov", None if cov is None else cov[:1].detach().repeat(self.n_components, 1))

    @torch.no_grad()
    def warm_start(self, model: EncodingModel, dm: RowData) -> None:
        """Initialize the pseudo-inputs with random training rows, from a fixed seed; a second call does nothing."""
        if self.started:
            return
        rows = torch.as_tensor(dm.rows("training"))
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED))
        chosen = rows[order.repeat(-(-self.n_components // len(rows)))[: self.n_components]]
        batch = dm.data[chosen.numpy()]
        self.inputs.copy_(model.encoder_inputs(batch))
        cov = model.encoder_covariates(batch)
        if self.cov is not None and cov is not None:
            self.cov.copy_(cov)
        self.started.fill_(True)

    def forward(self, batch: CellBatch | None = None) -> TorchDistribution:
        """The mixture of posteriors, event shape (k,)."""
        if not hasattr(self, "_model"):
            raise ValueError(
                "VampPrior needs a model whose encoder it can use: call prior.attach(model) at the end of the model's "
                "__init__, as SCVI and TotalVI do"
            )
        (model,) = self._model
        site = model.latent_site
        with eval_mode(model.encoders[site]):
            loc_ck, scale_ck = model.run_encoder(site, self.inputs, self.cov)
        if loc_ck.shape[-2:] != (self.n_components, self.n_latent):
            raise ValueError(
                f"the encoder of {site!r} must return {self.n_latent} numbers for each of {self.n_components} "
                f"pseudo-inputs; got the shape {tuple(loc_ck.shape)}"
            )
        return normal_mixture(self.logits, loc_ck, scale_ck)
