"""The single layers: linear, normalisation and dropout."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from pyro_omics.kernels import sparse_product
from pyro_omics.layers.module import FastPyroModule
from pyro_omics.serialization.arguments import RecordsArguments


class Linear(nn.Linear, FastPyroModule):
    """``nn.Linear`` as a PyroModule, so that its weights can become latent."""


class Dropout(nn.Dropout, FastPyroModule):
    """``nn.Dropout`` as a PyroModule, which is faster to read: Pyro looks for the parameters of a plain module."""


class BatchNorm(nn.BatchNorm1d, FastPyroModule):
    """Batch normalisation with the field's momentum (0.01) and eps (1e-3), over all leading dimensions.

    ``nn.BatchNorm1d`` takes the second dimension for the features, which is silently wrong for (particles, n, h)
    when n = h. A single row has no variance: it is normalised with the running statistics. (A mixin and not a subclass
    of ``PyroModule[nn.BatchNorm1d]``, whose copies and pickles come back as the parent class.)
    """

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features, momentum=0.01, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., n, h)."""
        flat = x.reshape(-1, x.shape[-1])
        if self.training and len(flat) == 1:
            out = functional.batch_norm(
                flat, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        else:
            out = super().forward(flat)
        return out.reshape(x.shape)


class LayerNorm(nn.LayerNorm, FastPyroModule):
    """Layer normalisation with eps 1e-3: no statistics are shared between rows."""

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features, eps=1e-3)


class SparseLinear(FastPyroModule, RecordsArguments):
    """x W + b for inputs most of which may be zero: on a processor, the product takes the non-zero ones alone.

    The weights are (n_in, n_out), transposed to those of ``nn.Linear``: an input's weights are contiguous.

    Parameters
    ----------
    n_in, n_out
        width of the input and of the output.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        drawn = nn.Linear(n_in, n_out)
        self.weight = nn.Parameter(drawn.weight.detach().t().contiguous())
        self.bias = nn.Parameter(drawn.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n_in) to (..., n_out)."""
        return sparse_product.product(x, self.weight) + self.bias
