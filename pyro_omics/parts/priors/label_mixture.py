"""`LabelMixture`: a mixture with a Normal for each label, for models with partly labelled rows."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from pyro_omics.batch import CellBatch
from pyro_omics.layers.inputs import at_levels, beside_rows
from pyro_omics.parts.priors.base import Prior


class LabelMixture(Prior):
    r"""Mixture with a component for each label: z ~ sum_c pi_c Normal(m_c, diag s_c^2), all of it learned.

    Parameters
    ----------
    n_labels
        number of labels.
    n_latent
        dimension of z; None leaves it to the model.
    """

    def __init__(self, n_labels: int, n_latent: int | None = None) -> None:
        self._n_labels = n_labels
        super().__init__(n_latent)

    def complete(self, n_latent: int) -> None:
        """Create weights, means and log scales; every component starts at Normal(0, I_k).

        Components that start apart would attract cells before the few labels show which cells belong to each.
        """
        self.logits = nn.Parameter(torch.zeros(self._n_labels))
        self.means = nn.Parameter(torch.zeros(self._n_labels, n_latent))
        self.log_scales = nn.Parameter(torch.zeros(self._n_labels, n_latent))

    def labels(self) -> TorchDistribution:
        """Categorical(pi) over the labels."""
        return dist.Categorical(logits=beside_rows(self.logits, 1))

    def component(self, y: Tensor) -> TorchDistribution:
        """Normal(m_y, s_y) for the labels y (...), event shape (k,)."""
        return dist.Normal(at_levels(self.means, y, 2), at_levels(self.log_scales, y, 2).exp()).to_event(1)

    def forward(self, batch: CellBatch | None = None) -> TorchDistribution:
        """The mixture over all labels, event shape (k,)."""
        return dist.MixtureSameFamily(
            self.labels(), self.component(torch.arange(self._n_labels, device=self.logits.device))
        )
