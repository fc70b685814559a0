"""Check that a saved and loaded pair is the same as before."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from pyro import poutine
from torch import Tensor

from pyro_omics.batch import RowBatch
from pyro_omics.inference.loading import load
from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.models.base import CountModel, Guide
from pyro_omics.serialization.arguments import PARTS, classes_of
from pyro_omics.sites import latent_values
from pyro_omics.testing.required import require
from pyro_omics.testing.rows import terms_of

STATE = "part of its state is not a parameter, buffer or constructor argument: save tensors with self.register_buffer"


def check_reloading(svi: SVIModule, batch: RowBatch, guide: Callable[[CountModel], Guide] | None) -> None:
    """Check that the loaded pair has the draws, log-probabilities and loss of the saved pair."""
    with tempfile.TemporaryDirectory() as folder:
        path = svi.save(Path(folder) / "model")
        torch.manual_seed(123)  # another seed than when the model was made, which would repeat its random numbers
        classes = [cls for cls in classes_of([svi.model, svi.guide]) if issubclass(cls, PARTS)]
        loaded = load(path, guide=guide, classes=classes, elbo=svi.bound).eval()
    draws = [_draws(pair, batch) for pair in (svi, loaded)]
    differ = [name for name, value in draws[0].items() if not torch.equal(value, draws[1][name])]
    require(not differ, f"a saved and loaded model draws other {differ}: {STATE}")
    drawn = poutine.trace(svi.guide).get_trace(batch)
    ours, theirs = (terms_of(pair, batch, drawn).values for pair in (svi, loaded))
    differ = [f"log {key[0]}({key[1]})" for key, value in ours.items() if not _close(value, theirs[key])]
    require(not differ, f"a saved and loaded model has other {differ} at the same values: {STATE}")
    for training in (False, True):
        losses = [_loss(pair, batch, training) for pair in (svi, loaded)]
        require(
            _close(*losses),
            f"a saved and loaded model has another loss {'in training' if training else 'in eval mode'} at the same "
            f"seed ({float(losses[0]):.6g}, {float(losses[1]):.6g} nats): {STATE}",
        )


def _draws(svi: SVIModule, batch: RowBatch) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return latent_values(poutine.trace(svi.guide).get_trace(batch))


def _loss(svi: SVIModule, batch: RowBatch, training: bool) -> Tensor:
    torch.manual_seed(1)
    with torch.enable_grad():  # some ELBOs cannot be computed without gradients
        return svi.train(training)(batch).detach()


def _close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are equal up to the order of sums, which the alignment of memory may change."""
    return bool(torch.isclose(a, b, rtol=1e-5, atol=1e-5, equal_nan=True).all())
