"""Inverse dispersion theta of the negative binomials: what it is shared by.

theta = exp(log_theta), with log_theta ~ Normal(0, 1) at the start, as in scVI.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyro_omics.batch import CellBatch
from pyro_omics.parts.base import Part
from pyro_omics.sizes import Sizes

LARGEST = 30.0  # of |log theta|: a draw from a heavy-tailed prior of it may lie anywhere, and exp must stay a number


class Dispersion(Part):
    """theta for each row and gene; a subclass says which rows share one.

    ``heads`` names the outputs that it needs from the decoder.
    """

    heads: tuple[str, ...] = ()

    def forward(self, heads: dict[str, Tensor], batch: CellBatch) -> Tensor:
        """theta, (g,) or (n, g), > 0."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(heads, batch)")


class _Table(Dispersion):
    """Dispersions that are a parameter, ``log_theta``.

    Parameters
    ----------
    start
        log_theta at the start, for every entry; None draws each from Normal(0, 1), as scVI does. A few hundred steps at
        a small learning rate do not move far from there: on small data a constant fits better.
    """

    def __init__(self, start: float | None = None) -> None:
        super().__init__()
        self.start = start

    def _make(self, *shape: int) -> None:
        start = torch.randn(shape) if self.start is None else torch.full(shape, float(self.start))
        self.log_theta = nn.Parameter(start)


class PerGene(_Table):
    """One theta_g for each gene.

    Parameters
    ----------
    start
        log_theta at the start; None draws from Normal(0, 1).
    """

    def build(self, sizes: Sizes) -> None:
        """Make log_theta (g,)."""
        super().build(sizes)
        self._make(sizes.n_genes)

    def forward(self, heads: dict[str, Tensor], batch: CellBatch) -> Tensor:
        """theta_g, (g,)."""
        return _theta(self.log_theta)


class PerGeneBatch(_Table):
    """One theta_bg for each batch and gene.

    Parameters
    ----------
    start
        log_theta at the start; None draws from Normal(0, 1).
    """

    def build(self, sizes: Sizes) -> None:
        """Make log_theta (batches, g)."""
        super().build(sizes)
        self._make(sizes.n_batches, sizes.n_genes)

    def forward(self, heads: dict[str, Tensor], batch: CellBatch) -> Tensor:
        """The theta of each row's batch, (n, g)."""
        return _theta(_rows(self.log_theta, getattr(batch, "batch", None)))


class PerGeneLabel(_Table):
    """One theta_lg for each label and gene.

    Parameters
    ----------
    start
        log_theta at the start; None draws from Normal(0, 1).
    """

    def build(self, sizes: Sizes) -> None:
        """Make log_theta (labels, g)."""
        super().build(sizes)
        self._make(sizes.n_labels, sizes.n_genes)

    def forward(self, heads: dict[str, Tensor], batch: CellBatch) -> Tensor:
        """The theta of each row's label, (n, g)."""
        return _theta(_rows(self.log_theta, getattr(batch, "label", None)))


class PerGeneCell(Dispersion):
    """One theta_ng for each cell and gene, an output of the decoder."""

    heads = ("log_theta",)

    def forward(self, heads: dict[str, Tensor], batch: CellBatch) -> Tensor:
        """theta_ng, (n, g)."""
        return _theta(heads["log_theta"])


def _rows(table: Tensor, codes: Tensor | None) -> Tensor:
    """Each row's entries of a table (levels, g), by its code (n,), or by a code for each entry (n, g)."""
    if codes is None and len(table) > 1:
        raise ValueError(f"the dispersion has {len(table)} levels, and this batch does not say which its rows have")
    if codes is None:
        return table[0]
    return table[codes] if codes.ndim == 1 else table.gather(0, codes)


def _theta(log_theta: Tensor) -> Tensor:
    return log_theta.clamp(-LARGEST, LARGEST).exp()
