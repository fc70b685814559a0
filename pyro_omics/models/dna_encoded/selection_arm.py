"""`SelectionArm`: the likelihood of the counts of one arm of a selection."""

from __future__ import annotations

import copy

import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_omics.batch import DELBatch
from pyro_omics.layers.inputs import beside_rows
from pyro_omics.layers.module import FastPyroModule
from pyro_omics.parts.likelihoods import Likelihood
from pyro_omics.sizes import DELSizes

START = {"dropout_logits": -2.0}  # initial values of heads; 0 for others


class SelectionArm(FastPyroModule):
    """Likelihood of the counts of one arm (target or control), given their means.

    The outputs that the likelihood needs from a decoder, such as gate logits, are one parameter for each sample here.

    Parameters
    ----------
    likelihood
        a likelihood that was not built; a copy of it is built, so that one object can serve several arms.
    sizes
        sizes of the data.
    n_samples
        number of samples of the arm.
    """

    def __init__(self, likelihood: Likelihood, sizes: DELSizes, n_samples: int) -> None:
        super().__init__()
        self.likelihood = copy.deepcopy(likelihood)
        self.likelihood.build(sizes.for_columns(n_samples))
        self.heads = PyroModule[nn.ParameterDict]()
        for name in self.likelihood.heads:
            self.heads[name] = nn.Parameter(torch.full((n_samples,), START.get(name, 0.0)))

    def forward(self, mean: Tensor, batch: DELBatch) -> TorchDistribution:
        """The distribution of counts with these means (..., n, r): event shape (r,)."""
        heads = {name: self._head(name, mean.shape) for name in self.likelihood.heads}
        return self.likelihood(mean, heads, batch)

    def _head(self, name: str, shape: torch.Size) -> Tensor:
        """A head for each count, (..., n, r)."""
        head = beside_rows(self.heads[name], 1)
        return head.expand(shape if head.ndim == 1 else torch.broadcast_shapes(head.shape, shape))
