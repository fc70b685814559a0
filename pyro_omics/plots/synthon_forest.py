"""Forest plot of the most enriched building blocks."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

FOREST = (
    "log enrichment of the tags over the background (natural log), 90% interval;\n"
    "compare building blocks with each other"
)


def synthon_forest(table: pd.DataFrame, top: int = 20) -> Figure:
    """The most enriched building blocks, or pairs of them, with their 90% intervals, the best on top.

    The scale is the natural log of the enrichment of a building block's tags over the background. Compare building
    blocks with each other, since counts hardly determine the level of the background (see ``Posterior.synthons``). A
    thin line marks the median of the estimates of each cycle, in its colour, or of all pairs.

    Parameters
    ----------
    table
        ``log_enrichment``, ``lower`` and ``upper`` with the names in the index, such as ``Posterior.synthons()``.
    top
        number of building blocks to show.

    Raises
    ------
    ValueError
        Where a column is missing, there is no row, or ``top`` is not positive.
    """
    needed = ["log_enrichment", "lower", "upper"]
    if not set(needed) <= set(table.columns) or table.empty:
        raise ValueError(
            f"table must have rows, and the columns {needed}; got {len(table)} rows and {list(table.columns)}: pass "
            "Posterior.synthons()"
        )
    if top < 1:
        raise ValueError(f"top must be a number of building blocks, 1 or more; got {top}")
    best = table.sort_values("log_enrichment", ascending=False, kind="stable").head(top)
    figure = Figure(figsize=(6, 1 + 0.27 * len(best)), layout="constrained")
    axes = figure.subplots()
    y = np.arange(len(best))
    # Not errorbar, which refuses negative lengths: the mean of a skewed posterior may lie outside its interval.
    axes.hlines(y, best["lower"], best["upper"], color="0.5")
    cycles = _cycles(table)
    colours = {cycle: f"C{i % 10}" for i, cycle in enumerate(cycles.unique())}
    axes.scatter(best["log_enrichment"], y, color=[colours[cycle] for cycle in _cycles(best)], zorder=3)
    for cycle, median in table.groupby(cycles.to_numpy(), sort=False)["log_enrichment"].median().items():
        axes.axvline(median, color=colours[cycle], linewidth=0.8, zorder=0, label=f"median of {cycle}")
    axes.legend(frameon=False, loc="lower right")
    axes.set_yticks(y, [" ".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in best.index])
    axes.invert_yaxis()
    axes.set_xlabel(FOREST)
    shown = f"the best {len(best)} of {len(table):,}" if len(best) < len(table) else f"all {len(table):,}"
    axes.set_title(f"{' and '.join(map(str, table.index.names))}: {shown}")
    return figure


def _cycles(table: pd.DataFrame) -> pd.Index:
    """The cycle of each building block; for pairs, the one name "all"."""
    if list(table.index.names) == ["cycle", "synthon"]:
        return table.index.get_level_values("cycle").astype(str)
    return pd.Index(["all"] * len(table))
