"""Labels for the axes of posterior draws and queries, from the data's schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from pyro_omics.data.names import list_of
from pyro_omics.schema import Schema


class AxisLabels:
    """The names along each axis of a model's sites and queries.

    Parameters
    ----------
    schema
        schema of the DataModule.
    axes
        `models.CountModel.axes`: name of a site -> axes of its last dimensions.
    levels
        `models.CountModel.levels`: axis defined by the model -> names along it.
    """

    def __init__(
        self,
        schema: Schema,
        axes: Mapping[str, tuple[str, ...]],
        levels: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.schema, self.axes, self.levels = schema, axes, levels or {}

    def names(self, axis: str) -> list[str]:
        """The names along an axis, which the model or the schema defines."""
        return list(self.levels[axis] if axis in self.levels else self.schema.names(axis))

    def of_site(self, site: str, shape: Sequence[int]) -> tuple[str, ...]:
        """The axes of a site's last dimensions; genes, if the model declares none and the last is as long as they are.

        Parameters
        ----------
        site
            name of the site.
        shape
            shape of its value.
        """
        if site in self.axes:
            return self.axes[site]
        genes = self.schema.axes.get("genes", ())
        return ("genes",) if len(shape) and genes and shape[-1] == len(genes) else ()

    def columns(self, axis: str, wanted: Sequence[str] | None) -> np.ndarray:
        """Positions of the ``wanted`` names along an axis; all positions when None.

        Raises
        ------
        ValueError
            For what is no list of names, and for unknown names.
        """
        known = pd.Index(self.names(axis))
        if wanted is None:
            return np.arange(len(known))
        wanted = list_of(axis, wanted, self.names(axis), repeats=True)
        position = known.get_indexer(pd.Index(wanted, dtype=object))
        if (position < 0).any():
            unknown = [name for name, at in zip(wanted, position, strict=True) if at < 0]
            raise ValueError(f"{axis} must be names that the model has; got {unknown[:5]}")
        return position


def dimension(axis: str) -> str:
    """The xarray dimension along an axis: its name in the singular, "gene" for "genes"."""
    return axis.removesuffix("s")
