"""Stop a training at the first loss that is not finite, and say where it came from."""

from __future__ import annotations

import math

import pyro
import torch
from pyro import poutine
from pyro.infer.elbo import ELBOModule
from torch import Tensor, nn

from pyro_omics.batch import RowBatch
from pyro_omics.layers.module import local_parameters
from pyro_omics.sites import sample_sites

CHECK_EVERY = 50  # steps on a GPU between checks, since each waits for the GPU
DRAWS = 5  # runs of model and guide in search of the site


class LossWatch:
    """Watches the losses of a training.

    On a CPU each loss is read at once. On other devices, the losses are kept there and read every `CHECK_EVERY` steps.
    """

    def __init__(self) -> None:
        self._unread: list[tuple[int, Tensor]] = []

    def first_bad(self, loss: Tensor, step: int) -> tuple[int, float] | None:
        """Step and value of the first loss that is not finite; None if there is none among those read so far."""
        if loss.device.type == "cpu":
            value = loss.item()
            return None if math.isfinite(value) else (step, value)
        self._unread.append((step, loss.detach()))
        return self.read() if len(self._unread) >= CHECK_EVERY else None

    def read(self) -> tuple[int, float] | None:
        """As `first_bad`, of all losses that were not read yet."""
        unread, self._unread = self._unread, []
        values = torch.stack([loss for _, loss in unread]).tolist() if unread else []
        bad = ((step, value) for (step, _), value in zip(unread, values, strict=True) if not math.isfinite(value))
        return next(bad, None)


def divergence(step: int, value: float, rate: float, where: str) -> FloatingPointError:
    """The error of a training whose loss was ``value`` at a step (from 0), at a learning rate."""
    return FloatingPointError(
        f"the training diverged: the loss must be finite; got {value} at step {step}, with the learning rate "
        f"{rate:.3g}{where}. Lower the learning rate, such as SVIModule(model, optimizer=functools.partial("
        f"ClippedAdam, lr={rate / 10:.3g})), or clip gradients, Trainer(gradient_clip_val=...)"
    )


def bad_parameters(module: nn.Module) -> list[str]:
    """Names of the trained parameters that are not finite."""
    return [name for name, p in module.named_parameters() if p.requires_grad and not p.isfinite().all()]


@torch.no_grad()
def bad_site(pair: ELBOModule, batch: RowBatch) -> str:
    """The first site whose log-probability is not finite, in new draws on this batch, as words for an error.

    Model and guide run in training mode; their buffers and torch's random state are restored.
    """
    buffers = {name: buffer.clone() for name, buffer in pair.named_buffers()}
    devices = [batch.x.device] if batch.x.device.type == "cuda" else []
    try:
        programs = local_parameters(pair.model, pair.guide)
        with programs, torch.random.fork_rng(devices=devices), pyro.validation_enabled(False):
            for _ in range(DRAWS):
                if found := _first_bad_site(pair, batch):
                    return found
    finally:
        for name, buffer in pair.named_buffers():
            buffer.copy_(buffers[name])
    return ""


def _first_bad_site(pair: ELBOModule, batch: RowBatch) -> str:
    q = poutine.trace(pair.guide).get_trace(batch)
    p = poutine.trace(poutine.replay(pair.model, trace=q)).get_trace(batch)
    for side, trace in (("guide", q), ("model", p)):
        trace.compute_log_prob()
        for site in sample_sites(trace):
            if not torch.as_tensor(site["log_prob_sum"]).isfinite():
                return f", where the log-probability of {site['name']!r} in the {side} is not finite"
    return ""
