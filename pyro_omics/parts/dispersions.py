"""Inverse dispersion theta of the negative binomials: what it is shared by.

theta = exp(log_theta), with log_theta ~ Normal(0, 1) at the start, as in scVI.
"""

from __future__ import annotations

from typing import Literal

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


class PerGene(Dispersion):
    """A parameter: one theta_g for each gene, or one for each gene in each batch or label.

    Parameters
    ----------
    by
        None shares theta_g among all rows; "batch" or "label" has one for each level of that as well.
    start
        log_theta at the start, for every entry; None draws each from Normal(0, 1), as scVI does. A few hundred steps at
        a small learning rate do not move far from there: on small data a constant fits better.

    Raises
    ------
    ValueError
        For any other ``by``.
    """

    def __init__(self, by: Literal["batch", "label"] | None = None, start: float | None = None) -> None:
        super().__init__()
        if by not in (None, "batch", "label"):
            raise ValueError(
                f'by must be None, "batch" or "label"; got {by!r}: for a theta of each cell use PerGeneCell()'
            )
        self.by, self.start = by, start

    def build(self, sizes: Sizes) -> None:
        """Make log_theta, (g,) or (levels, g)."""
        super().build(sizes)
        levels = {None: (), "batch": (sizes.n_batches,), "label": (sizes.n_labels,)}[self.by]
        shape = (*levels, sizes.n_genes)
        start = torch.randn(shape) if self.start is None else torch.full(shape, float(self.start))
        self.log_theta = nn.Parameter(start)

    def forward(self, heads: dict[str, Tensor], batch: CellBatch) -> Tensor:
        """theta_g, (g,), or that of each row's level, (n, g)."""
        if self.by is None:
            return _theta(self.log_theta)
        return _theta(_rows(self.log_theta, getattr(batch, self.by, None)))


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
