"""What the checks share: an error that says what is not kept, and parameters that are not where they started."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import nn

STIR = 0.05


def require(kept: bool, message: str) -> None:
    """Raise with this message unless ``kept``."""
    if not kept:
        raise AssertionError(message)


@torch.no_grad()
def stir(module: nn.Module) -> None:
    """Move every entry of every parameter by some percent, and those at 0 from it; no other changes its sign.

    At their start, parameters are alike or 0, and hide what a program makes of them: which row of a table is read, a
    gradient through a layer that starts at 0.
    """
    for parameter in filter(torch.is_floating_point, module.parameters()):
        noise = STIR * torch.randn_like(parameter)
        parameter.copy_(torch.where(parameter == 0, noise, parameter * (1 + noise)))


def is_delta(fn: Any) -> bool:
    """Whether a distribution is a point, such as an autoguide's beside the density that its draw came with."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)
