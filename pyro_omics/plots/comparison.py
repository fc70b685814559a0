"""A comparison of configurations as a figure."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure


def comparison(table: pd.DataFrame) -> Figure:
    """Held-out log-likelihood of each configuration against the best, with two standard errors of the difference.

    Parameters
    ----------
    table
        of `compare`.
    """
    figure = Figure(figsize=(7, 0.4 * len(table) + 1.2), layout="constrained")
    axes = figure.subplots()
    at = np.arange(len(table))[::-1]
    axes.errorbar(table["difference"], at, xerr=2 * table["difference_se"], fmt="o", color="C0", capsize=3)
    axes.axvline(0.0, color="0.7", lw=1)
    axes.set_yticks(at, table.index)
    axes.set(xlabel="importance-weighted log-likelihood of held-out rows, nats per row, against the best")
    axes.spines[["top", "right"]].set_visible(False)
    return figure
