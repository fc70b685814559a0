"""Inputs of networks from a minibatch: transformed counts and covariates."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pyro_omics.batch import CellBatch
from pyro_omics.kernels.dense_rows import log1p
from pyro_omics.layers.module import FastPyroModule
from pyro_omics.serialization.arguments import RecordsArguments
from pyro_omics.sizes import Sizes


class Covariates(FastPyroModule, RecordsArguments):
    """Covariates of a minibatch as one matrix: one-hot batch, one-hot categories, continuous covariates.

    A categorical covariate with one level is dropped.

    Parameters
    ----------
    sizes
        numbers of levels and of continuous covariates.
    """

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.n_batches = sizes.n_batches
        self.n_categories = tuple(sizes.n_categories)
        self.n_out = sum(n for n in (sizes.n_batches, *sizes.n_categories) if n > 1) + sizes.n_continuous

    def forward(self, batch: CellBatch) -> Tensor | None:
        """Return the covariates (n, n_out), or None if there are none."""
        parts = []
        if self.n_batches > 1:
            parts.append(_one_hot("batch", batch.batch, self.n_batches, batch.x))
        for column, n_levels in enumerate(self.n_categories):
            if n_levels > 1:
                codes = None if batch.categorical is None else batch.categorical[:, column]
                parts.append(_one_hot("categorical", codes, n_levels, batch.x))
        if batch.continuous is not None:
            parts.append(batch.continuous)
        return torch.cat(parts, -1) if parts else None


def _one_hot(name: str, codes: Tensor | None, n_levels: int, like: Tensor) -> Tensor:
    if codes is None:
        raise ValueError(
            f"batch.{name} must hold codes of {n_levels} levels, for which the model was made; got None: pass data "
            "with this covariate"
        )
    return functional.one_hot(codes, n_levels).to(like.dtype)


def log_counts(x: Tensor, scale_n1: Tensor | None = None) -> Tensor:
    """log(1 + scale x) of counts (..., n, g), with a scale for each row (..., n, 1), or 1."""
    return log1p(x, scale_n1)


def log_normalised(counts: Tensor, measured: Tensor | None = None) -> Tensor:
    """log(1 + x / (1 + mean x)) of counts x (..., n, t), the input of totalVI's encoder.

    The mean is over each row's columns at which ``measured`` (..., n, t) is True; None for all. Other columns give 0.
    """
    if measured is None:
        return log_counts(counts, 1 / (1 + counts.mean(-1, keepdim=True)))
    counts = counts * measured
    mean = counts.sum(-1, keepdim=True) / measured.sum(-1, keepdim=True).clamp(min=1)
    return torch.log1p(counts / (1 + mean))
