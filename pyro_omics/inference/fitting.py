"""`fit`: a Trainer with the settings that most fits want."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.lightning import pl, rank_zero_info

MIN_EPOCHS, EPOCHS = 5, 40


def recommended_epochs(svi: SVIModule, dm: Any) -> int:
    """Number of epochs after which a fit of the model by its default recipe is good.

    Forty epochs, within a quarter of ``model.recommended_steps`` and that number, and at least five: what carries over
    between data sets is rather the number of steps than that of epochs.

    Parameters
    ----------
    svi
        the `SVIModule`.
    dm
        the DataModule, with its ``batch_size``.
    """
    per_epoch = max(math.ceil(dm.n_obs / dm.batch_size), 1)
    most = svi.model.recommended_steps / per_epoch
    return max(math.ceil(min(max(EPOCHS, most / 4), most)), MIN_EPOCHS)


def fit(
    svi: SVIModule,
    dm: Any,
    max_epochs: int | None = None,
    callbacks: Iterable[pl.Callback] = (),
    ckpt_path: str | None = None,
    **trainer: Any,
) -> pl.Trainer:
    """Train, and keep the weights of the epoch with the highest ``val_elbo``.

    Parameters
    ----------
    svi
        the `SVIModule`.
    dm
        the DataModule; where it holds no rows out, the weights are those of the last step.
    max_epochs
        number of epochs; `recommended_epochs` by default, unless ``max_steps`` or ``max_time`` is given.
    callbacks
        Lightning's callbacks, beside `BestWeights`.
    ckpt_path
        checkpoint of a fit to go on with.
    trainer
        other arguments of Lightning's Trainer. No files are written, unless ``logger`` or ``enable_checkpointing`` are
        given or a callback writes some.

    Returns
    -------
    The Trainer, after the fit.
    """
    if max_epochs is None:
        has_end = {"max_steps", "max_time"} & trainer.keys()
        max_epochs = -1 if has_end else recommended_epochs(svi, dm)
    settings: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    watching = list(callbacks)
    if not any(isinstance(callback, BestWeights) for callback in watching):
        watching.append(BestWeights())
    runner = pl.Trainer(max_epochs=max_epochs, callbacks=watching, **{**settings, **trainer})
    runner.fit(svi, dm, ckpt_path=ckpt_path)
    return runner


class BestWeights(pl.Callback):
    """Callback that gives a fit the weights of the epoch with the highest ``val_elbo``, kept in memory."""

    def __init__(self) -> None:
        self.elbo, self.epoch = -math.inf, 0
        self._weights: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget an earlier fit."""
        self.elbo, self.epoch, self._weights = -math.inf, 0, {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the weights, if they are the best so far."""
        elbo = trainer.callback_metrics.get("val_elbo")
        if trainer.sanity_checking or trainer.state.fn != "fit" or elbo is None or not float(elbo) > self.elbo:
            return
        self.elbo, self.epoch = float(elbo), trainer.current_epoch
        self._weights = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the best weights back, unless they are the last."""
        if self._weights and self.epoch < trainer.current_epoch - 1:
            pl_module.load_state_dict(self._weights)
            rank_zero_info(f"the weights are those of epoch {self.epoch}, with the highest val_elbo, {self.elbo:.1f}")
        self._weights = {}
