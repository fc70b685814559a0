"""Helpers of the checks: assertions, and perturbed parameters."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import nn

SCALE = 0.05  # standard deviation of the perturbation, relative to a parameter or absolute where it is 0


def require(condition: bool, message: str) -> None:
    """Raise an AssertionError with this message unless ``condition`` is true."""
    if not condition:
        raise AssertionError(message)


@torch.no_grad()
def perturb_parameters(module: nn.Module) -> None:
    """Change every entry of every parameter by some percent, and move entries that are 0 away from it.

    Untrained parameters are often equal or 0, which hides errors: reading the wrong row of a table, or a missing
    gradient through a layer that starts at 0.
    """
    for parameter in filter(torch.is_floating_point, module.parameters()):
        noise = SCALE * torch.randn_like(parameter)
        parameter.copy_(torch.where(parameter == 0, noise, parameter * (1 + noise)))


def is_delta(fn: Any) -> bool:
    """Whether a distribution is a point mass, such as those that autoguides draw."""
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)
