"""Figure of hits in the cube of a library's building blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.figure import Figure

from pyro_omics.data.dna_encoded.building_blocks import codes_of, levels_of, synthon_columns
from pyro_omics.plots.selections import positions

# Number of cycles -> largest number of building blocks that an axis shows by name; more are numbered.
MAX_NAMED = {2: 60, 3: 12}
MAX_UPRIGHT = 12  # largest number of names that fit on an axis without rotation
MAX_STEMS = 100  # largest number of compounds that are drawn with a line from the floor


def cube(adata: AnnData, table: pd.DataFrame, synthon_keys: Sequence[str] | None = None) -> Figure:
    """Compounds as points in the cube of building blocks; more enriched ones are larger and brighter.

    Compounds that share one building block lie in a plane, those that share two on a line. Each axis has the building
    blocks of one cycle, numbered from 1 in the order of their names ("A2" before "A10"). Up to 12 of them are labelled
    by name, or up to 60 in two dimensions.

    Parameters
    ----------
    adata
        the library, with the building block of each cycle in obs.
    table
        the compounds to draw, in its index, and their ``log_enrichment``, such as ``Posterior.hits()``; may be empty.
    synthon_keys
        two or three columns of obs; None for those of "A", "B", "C" that obs has.

    Returns
    -------
    Figure in three dimensions, or in two for two cycles.

    Raises
    ------
    ValueError
        For more than three cycles, keys that are not in obs, or compounds that are not in ``adata``.
    """
    keys = synthon_columns(adata, synthon_keys)
    if len(keys) > 3:
        raise ValueError(
            f"synthon_keys must be two or three cycles; got {len(keys)}, {list(keys)}: name three of them, such as "
            f"synthon_keys={list(keys[:3])}"
        )
    if "log_enrichment" not in table:
        raise ValueError(f"table must have a column 'log_enrichment'; got {list(table.columns)}: pass Posterior.hits()")
    # Sorted, so that the strongest are drawn last, on top.
    table = table.sort_values("log_enrichment", kind="stable")
    obs = adata.obs.iloc[positions(adata, table)]
    levels = [levels_of(adata.obs, key) for key in keys]
    at = [codes_of(obs, key, level) + 1 for key, level in zip(keys, levels, strict=True)]
    named = MAX_NAMED[len(keys)]
    longest = max((len(level) for level in levels if len(level) <= named), default=0)
    side = 0.16 * max(longest - 30, 0)  # inches that names in a font of 7 points need beyond the default
    figure = Figure(figsize=(7 + side, 6 + side), layout="constrained")
    axes: Any = figure.add_subplot(projection="3d" if len(keys) == 3 else None)
    value = table["log_enrichment"].to_numpy()
    largest = 100 * min(1.0, (MAX_STEMS / max(len(value), 1)) ** 0.5)  # many large points would hide each other
    size = largest * (0.1 + 0.9 * np.clip(value, 0, None) / max(value.max(initial=0.0), 1e-12))
    # Without shading by depth, which would look like less enrichment.
    shading = {"depthshade": False} if len(keys) == 3 else {}
    points = axes.scatter(*at, c=value, s=size, **shading)
    if len(keys) == 3 and 0 < len(table) <= MAX_STEMS:
        axes.stem(*at, bottom=0.5, linefmt="0.8", markerfmt=" ", basefmt=" ")
    for name, key, level in zip("xyz", keys, levels, strict=False):
        _label_axis(axes, name, key, level, named)
    if len(table):
        figure.colorbar(points, ax=axes, label="log enrichment (natural)", shrink=0.7)
    axes.set_title(f"{len(table):,} hits" if len(table) else "no hits")
    return figure


def _label_axis(axes: Any, name: str, key: str, levels: list[str], named: int) -> None:
    """Set limits and labels of the axis ``name`` for one cycle; up to ``named`` building blocks are named."""
    getattr(axes, f"set_{name}lim")(0.5, len(levels) + 0.5)
    getattr(axes, f"set_{name}label")(f"{key} ({len(levels)} building blocks)")
    if len(levels) <= named:
        style = {"fontsize": 7, "rotation": 90 if name == "x" else 0} if len(levels) > MAX_UPRIGHT else {}
        getattr(axes, f"set_{name}ticks")(np.arange(1, len(levels) + 1), levels, **style)
