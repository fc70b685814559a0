"""Run a program as in evaluation, and put back after what the run would have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import nn

from pyro_omics.batch import RowBatch


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
def without_side_effects(*modules: nn.Module) -> Iterator[None]:
    """Run modules in eval mode, without gradients, and put mode and random state back after.

    Not in inference mode: parameters made there could not be trained.
    """
    training = {child: child.training for module in modules for child in module.modules()}
    devices = {p.device for module in modules for p in module.parameters() if p.device.type == "cuda"}
    for module in modules:
        module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=list(devices)), pyro.validation_enabled(True):
            yield
    finally:
        for child, mode in training.items():
            child.training = mode


def prototype_trace(program: Callable[..., Any], batch: RowBatch) -> Trace:
    """The trace of one run of a model or guide, which leaves everything else as it was.

    In eval mode, without gradients, with the random state put back after, and unseen by handlers outside of it.
    """
    quiet = eval_mode(program) if isinstance(program, nn.Module) else nullcontext()
    with quiet, torch.no_grad(), torch.random.fork_rng(devices=[]), poutine.block():
        return poutine.trace(program).get_trace(batch)
