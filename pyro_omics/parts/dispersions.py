"""Inverse dispersion theta of negative binomials: per gene, batch, label or cell.

theta = exp(log_theta), where log_theta starts at 1.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from pyro_omics.batch import CellBatch
from pyro_omics.layers.inputs import at_entries, at_levels, beside_rows
from pyro_omics.parts.base import EncodingModel, Part
from pyro_omics.schema import RowData
from pyro_omics.sizes import Sizes

# Bound of |log theta|: a draw from a heavy-tailed prior may be of any size, and exp must stay finite.
MAX_LOG_THETA = 30.0
LOG_THETA = 1.0  # start of log theta


class Dispersion(Part):
    """Inverse dispersion theta of each row and gene; subclasses differ in which rows share one.

    ``heads`` names the decoder outputs that it needs.
    """

    heads: tuple[str, ...] = ()

    def forward(self, heads: dict[str, Tensor], batch: CellBatch) -> Tensor:
        """theta, (g,) or (n, g), > 0."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(heads, batch)")


class PerGene(Dispersion):
    """One learned theta_g for each gene, or one for each gene in each batch or label.

    Parameters
    ----------
    by
        None: all rows share theta_g; "batch" or "label": each batch or label has its own theta_g.
    start
        initial value of every log_theta; None starts at 1, or, where a fit does not start from the data
        (``SVIModule(model, warm_start=False)``), at draws from Normal(0, 1), as scVI does. The draws cost up to 24
        nats a cell where a fit is short; moments of the counts are a worse start than 1.

    Raises
    ------
    ValueError
        For any other ``by``.
    """

    def __init__(self, by: Literal["batch", "label"] | None = None, start: float | None = None) -> None:
        super().__init__()
        if by not in (None, "batch", "label"):
            raise ValueError(
                f'by must be None, "batch" or "label"; got {by!r}: for one theta per cell and gene use PerGeneCell()'
            )
        self.by, self.start = by, start

    def build(self, sizes: Sizes) -> None:
        """Create log_theta, (g,) or (levels, g)."""
        super().build(sizes)
        levels = {None: (), "batch": (sizes.n_batches,), "label": (sizes.n_labels,)}[self.by]
        shape = (*levels, sizes.n_genes)
        start = torch.randn(shape) if self.start is None else torch.full(shape, float(self.start))
        self.log_theta = nn.Parameter(start)

    @torch.no_grad()
    def warm_start(self, model: EncodingModel, dm: RowData) -> None:
        """Start every log_theta at 1, unless ``start`` was given or log_theta is latent."""
        if self.start is None and "log_theta" in self._parameters:
            self.log_theta.fill_(LOG_THETA)

    def forward(self, heads: dict[str, Tensor], batch: CellBatch) -> Tensor:
        """theta, (g,), or (n, g) by each row's batch or label."""
        if self.by is None:
            return _theta(beside_rows(self.log_theta, 1))
        return _theta(_select_levels(self.log_theta, getattr(batch, self.by, None)))


class PerGeneCell(Dispersion):
    """One theta_ng for each cell and gene, an output of the decoder."""

    heads = ("log_theta",)

    def forward(self, heads: dict[str, Tensor], batch: CellBatch) -> Tensor:
        """theta_ng, (n, g)."""
        return _theta(heads["log_theta"])


def _select_levels(table: Tensor, codes: Tensor | None) -> Tensor:
    """The table's (..., levels, g) entries (..., n, g) for a code per row (n,), or for a code per entry (n, g)."""
    levels = table.shape[-2]
    if codes is None and levels > 1:
        raise ValueError(f"the dispersion has {levels} levels, and this minibatch has no codes of its rows' levels")
    if codes is None:
        return beside_rows(table[..., 0, :], 1)
    return at_levels(table, codes, 2) if codes.ndim == 1 else at_entries(table, codes)


def _theta(log_theta: Tensor) -> Tensor:
    return log_theta.clamp(-MAX_LOG_THETA, MAX_LOG_THETA).exp()
