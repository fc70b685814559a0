"""Run a module as in evaluation, and put its mode back after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro
import torch
from torch import nn


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Run a module as in evaluation: no dropout, and BatchNorm's running statistics, which do not move."""
    training = [child for child in module.modules() if child.training]
    try:
        for child in training:
            child.training = False
        yield
    finally:
        for child in training:
            child.training = True


@contextmanager
def without_side_effects(module: nn.Module) -> Iterator[None]:
    """Run a module without a trace: in eval mode, without gradients, with the random state put back after.

    Not in inference mode: parameters made there could not be trained.
    """
    training = {child: child.training for child in module.modules()}
    devices = {p.device for p in module.parameters() if p.device.type == "cuda"}
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=list(devices)), pyro.validation_enabled(True):
            yield
    finally:
        for child, mode in training.items():
            child.training = mode
