"""Starts from the data: means over the training rows, which parts and models take before training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_omics.schema import RowData

MAX_ROWS = 20_000  # a start needs no more: the log of a mean over them is known to 1% where a count is common
CHUNK = 250


def training_batches(dm: RowData) -> Iterator[Any]:
    """Minibatches over the training rows; where there are more than 20,000, over that many, in evenly spaced runs.

    Runs of neighbours, because single rows are slow to read from a file.
    """
    rows = dm.rows("training")
    if len(rows) > MAX_ROWS:
        first = np.linspace(0, len(rows) - CHUNK, MAX_ROWS // CHUNK).astype(int)
        rows = rows[(first[:, None] + np.arange(CHUNK)).ravel()]
    yield from dm.data.batches(rows, CHUNK)


def log_frequencies(dm: RowData) -> Tensor:
    r"""Natural log of each column's share of all counts of the training rows, (g,).

    .. math:: \log \frac{\sum_n x_{ng} + 1/2}{\sum_{ng} (x_{ng} + 1/2)}

    With it as the bias of its softmax, a decoder starts at the best frequencies that are the same in all rows.
    """
    sums = [batch.x.double().sum(0) for batch in training_batches(dm)]
    total_g = torch.stack(sums).sum(0) + 0.5
    return (total_g / total_g.sum()).log().to(torch.get_default_dtype())
