"""Figures of the counts of a selection: target against control, and replicates against each other."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from scipy import stats

from pyro_omics.data.dna_encoded.synthons import pooled_counts

HIT = "tab:red"


def target_against_control(
    adata: AnnData,
    table: pd.DataFrame,
    target: str = "target",
    control: str = "control",
    layer: str | None = None,
) -> Figure:
    """Counts of each compound in the target selections against those in the controls, with the hits marked.

    Counts are summed over the replicates of a condition, and divided by the mean over all compounds: 1 is the count of
    an average compound, and the line marks equality. Compounds with the same two counts are one point, whose colour
    shows their number. The axes are linear up to a count of 1, and logarithmic above.

    Where no selection has the condition ``control``, counts are drawn against their rank instead, beside the quantiles
    of a Poisson variable of the same mean, which a library without binders would show.

    Parameters
    ----------
    adata
        counts (n, selections) in X or in ``layer``, and ``var["condition"]``.
    table
        the compounds to mark, in its index, such as ``Posterior.hits()``; may be empty.
    target, control
        conditions of the selections.
    layer
        the layer with the counts; None for X.

    Raises
    ------
    ValueError
        Where X does not hold counts, no selection is a target, or the table has compounds that are not in ``adata``.
    """
    rows = positions(adata, table)
    counts = pooled_counts(adata, "target", target, layer)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    if (adata.var["condition"].astype(str) == control).any():
        against = pooled_counts(adata, "control", control, layer)
        _draw_against(figure, axes, against, counts, rows)
        axes.set_xlabel(f"counts, {control} (multiples of the mean)")
    else:
        _draw_by_rank(axes, counts, rows)
        axes.set_xlabel("rank of the compound")
    axes.set_ylabel(f"counts, {target} (multiples of the mean)")
    axes.set_title(f"{len(counts):,} compounds, {len(rows):,} hits")
    axes.legend(frameon=False)
    return figure


def replicate_agreement(adata: AnnData, condition: str = "target", layer: str | None = None) -> Figure:
    """Log counts of every pair of replicates of a condition, with their correlation.

    The axes are log(1 + count), natural; r is Pearson's correlation of these over all compounds. Compounds with the
    same two counts are one point, whose colour shows their number. Where most compounds have a count or two, replicates
    hardly agree on them; ``replicate_agreement(baselines.aggregate(adata, "A"))`` shows whether they agree on building
    blocks.

    Parameters
    ----------
    adata
        counts (n, selections) in X or in ``layer``, and ``var["condition"]``.
    condition
        condition whose selections are compared.
    layer
        the layer with the counts; None for X.

    Returns
    -------
    Figure of r (r - 1) / 2 panels for r replicates; for one replicate, a figure with a message.

    Raises
    ------
    ValueError
        Where X does not hold counts, no selection has the condition, or one has no counts.
    """
    pooled_counts(adata, "condition", condition, layer)  # raises for wrong conditions
    names = list(adata.var_names[adata.var["condition"].astype(str) == condition])
    if len(names) == 1:
        return message(f"Only one selection is {condition!r} ({names[0]}):\nthere is no replicate to compare it with.")
    logs = {name: np.log1p(pooled_counts(adata[:, [name]], "condition", condition, layer)) for name in names}
    size = 1 + 2.6 * (len(names) - 1)
    figure = Figure(figsize=(size + 1, size), layout="constrained")
    panels = figure.subplots(len(names) - 1, len(names) - 1, squeeze=False)
    norm = LogNorm(1, adata.n_obs + 1)  # one scale for all panels
    for (j, first), (i, second) in itertools.combinations(enumerate(names), 2):
        axes = panels[i - 1, j]
        (x, y), number = _distinct(logs[first], logs[second])
        shades = axes.scatter(x, y, c=number, norm=norm, s=12)
        axes.set(xlabel=f"log(1 + {first})", ylabel=f"log(1 + {second})")
        axes.set_title(_correlation(logs[first], logs[second]))
    for row, column in zip(*np.triu_indices(len(names) - 1, 1), strict=True):
        panels[row, column].remove()
    figure.colorbar(shades, ax=figure.axes, label="compounds")
    return figure


def positions(adata: AnnData, table: pd.DataFrame) -> np.ndarray:
    """Positions in ``adata`` of a table's compounds.

    Raises
    ------
    ValueError
        For compounds that are not in ``adata``.
    """
    rows = adata.obs_names.get_indexer(table.index)
    if (rows < 0).any():
        raise ValueError(
            f"table must have compounds of adata.obs_names as its index; got {int((rows < 0).sum())} others, such as "
            f"{table.index[rows < 0][0]!r}: pass the AnnData that the table was made from"
        )
    return rows


def message(text: str) -> Figure:
    """A figure with a text alone."""
    figure = Figure(figsize=(6, 2), layout="constrained")
    figure.text(0.5, 0.5, text, ha="center", va="center")
    return figure


def _draw_against(figure: Figure, axes: Any, control: np.ndarray, target: np.ndarray, rows: np.ndarray) -> None:
    units = control.mean(), target.mean()
    (x, y), number = _distinct(control / units[0], target / units[1])
    shades = axes.scatter(x, y, c=number, norm=LogNorm(1, number.max() + 1), s=12)
    figure.colorbar(shades, ax=axes, label="compounds")
    axes.set_xscale("symlog", linthresh=1 / units[0], linscale=0.5)
    axes.set_yscale("symlog", linthresh=1 / units[1], linscale=0.5)
    # Many points: the two axes turn logarithmic at different counts, so that equality is not a straight line.
    line = np.concatenate([[0.0], np.geomspace(1e-3, 1.0, 200) * max(x.max(), y.max())])
    axes.plot(line, line, color="0.5", linewidth=1, label="as in the control")
    _mark(axes, control[rows] / units[0], target[rows] / units[1])


def _draw_by_rank(axes: Any, target: np.ndarray, rows: np.ndarray) -> None:
    mean, n = target.mean(), len(target)
    rank = np.empty(n, dtype=np.int64)
    rank[np.argsort(-target, kind="stable")] = np.arange(1, n + 1)
    axes.plot(np.arange(1, n + 1), np.sort(target)[::-1] / mean, color="0.4", label="counts")
    some = np.unique(np.geomspace(1, n, 500).astype(np.int64))
    expected = stats.poisson.isf((some - 0.5) / n, mean) / mean
    axes.plot(some, expected, color="tab:blue", linewidth=1, label="without binders (Poisson)")
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=1 / mean, linscale=0.5)
    _mark(axes, rank[rows], target[rows] / mean)


def _mark(axes: Any, x: np.ndarray, y: np.ndarray) -> None:
    axes.scatter(x, y, s=30, facecolors="none", edgecolors=HIT, label="hits")


def _distinct(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct points (2, k) and how often each occurs, in increasing order: frequent ones are drawn on top."""
    points, number = np.unique(np.stack([x, y]), axis=1, return_counts=True)
    order = np.argsort(number, kind="stable")
    return points[:, order], number[order]


def _correlation(x: np.ndarray, y: np.ndarray) -> str:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return "r undefined: one replicate is constant"
    return f"r = {np.corrcoef(x, y)[0, 1]:.2f}"
