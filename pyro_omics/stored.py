"""Where a dense tensor of counts is not zero, remembered on the tensor by who made it."""

from __future__ import annotations

from torch import Tensor

_NOTE = "_pyro_omics_positions"


def note(x: Tensor, positions: Tensor) -> Tensor:
    """Remember on ``x`` the ascending flat positions (int64) of its non-zero entries, and return it.

    An operation on ``x``, or a copy to another device, gives a tensor without the note.
    """
    setattr(x, _NOTE, (x._version, positions))
    return x


def positions(x: Tensor) -> Tensor:
    """The ascending flat positions of the non-zero entries: as noted, unless ``x`` was written to since."""
    version, noted = getattr(x, _NOTE, (None, None))
    if noted is None or version != x._version:
        noted = x.flatten().nonzero().squeeze(-1)
        note(x, noted)
    return noted
