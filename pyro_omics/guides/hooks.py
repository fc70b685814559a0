"""What a guide, or a part of one, may do when the optimizer is made and when training ends."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from torch import Tensor

Loss: TypeAlias = Callable[[Any], Tensor]


class TrainingHooks:
    """A base for guides, and for submodules of guides, that act at certain points of training.

    `SVIModule` calls each hook on every submodule of the guide, itself included, that has this class among its bases.
    """

    def on_optimizer(self, lr: float) -> None:
        """Act when the optimizer has been made.

        Parameters
        ----------
        lr
            its learning rate.
        """

    def on_train_end(self, loss: Loss, batches: Iterable[Any], summed: Callable[[Tensor], Tensor]) -> None:
        """Act at the end of training, with gradients enabled and the pair in eval mode.

        Parameters
        ----------
        loss
            the negative bound over the full data, in nats, estimated from a minibatch.
        batches
            the training minibatches of this process, for one pass over them.
        summed
            the sum over all processes of each one's part.
        """
