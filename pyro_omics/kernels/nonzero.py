"""Where a dense matrix of counts is not zero: known where the rows are read, and kept on the tensor itself."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor

NOTE = "_pyro_omics_nonzero"


def note(x: Tensor, positions: Tensor, bounds: Tensor | None = None) -> Tensor:
    """Remember where ``x`` is not zero, for `positions`; returns x.

    Whatever is made of ``x`` by an operation or a copy, to another device too, does not have the note.

    Parameters
    ----------
    x
        a dense tensor. One made under ``torch.inference_mode`` does not know when it is written to, and gets no note.
    positions
        (nnz,) int64, ascending: the positions in ``x.flatten()`` of its entries that are not zero, on x's device.
    bounds
        (n + 1,) int64: where in ``positions`` each row of x (n, g) begins, and their end; found where they are asked
        for when None.
    """
    if not x.is_inference():
        setattr(x, NOTE, _Note(positions, bounds, x))
    return x


def positions(x: Tensor) -> Tensor:
    """The positions in ``x.flatten()`` of its entries that are not zero, (nnz,) int64, ascending.

    Those of `note`, unless ``x`` was written to since; else they are found, and noted. A write through ``x.data`` or
    through a numpy array that shares x's memory is not seen.
    """
    found = known(x)
    if found is not None:
        return found
    found = _find(x.detach().flatten().bool())
    note(x, found)
    return found


def known(x: Tensor) -> Tensor | None:
    """`positions`, where they need not be sought."""
    if x.is_inference():
        return None
    return _noted(x)[0]


def bounds(x: Tensor) -> Tensor:
    """Where in `positions` each row of ``x`` (..., g) begins, and their end, (n + 1,) int64."""
    found = positions(x)
    known_bounds = None if x.is_inference() else _noted(x)[1]
    if known_bounds is None:
        starts = torch.arange(0, x.numel() + 1, x.shape[-1], device=x.device)
        known_bounds = torch.searchsorted(found, starts)
        note(x, found, known_bounds)
    return known_bounds


def row_lengths(x: Tensor) -> Tensor:
    """How many entries that are not zero each row of ``x`` (..., g) has, (n,)."""
    return bounds(x).diff()


def _noted(x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    found = getattr(x, NOTE, None)
    return (found.positions, found.bounds) if isinstance(found, _Note) and found.holds(x) else (None, None)


class _Note:
    """What is noted of a tensor, as it was: of no copy, which counts its versions anew."""

    def __init__(self, positions: Tensor, bounds: Tensor | None, x: Tensor) -> None:
        self.positions, self.bounds = positions, bounds
        self.of = id(x), x._version, x.shape

    def holds(self, x: Tensor) -> bool:
        """Whether x is that tensor still."""
        return self.of == (id(x), x._version, x.shape)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """A pickle, or a deep copy, has none: of a kind that torch.load takes for harmless."""
        return OrderedDict, ()


def _find(is_stored: Tensor) -> Tensor:
    if is_stored.device.type == "cpu":  # numpy takes half of torch's time
        return torch.from_numpy(np.flatnonzero(is_stored.numpy()))
    return is_stored.nonzero().squeeze(-1)
