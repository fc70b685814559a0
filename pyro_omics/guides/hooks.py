"""Hooks for guides that act when the optimizer is made and when training ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from torch import Tensor

Loss: TypeAlias = Callable[[Any], Tensor]


class TrainingHooks:
    """Base class for guides, and submodules of guides, that act at certain points of training.

    `SVIModule` calls each hook on the guide and on all of its submodules that inherit from this class.
    """

    def on_optimizer(self, lr: float) -> None:
        """Act when the optimizer has been made.

        Parameters
        ----------
        lr
            learning rate of the optimizer.
        """

    def on_train_end(self, loss: Loss, batches: Iterable[Any], summed: Callable[[Tensor], Tensor]) -> None:
        """Act at the end of training, with gradients enabled, and model and guide in eval mode.

        Parameters
        ----------
        loss
            the negative bound over the full data, in nats, estimated from a minibatch.
        batches
            the training minibatches of this process, once each.
        summed
            sums a tensor over all processes.
        """
