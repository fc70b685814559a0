"""`VampPrior`: a mixture of the encoder's own posteriors."""

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

SEED = 0  # of the rows that the pseudo-inputs start from


class VampPrior(Prior):
    r"""A mixture of the posteriors that the encoder gives to learned pseudo-inputs u, with learned weights.

    .. math:: z_n \sim \sum_c \pi_c \, \mathrm{Normal}(\mu(u_c), \mathrm{diag}\,\sigma^2(u_c))

    The pseudo-inputs live where the encoder's inputs do (``model.encoder_inputs``), and start at random training rows,
    with those rows' covariates where the encoder sees them, which stay. The encoder is the model's, made for the
    prior where no guide asks for one. It is run on them as in evaluation, without dropout and with BatchNorm's running
    statistics, so that rows and pseudo-inputs do not mix.

    Parameters
    ----------
    n_components
        number of pseudo-inputs. Where it exceeds the number of training rows, rows are used more than once.
    n_latent
        as in `Prior`.

    Raises
    ------
    ValueError
        For fewer than one component, and when called without a model.

    Notes
    -----
    A model of one's own that holds the prior calls ``self.prior.attach(self)`` at the end of its ``__init__``. The
    posteriors are of ``model.latent_site``, from ``model.encoded``.

    Source: Tomczak and Welling 2018, AISTATS, arXiv:1705.07120 (there with equal weights).
    """

    cov: Tensor | None
    started: Tensor

    def __init__(self, n_components: int = 50, n_latent: int | None = None) -> None:
        check_positive(n_components=n_components)
        self.n_components = n_components
        super().__init__(n_latent)

    def complete(self, n_latent: int) -> None:
        """Make the logits (c,); the pseudo-inputs need the model, see `attach`."""
        self.logits = nn.Parameter(torch.zeros(self.n_components))
        self.register_buffer("started", torch.tensor(False))

    def attach(self, model: EncodingModel) -> None:
        """Make the pseudo-inputs (c, n_in), scattered around an example's inputs, and the model's encoder."""
        assert self.n_latent is not None
        # Not registered: the encoder's parameters are the model's.
        self._model = (model,)
        model.require_encoder(model.latent_site, self.n_latent)
        batch = model.example_batch()
        inputs = model.encoder_inputs(batch)[:1].detach()
        cov = model.encoder_covariates(batch)
        self.inputs = nn.Parameter(2 * torch.rand(self.n_components, inputs.shape[-1]) * inputs)
        self.register_buffer("cov", None if cov is None else cov[:1].detach().repeat(self.n_components, 1))

    @torch.no_grad()
    def warm_start(self, model: EncodingModel, dm: RowData) -> None:
        """Put the pseudo-inputs at random training rows, the same at each run; not twice, which would undo training."""
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
                "VampPrior has no model whose encoder it could use: call prior.attach(model), which SCVI and TotalVI "
                "do by themselves, at the end of the model's __init__"
            )
        (model,) = self._model
        site = model.latent_site
        with eval_mode(model.encoders[site]):
            loc_ck, scale_ck = model.encoded(site, self.inputs, self.cov)
        if loc_ck.shape != (self.n_components, self.n_latent):
            raise ValueError(
                f"the encoder of {site!r} must return {self.n_latent} numbers for each of {self.n_components} "
                f"pseudo-inputs, and returned the shape {tuple(loc_ck.shape)}"
            )
        return normal_mixture(self.logits, loc_ck, scale_ck)
