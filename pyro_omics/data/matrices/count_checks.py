"""Checks that a matrix, in memory or on disk, holds counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import scipy.sparse as sp
from anndata import AnnData

CHUNK = 2**22  # number of values that are checked at once


class CountSummary:
    """Range of a matrix's values, and numbers of NaN, infinite and non-integer ones, accumulated over chunks."""

    def __init__(self) -> None:
        self.kind_seen: np.dtype | None = None
        self.n_nan = self.n_infinite = self.n_fractions = 0
        self.fraction = math.nan
        self.lowest, self.highest = 0.0, 0.0

    def add(self, values: np.ndarray) -> CountSummary:
        """Add a chunk of values, of any shape."""
        flat = np.asarray(values).reshape(-1)
        self.kind_seen = flat.dtype
        if flat.dtype.kind in "biuf":
            for start in range(0, flat.size, CHUNK):
                self._add(flat[start : start + CHUNK])
        return self

    def _add(self, values: np.ndarray) -> None:
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            if not finite.all():
                n_nan = int(np.isnan(values).sum())
                self.n_nan += n_nan
                self.n_infinite += len(values) - int(finite.sum()) - n_nan
                values = values[finite]
            fractions = values[values != np.floor(values)]
            if fractions.size:
                self.fraction = self.fraction if self.n_fractions else float(fractions[0])
                self.n_fractions += fractions.size
        if values.size:
            self.lowest = min(self.lowest, float(values.min()))
            self.highest = max(self.highest, float(values.max()))

    def problem(self) -> str | None:
        """Why the values are not counts; None if they are."""
        if self.kind_seen is not None and self.kind_seen.kind not in "biuf":
            return f"its values are of type {self.kind_seen}"
        if self.n_nan:
            return f"it has {self.n_nan} NaN"
        if self.n_infinite:
            return f"it has {self.n_infinite} infinite values"
        if self.lowest < 0:
            return f"it has negative values, the lowest {self.lowest:g}"
        if self.highest == 0:
            return "all values are zero"
        if self.n_fractions:
            # Log-transformed expression stays small; normalised expression does not.
            guess = "log-transformed" if self.highest < 20 else "normalised"
            return (
                f"it has {self.n_fractions} non-integer values, such as {self.fraction:.4g} (largest "
                f"{self.highest:.4g}): it looks {guess}"
            )
        if self.highest > 2**24:
            return f"its largest value is {self.highest:g}, above 2^24, where float32 skips integers"
        return None


def matrix_of(adata: AnnData, layer: str | None) -> Any:
    """X, or the named layer, in its container.

    Raises
    ------
    ValueError
        If there is no such matrix.
    """
    check_layer(layer, adata.X is not None, adata.layers)
    return adata.X if layer is None else adata.layers[layer]


def check_layer(layer: str | None, has_x: bool, layers: Mapping[str, Any]) -> None:
    """Raise a ValueError if there is no such layer, or no X for None."""
    if layer is None and not has_x:
        raise ValueError(f"adata.X is empty: pass the layer with the counts, layer=..., of {list(layers)}")
    if layer is not None and layer not in layers:
        raise ValueError(f"layer must be a key of adata.layers, {list(layers)}; got {layer!r}")


def name_of(layer: str | None) -> str:
    """X or a layer as a user writes it, for errors."""
    return "adata.X" if layer is None else f"adata.layers[{layer!r}]"


def check_shape(layer: str | None, shape: tuple[int, ...], rows: str = "cells", columns: str = "genes") -> None:
    """Raise a ValueError for a matrix without rows or columns."""
    for what, length in zip((rows, columns), shape, strict=True):
        if length == 0:
            raise ValueError(f"{name_of(layer)} has 0 {what} (shape {tuple(shape)}): check how adata was filtered")


def raise_not_counts(layer: str | None, problem: str, fix: str) -> NoReturn:
    """Raise a ValueError with the problem and, if it is known, how to pass the counts."""
    fix = fix or "Pass the raw counts (UMIs or reads), before any normalisation or log"
    raise ValueError(f"{name_of(layer)} does not hold counts: {problem}. {fix}")


def problem_of(matrix: Any) -> str | None:
    """Why a matrix in memory (`containers.in_memory`) does not hold counts; None if it does."""
    return CountSummary().add(np.asarray(matrix.data if sp.issparse(matrix) else matrix)).problem()
