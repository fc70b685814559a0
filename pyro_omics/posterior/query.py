"""One of a model's own queries, asked of draws from its guide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from pyro import poutine
from torch import Tensor

from pyro_omics.inference.draws import GuideDraws
from pyro_omics.models.base import CountModel
from pyro_omics.posterior.axis_labels import AxisLabels
from pyro_omics.sites import latent_values


class ModelQuery:
    """A query with its columns chosen, averaged over the batches that rows are decoded under.

    Parameters
    ----------
    model
        the model.
    name
        of its query.
    labels
        names along the axes.
    columns
        axis -> positions to return, in the order of the query's tensors.
    codes
        of the batches; None for each row's own.
    options
        passed on to the model's method.
    """

    def __init__(
        self,
        model: CountModel,
        name: str,
        labels: AxisLabels,
        columns: dict[str, np.ndarray],
        codes: Sequence[int | None],
        options: dict[str, Any],
    ) -> None:
        self.model, self.name, self.labels = model, name, labels
        self.columns, self.codes, self.options = columns, codes, options

    @property
    def n_passes(self) -> int:
        """How often a draw decodes each row."""
        return len(self.codes)

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Where each axis' columns start among all of them, and their names."""
        start = 0
        for axis, column in self.columns.items():
            yield start, np.asarray(self.labels.names(axis))[column]
            start += len(column)

    def index(self, several: bool) -> pd.Index:
        """The names of all columns, with their axis where there are several."""
        if not several:
            return pd.Index(next(self.blocks())[1])
        pairs = [(axis, name) for axis, (_, names) in zip(self.columns, self.blocks(), strict=True) for name in names]
        return pd.MultiIndex.from_tuples(pairs, names=["kind", "name"])

    def __call__(self, draws: GuideDraws, batch: Any, s: int) -> list[Tensor]:
        """Draw s of the query's tensors (n, columns)."""
        guide = draws.guide(batch, s)
        latents = latent_values(guide)
        method, totals = getattr(self.model, self.name), [torch.zeros(())] * len(self.columns)
        # Replayed, so that latent weights take the values that were drawn.
        with poutine.block(), poutine.replay(trace=guide):
            for code in self.codes:
                answer = method(batch if code is None else batch.in_batch(code), latents, **self.options)
                answers = answer if isinstance(answer, tuple) else (answer,)
                totals = [total + part for total, part in zip(totals, answers, strict=True)]
        return [total[:, at] / len(self.codes) for total, at in zip(totals, self.columns.values(), strict=True)]
