"""Names for the dimensions of what a posterior returns, from the description of the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pyro_omics.schema import Schema


class AxisLabels:
    """The names along each axis of a model's sites and queries.

    Parameters
    ----------
    schema
        the DataModule's.
    axes
        `models.CountModel.axes`: name of a site -> what its last dimensions are.
    levels
        `models.CountModel.levels`: the names along axes of the model's own.
    """

    def __init__(
        self,
        schema: Schema,
        axes: Mapping[str, tuple[str, ...]],
        levels: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.schema, self.axes, self.levels = schema, axes, levels or {}

    def names(self, axis: str) -> list[str]:
        """The names along an axis: the model's own, or the schema's."""
        return list(self.levels[axis] if axis in self.levels else self.schema.names(axis))

    def of_site(self, site: str, shape: Sequence[int]) -> tuple[str, ...]:
        """What the last dimensions of a site's value of this shape are; genes, if undeclared and of their number."""
        if site in self.axes:
            return self.axes[site]
        genes = self.schema.axes.get("genes", ())
        return ("genes",) if len(shape) and genes and shape[-1] == len(genes) else ()

    def columns(self, axis: str, wanted: Sequence[str] | None) -> np.ndarray:
        """Positions of the ``wanted`` names along an axis, all when None.

        Raises
        ------
        ValueError
            For a text instead of a list, and for unknown names.
        """
        known = pd.Index(self.names(axis))
        if wanted is None:
            return np.arange(len(known))
        if isinstance(wanted, str):
            raise ValueError(f"{axis} must be a list of names, and is the text {wanted!r}: pass [{wanted!r}]")
        position = known.get_indexer(pd.Index(wanted))
        if (position < 0).any():
            unknown = [name for name, at in zip(wanted, position, strict=True) if at < 0]
            raise ValueError(f"{axis} names {unknown[:5]}, which the model does not have")
        return position


def dimension(axis: str) -> str:
    """The name of a dimension along an axis: one of the things that the axis has many of."""
    return axis.removesuffix("s")
