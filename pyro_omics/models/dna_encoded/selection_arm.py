"""An arm of a selection: a likelihood over its samples, with one learned number for each head that it asks for."""

from __future__ import annotations

import copy

import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_omics.batch import DELBatch
from pyro_omics.parts.likelihoods import Likelihood
from pyro_omics.sizes import DELSizes

START = {"dropout_logits": -2.0}


class SelectionArm(PyroModule):
    """The counts of one arm (target, control): a likelihood of their means.

    What the likelihood asks of a decoder (a gate's logits, say) is here one learned number for each sample.

    Parameters
    ----------
    likelihood
        not built yet; a copy of it is, so that one object serves several arms.
    sizes
        of the data.
    n_samples
        number of the arm's samples.
    """

    def __init__(self, likelihood: Likelihood, sizes: DELSizes, n_samples: int) -> None:
        super().__init__()
        self.likelihood = copy.deepcopy(likelihood)
        self.likelihood.build(sizes.for_columns(n_samples))
        self.heads = PyroModule[nn.ParameterDict]()
        for name in self.likelihood.heads:
            self.heads[name] = nn.Parameter(torch.full((n_samples,), START.get(name, 0.0)))

    def forward(self, mean: Tensor, batch: DELBatch) -> TorchDistribution:
        """The distribution of counts of these means (..., n, r): event shape (r,)."""
        heads = {name: self.heads[name].expand(mean.shape) for name in self.likelihood.heads}
        return self.likelihood(mean, heads, batch)
