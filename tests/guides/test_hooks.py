"""What a guide and its parts are told of training."""

from functools import partial

import pytest
import torch
from helpers import counts, quiet_trainer, small
from pyro.nn import PyroModule
from pyro.optim.clipped_adam import ClippedAdam

import pyro_omics as po
from pyro_omics.guides.hooks import TrainingHooks


class Part(PyroModule, TrainingHooks):
    """A part of a guide that records its hooks' calls."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_optimizer(self, lr):
        self.seen.append(("optimizer", lr))

    def on_train_end(self, loss, batches, summed):
        losses = [loss(batch) for batch in batches]
        assert not self.training
        self.seen.append(("end", losses, summed(torch.tensor(2.0))))


class Whole(po.guides.Amortized):
    """A guide with such a part, and hooks of its own."""

    def __init__(self, model):
        super().__init__(model)
        self.part = Part()
        self.seen = []

    def on_optimizer(self, lr):
        self.seen.append(lr)


def test_the_hooks_of_a_guide_and_of_its_parts_are_called():
    dm = po.CellDataModule(counts(), batch_size=20, validation_size=0.0)
    svi = po.SVIModule(small(dm), guide=Whole, optimizer=partial(ClippedAdam, lr=0.02))
    quiet_trainer(1).fit(svi, dm)
    assert svi.guide.seen == [0.02]
    (first, lr), (last, losses, summed) = svi.guide.part.seen
    assert (first, lr, last, summed) == ("optimizer", 0.02, "end", 2.0)
    assert len(losses) == 3
    assert all(loss.requires_grad for loss in losses)
    # Over the full data: each minibatch is scaled to its 60 rows.
    svi.eval()
    torch.manual_seed(0)
    expected = 60 * torch.stack([svi(dm.data[dm.rows("training")]).detach() for _ in range(20)])
    assert torch.stack(losses).mean().item() == pytest.approx(float(expected.mean()), rel=0.1)
