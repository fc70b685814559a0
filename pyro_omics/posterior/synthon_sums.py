"""Sums of posterior draws over the compounds that share a building block or a pair of building blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from pyro_omics.batch import DELBatch

INTERVAL = (0.05, 0.95)


class SynthonSums:
    """Sums of draws over the compounds of each synthon (or pair of synthons).

    Parameters
    ----------
    levels
        cycle -> names of its building blocks; two cycles for pairs.
    positions
        columns of ``batch.synthons`` with these cycles.
    """

    def __init__(self, levels: Mapping[str, Sequence[str]], positions: Sequence[int]) -> None:
        self.cycles, self.levels, self.positions = list(levels), list(levels.values()), positions
        self.size = math.prod(len(level) for level in self.levels)
        self.totals: dict[str, torch.Tensor] = {}
        self.number, self.counts = (torch.zeros(self.size, dtype=torch.float64) for _ in range(2))

    def add(self, batch: DELBatch, draws: dict[str, torch.Tensor]) -> None:
        """Add draws (num_samples, n) of a minibatch's quantities, by name."""
        code = torch.zeros_like(batch.index.cpu())
        for position, level in zip(self.positions, self.levels, strict=True):
            code = code * len(level) + batch.synthons[:, position].cpu()
        for name, values in draws.items():
            total = self.totals.setdefault(name, torch.zeros(len(values), self.size, dtype=torch.float64))
            total.index_add_(1, code, values.double())
        self.number.index_add_(0, code, torch.ones(len(code), dtype=torch.float64))
        self.counts.index_add_(0, code, batch.x.sum(-1).double().cpu())

    def table(self) -> pd.DataFrame:
        """The table of `EnrichmentTables.synthons` for the synthons that occur, not sorted."""
        mean = {name: (total / self.number).log1p().numpy() for name, total in self.totals.items()}
        whole = mean.get("log_tag_enrichment", mean["log_enrichment"])
        lower, upper = np.quantile(whole, INTERVAL, axis=0, method="weibull")
        table = pd.DataFrame(
            {
                "log_enrichment": whole.mean(0),
                "lower": lower,
                "upper": upper,
                "own": mean["log_enrichment"].mean(0),
                "n_compounds": self.number.numpy().astype(int),
                "counts": self.counts.numpy().astype(int),
            },
            index=self._index(),
        )
        return table[table["n_compounds"] > 0]

    def _index(self) -> pd.MultiIndex:
        if len(self.cycles) > 1:
            return pd.MultiIndex.from_product(self.levels, names=self.cycles)
        return pd.MultiIndex.from_product([self.cycles, self.levels[0]], names=["cycle", "synthon"])
