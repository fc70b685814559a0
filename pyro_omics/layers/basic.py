"""Single layers: linear, normalisation and dropout."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pyro_omics.kernels import sparse_product
from pyro_omics.kernels.dispatch import can_use_kernel
from pyro_omics.layers.inputs import beside_rows, row_product
from pyro_omics.layers.module import FastPyroModule
from pyro_omics.serialization.arguments import RecordsArguments


class Linear(nn.Linear, FastPyroModule):
    """``nn.Linear`` as a PyroModule, so that its weights can become latent."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n, n_in) to (..., n, n_out)."""
        weight, bias = self.weight, self.bias
        if weight.ndim == 2 and (bias is None or bias.ndim == 1):
            return functional.linear(x, weight, bias)
        out = row_product(x, weight.transpose(-1, -2))
        return out if bias is None else out + beside_rows(bias, 1)


BITS = 16  # of torch's generator, for each entry that may be dropped


class Dropout(nn.Dropout, FastPyroModule):
    """``nn.Dropout`` as a PyroModule, which is faster: Pyro searches a plain module for parameters at each access.

    On the CPU, 16 bits of torch's generator decide on each entry, four entries to a draw: the probability is p within
    2^-17, and the other entries are divided by one minus exactly that. Torch's own takes a draw for each entry, with
    which a training step of TotalVI (4,000 genes, 256 cells, two threads) takes 6% longer.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Drop entries of ``x`` (...) in training mode."""
        if not self.training or not 0.01 <= self.p <= 0.99 or not can_use_kernel(x.detach()) or x.device.type != "cpu":
            return super().forward(x)
        n_dropped = round(self.p * 2**BITS)  # of the 2^16 values of the bits
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: x.numel()].view(x.shape)
        return x * (bits >= n_dropped - 2 ** (BITS - 1)).to(x.dtype).mul_(2**BITS / (2**BITS - n_dropped))


class BatchNorm(nn.BatchNorm1d, FastPyroModule):
    """Batch normalisation over all leading dimensions, with momentum 0.01 and eps 1e-3 as in scvi-tools.

    ``nn.BatchNorm1d`` takes the second dimension as the features, which is silently wrong for (particles, n, h) when
    n = h. A single row has no variance: it is normalised with the running statistics. (The class does not derive from
    ``PyroModule[nn.BatchNorm1d]``, because copies and pickles of a subclass of that are of the parent class.)
    """

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features, momentum=0.01, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., n, h)."""
        weight, bias = self.weight, self.bias
        flat = x.reshape(-1, x.shape[-1])
        if weight.ndim == bias.ndim == 1:
            return self._normalised(flat, weight, bias).reshape(x.shape)
        return self._normalised(flat).reshape(x.shape) * beside_rows(weight, 1) + beside_rows(bias, 1)

    def _normalised(self, rows: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Rows (n, h) normalised, by their own statistics in training."""
        by_rows = self.training and len(rows) > 1
        if by_rows:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
        momentum = self.momentum or 0.0
        return functional.batch_norm(
            rows, self.running_mean, self.running_var, weight, bias, by_rows, momentum, self.eps
        )


class LayerNorm(nn.LayerNorm, FastPyroModule):
    """Layer normalisation with eps 1e-3; rows share no statistics."""

    def __init__(self, n_features: int) -> None:
        super().__init__(n_features, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., n, h)."""
        weight, bias = self.weight, self.bias
        if weight.ndim == bias.ndim == 1:
            return functional.layer_norm(x, self.normalized_shape, weight, bias, self.eps)
        out = functional.layer_norm(x, self.normalized_shape, eps=self.eps)
        return out * beside_rows(weight, 1) + beside_rows(bias, 1)


class SparseLinear(FastPyroModule, RecordsArguments):
    """x W + b for mostly zero inputs: on the CPU, only the non-zero entries are multiplied.

    The weights are (n_in, n_out), transposed to those of ``nn.Linear``, so that the weights of an input are contiguous.

    Parameters
    ----------
    n_in, n_out
        width of the input and of the output.
    """

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        dense = nn.Linear(n_in, n_out)
        self.weight = nn.Parameter(dense.weight.detach().t().contiguous())
        self.bias = nn.Parameter(dense.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n, n_in) to (..., n, n_out)."""
        weight = self.weight
        out = sparse_product.product(x, weight) if weight.ndim == 2 else row_product(x, weight)
        return out + beside_rows(self.bias, 1)
