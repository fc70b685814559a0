"""Runs of a program in evaluation mode, which leave modes and random state as they were."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from torch import nn
from torch.utils._pytree import tree_leaves

from pyro_omics.batch import RowBatch
from pyro_omics.layers.module import local_parameters

# Pyro's handlers, torch's random state and the modes of modules belong to the process, not to a thread: threads run
# programs one after the other.
ONE_AT_A_TIME = threading.RLock()


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Run a module in evaluation mode: without dropout, and with BatchNorm's running statistics, left unchanged."""
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
    """Run modules in evaluation mode, without gradients, and restore modes and random state afterwards.

    Not in torch's inference mode, because parameters made there could not be trained. One thread enters at a time.
    """
    with ONE_AT_A_TIME:
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
    """Trace one run of a model or guide, without side effects.

    The run is in evaluation mode and without gradients, the random state is restored afterwards, and effect handlers
    outside do not see the run.
    """
    mode = eval_mode(program) if isinstance(program, nn.Module) else nullcontext()
    # The batch of a guide that stands alone may be a bare tensor.
    devices = {leaf.device for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor) and leaf.is_cuda}
    still = torch.random.fork_rng(devices=list(devices))
    with ONE_AT_A_TIME, mode, torch.no_grad(), still, poutine.block(), local_parameters(program):
        return poutine.trace(program).get_trace(batch)
