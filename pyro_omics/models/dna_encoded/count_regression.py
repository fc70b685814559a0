"""DELCount: rates of target and matrix binding as functions of a compound's features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional

from pyro_omics.batch import DELBatch
from pyro_omics.layers import GatedAttention, LayerNorm, Linear, ResidualMLP
from pyro_omics.layers.inputs import beside_rows
from pyro_omics.layers.module import pyro_method
from pyro_omics.models.base import CountModel
from pyro_omics.models.dna_encoded.selection_arm import SelectionArm
from pyro_omics.parts.base import check_at_least, check_part, check_positive
from pyro_omics.parts.likelihoods import Likelihood, ZeroInflatedPoisson
from pyro_omics.sizes import DELSizes

SPREAD = 0.5  # standard deviation of the log of a latent depth around the known depth
RANGE = 12.0  # bound of |log rate|, because exp of an untrained network's output can overflow


class DELCount(CountModel):
    r"""Counts of a DNA-encoded library given the features of its compounds: the DEL-Dock model.

    .. math::
        \lambda^M_n &= \exp f(\mathrm{features}_n), \quad
        \lambda^T_n = \exp g(\textstyle\sum_p a_p h_p) \\
        c_{nr} &\sim \mathrm{ZIP}(d_r \lambda^M_n, \pi^M_r), \quad
        x_{nr} \sim \mathrm{ZIP}(b \, d_r (\lambda^M_n + \lambda^T_n), \pi^T_r)

    with d_r the mean count of a compound in the sample, so that lambda^M is about 1 on average, and b the share of the
    target selections' reads that is background. f and g are residual networks. With docked poses, g takes the mean of
    their features h by gated attention, besides the compound's own features. Without features, the networks take the
    compound's building blocks, one-hot. Without controls, lambda^M is 1.

    Rates are per tag: they include its abundance, so that an abundant tag looks like a matrix binder. The model has no
    latent variables unless the depths are latent: training is then maximum likelihood, intervals are points, and
    probabilities are 0 or 1.

    Parameters
    ----------
    sizes
        sizes of the data; ``DELCount.from_data(dm)`` passes them.
    likelihood
        of the counts; `likelihoods.ZeroInflatedPoisson` by default, with a learned gate for each sample (its argument
        ``gate`` fixes them).
    n_hidden, n_blocks
        width and number of the residual blocks of each network.
    dropout
        dropout rate of the networks.
    norm
        `layers.LayerNorm`, `layers.BatchNorm`, or None.
    latent_depth
        whether the depths are latent, LogNormal(log d_r, 0.5), instead of known. Then only this prior determines the
        level of lambda^M, and with it that of the background.

    Raises
    ------
    ValueError
        If a part already belongs to another model.

    Source: Shmilovich et al. 2023, ACS Omega 8, 29143 (arXiv:2212.00136).
    """

    queries: ClassVar[dict[str, str | tuple[str, ...]]] = {"log_enrichment": "scores", "matrix_binding": "scores"}
    tables: ClassVar[tuple[str, ...]] = ("enrichment", "hits", "synthons")
    learning_rate = 2e-2
    recommended_steps = 1000
    axes: Mapping[str, tuple[str, ...]] = {
        "x": ("targets",),
        "x_control": ("controls",),
        "depth": ("targets",),
        "control_depth": ("controls",),
    }

    def __init__(
        self,
        sizes: DELSizes,
        likelihood: Likelihood | None = None,
        n_hidden: int = 128,
        n_blocks: int = 2,
        dropout: float = 0.1,
        norm: type[nn.Module] | None = LayerNorm,
        latent_depth: bool = False,
    ) -> None:
        super().__init__(n_obs=sizes.n_obs)
        check_positive(n_hidden=n_hidden)
        check_at_least(0, n_blocks=n_blocks)
        self.sizes, self.latent_depth = sizes, latent_depth
        chosen = check_part("likelihood", ZeroInflatedPoisson() if likelihood is None else likelihood, Likelihood)
        self.target = SelectionArm(chosen, sizes, sizes.n_target)
        n_in = sizes.n_features or sum(sizes.n_synthons)
        network: dict[str, Any] = {"n_hidden": n_hidden, "n_blocks": n_blocks, "dropout": dropout, "norm": norm}
        self.control = SelectionArm(chosen, sizes, sizes.n_control) if sizes.n_control else None
        self.matrix_rate = ResidualMLP(n_in, 1, **network) if sizes.n_control else None
        self.pose = None
        if sizes.pose_shape:
            self.pose = Linear(sizes.pose_shape[-1], n_hidden)
            self.attention = GatedAttention(n_hidden)
        self.target_rate = ResidualMLP(n_in + (n_hidden if sizes.pose_shape else 0), 1, **network)
        self.log_background = nn.Parameter(torch.tensor(-0.1))
        with torch.no_grad():
            self.target_rate.last.bias.fill_(-3.0)  # most compounds do not bind

    def forward(self, batch: DELBatch) -> None:
        """The generative program over a minibatch."""
        latents = {}
        for name in ("depth", "control_depth"):
            known = getattr(self.sizes, name)
            if self.latent_depth and known:
                prior = dist.LogNormal(self._vector(known).log(), SPREAD).to_event(1)
                latents[name] = beside_rows(pyro.sample(name, prior), 1)
        with self.plate(batch):
            matrix_n, target_n = self.rates(batch)
            depth = latents.get("depth", self._vector(self.sizes.depth))
            background = beside_rows(self.log_background, 0).exp().unsqueeze(-1)
            mean = background * depth * (matrix_n + target_n).unsqueeze(-1)
            pyro.sample("x", self.target(mean, batch), obs=batch.x)
            if self.control is not None:
                depth = latents.get("control_depth", self._vector(self.sizes.control_depth))
                pyro.sample("x_control", self.control(depth * matrix_n.unsqueeze(-1), batch), obs=batch.control)

    def _vector(self, values: tuple[float, ...]) -> Tensor:
        return self.log_background.new_tensor(values)

    def rates(self, batch: DELBatch) -> tuple[Tensor, Tensor]:
        """lambda^M and lambda^T, (n,) each."""
        features = self.inputs(batch)
        matrix = torch.ones_like(batch.x[:, 0])
        if self.matrix_rate is not None:
            matrix = _rate(self.matrix_rate(features))
        if self.pose is not None:
            n_poses = self.sizes.pose_shape[0]
            # The poses are the layer's rows, see `GatedAttention.weights`.
            poses: Any = batch.poses
            h = torch.relu(self.pose(poses.flatten(0, 1))).unflatten(-2, (-1, n_poses))
            pooled = self.attention(h)
            features = torch.cat([features.expand(*pooled.shape[:-1], -1), pooled], -1)
        return matrix, _rate(self.target_rate(features))

    def inputs(self, batch: DELBatch) -> Tensor:
        """Inputs of the networks (n, n_in): the compounds' features, or their building blocks one-hot."""
        if batch.features is not None:
            return batch.features
        codes = zip(batch.synthons.unbind(-1), self.sizes.n_synthons, strict=True)
        return torch.cat([functional.one_hot(code, size) for code, size in codes], -1).to(batch.x.dtype)

    @pyro_method
    def log_enrichment(self, batch: DELBatch, latents: dict[str, Tensor]) -> Tensor:
        """Natural log of 1 + lambda^T, (n, 1); the 1 is the mean of lambda^M, the background."""
        return torch.log1p(self.rates(batch)[1]).unsqueeze(-1)

    @pyro_method
    def matrix_binding(self, batch: DELBatch, latents: dict[str, Tensor]) -> Tensor:
        """Natural log of lambda^M, (n, 1)."""
        return self.rates(batch)[0].log().unsqueeze(-1)


def _rate(log_rate: Tensor) -> Tensor:
    return log_rate.squeeze(-1).clamp(-RANGE, RANGE).exp()
