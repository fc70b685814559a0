"""Figure of a comparison of configurations."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure


def comparison(table: pd.DataFrame) -> Figure:
    """Held-out log-likelihood of each configuration minus the reference's, with two standard errors.

    Parameters
    ----------
    table
        table that `compare` returns.
    """
    figure = Figure(figsize=(7, 0.4 * len(table) + 1.2), layout="constrained")
    axes = figure.subplots()
    at = np.arange(len(table))[::-1]
    axes.errorbar(table["difference"], at, xerr=2 * table["difference_se"], fmt="o", color="C0", capsize=3)
    axes.axvline(0.0, color="0.7", lw=1)
    axes.set_yticks(at, table.index)
    axes.set(xlabel="importance-weighted log-likelihood of held-out rows, nats per row, against " + _reference(table))
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _reference(table: pd.DataFrame) -> str:
    """The name of the reference: its difference is 0, with no error."""
    zero = (table["difference"] == 0) & (table["difference_se"].fillna(0) == 0)
    name = zero.idxmax()
    return f"{name}, the best" if name == table["log_likelihood"].idxmax() else str(name)
