"""`FitLifecycle`: how a fit is logged, saved, resumed and ended, whatever is trained."""

from __future__ import annotations

import math
from typing import Any

from pyro.infer.elbo import ELBOModule
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from pyro_omics.batch import RowBatch
from pyro_omics.inference.checkpoint_io import ENTRY, use_atomic_files
from pyro_omics.inference.divergence import LossWatch, bad_parameters, bad_site, divergence
from pyro_omics.inference.interruption import EndAfterStep
from pyro_omics.inference.monitors import check_monitors, step_plateau
from pyro_omics.inference.training_state import (
    begin_next_epoch,
    end_averages,
    forget_unfinished_batches,
    generator_states,
    go_on_after_step,
    metrics,
    resume_averages,
    set_generator_states,
    set_gradients,
    set_metrics,
    waiting_gradients,
    what_follows,
)
from pyro_omics.lightning import pl


class FitLifecycle(pl.LightningModule):
    """Base class of `SVIModule`: means of an epoch, checkpoints, resuming, and the end of a training that diverged.

    A fit that is resumed from a checkpoint is, tensor for tensor, the fit that went on: the checkpoint holds the states
    of the random generators, the position within the epoch, and the sums of the epoch so far. Validation leaves the
    random generators as they were.
    """

    elbo: ELBOModule

    def __init__(self) -> None:
        super().__init__()
        self._losses = LossWatch()
        self._validated: float | None = None  # ELBO of this epoch's validation
        self._sums: dict[str, tuple[Any, float]] = {}  # name -> sum over rows of the epoch, number of rows
        self._means: list[str] = []  # names of the sums whose mean is logged
        self._resumed: dict[str, Any] = {}  # of the checkpoint that the fit goes on from, until it starts
        self._generators: dict[str, Any] | None = None  # states in training, while a fit validates

    def setup(self, stage: str) -> None:
        """Check what the Trainer's callbacks watch, before a fit."""
        use_atomic_files(self.trainer.strategy)
        if stage == "fit":
            check_monitors(self.trainer.callbacks)
            self._losses, self._resumed = LossWatch(), {}

    def configure_callbacks(self) -> list[pl.Callback]:
        """The callback by which a signal ends a fit between steps, unless the Trainer has it."""
        found = any(isinstance(callback, EndAfterStep) for callback in self.trainer.callbacks)
        return [] if found else [EndAfterStep()]

    # Resuming -----------------------------------------------------------------------------------------------------

    def training_state(self) -> dict[str, Any]:
        """What a fit needs to be resumed exactly, beside what Lightning saves."""
        return {
            "generators": self._generators or generator_states(self.device),
            "sums": dict(self._sums),
            "means": list(self._means),
            "metrics": metrics(self.trainer),
            "validated": self._validated,
            "gradients": waiting_gradients(self, self.trainer),
            "follows": what_follows(self.trainer),
        }

    def on_fit_start(self) -> None:
        """Set the random generators of a resumed fit, before its loaders are made."""
        self._generators = None
        self._set_generators(self._resumed.pop("generators", None))

    def on_train_start(self) -> None:
        """Set what a resumed fit goes on with."""
        resumed, self._resumed = self._resumed, {}
        self._set_generators(resumed.get("generators"))  # where the strategy loads a checkpoint after `on_fit_start`
        self._sums, self._validated = dict(resumed.get("sums", {})), resumed.get("validated")
        self._means.clear()
        if self.trainer.fit_loop.restarted_mid_epoch:
            resume_averages(self.trainer, self)
            for name in resumed.get("means", ()):
                self._log_mean(name)
        set_metrics(self.trainer, resumed.get("metrics", {}))
        set_gradients(self, resumed.get("gradients", {}))
        if resumed and any(map(_has_stopped, self.trainer.callbacks)):
            self.trainer.should_stop = True  # the fit had ended, and has no other step

    def on_fit_end(self) -> None:
        """End a fit that had all of its steps when it was resumed: its checkpoints were saved before the end."""
        if self._resumed:  # `on_train_start` was not called
            end_averages(self.trainer, self)
            self.on_train_end()

    def on_validation_start(self) -> None:
        """Keep the generators' states, so that training draws the same with and without validation."""
        if self.trainer.state.fn == "fit":
            self._generators = generator_states(self.device)
            self.trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset_on_restart()  # of `go_on_after_step`

    def on_validation_end(self) -> None:
        """Go on with the generators' states before the validation."""
        self._set_generators(self._generators)
        self._generators = None

    def _set_generators(self, states: dict[str, Any] | None) -> None:
        if states is not None:
            set_generator_states(states, self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save during a fit what it needs to be resumed exactly.

        Raises
        ------
        FloatingPointError
            If the training diverged, so that a good checkpoint is not replaced.
        """
        if self.trainer.state.fn == "fit":
            self._check_finite()
            forget_unfinished_batches(checkpoint, self.trainer)
            checkpoint.setdefault(ENTRY, {})["training"] = self.training_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take from the checkpoint what a resumed fit goes on with."""
        if self._trainer is not None and self.trainer.state.fn == "fit":
            self._resumed = dict(checkpoint[ENTRY].get("training", {}))
            go_on_after_step(checkpoint, self._resumed.get("follows"))
            if self.trainer.max_steps != -1:
                begin_next_epoch(checkpoint)

    # Divergence ---------------------------------------------------------------------------------------------------

    def check_loss(self, loss: Tensor, batch: RowBatch) -> None:
        """Raise a FloatingPointError if the loss of a step is not finite; on a GPU, up to 50 steps later."""
        if loss.device.type == "cpu" and math.isfinite(loss.item()):
            return
        bad = self._losses.first_bad(loss, self.global_step)
        if bad is not None and (self._trainer is None or not self._tries_rates()):
            raise self._diverged(*bad, bad_site(self.elbo, batch))

    def _tries_rates(self) -> bool:
        """Whether Lightning's learning rate finder raises the rate until the training diverges."""
        return any(type(callback).__name__ == "_LRCallback" for callback in self.trainer.callbacks)

    def _check_finite(self) -> None:
        if (bad := self._losses.read()) is not None:
            raise self._diverged(*bad, "")
        if self.trainer.training and (names := bad_parameters(self)):
            where = f", after which {len(names)} parameters are not finite, such as {names[0]!r}"
            raise self._diverged(self.global_step - 1, math.nan, where)

    def _diverged(self, step: int, value: float, where: str) -> FloatingPointError:
        group = {"lr": math.nan} if self._trainer is None else self.trainer.optimizers[0].param_groups[0]
        rate = group.get("initial_lr", group["lr"])  # the optimizer's own, where a schedule changes it
        return divergence(step, value, float(rate), where)

    # Logged values ------------------------------------------------------------------------------------------------

    def _log(self, name: str, value: Tensor, batch: RowBatch) -> None:
        """Log the mean over an epoch's rows of ``value``, the mean over a minibatch."""
        # Weighted by rows: a plain mean over minibatches would give a smaller last one too much weight.
        rows = float(len(batch.index))
        if self._trainer is not None and self.trainer.training:
            # Summed here and logged once an epoch: Lightning's accumulation costs half a millisecond a step.
            total, before = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = (total + value * rows, before + rows)
            if self.trainer.is_last_batch:
                self._log_mean(name)
        else:
            self._log_rows(name, value, rows)

    def _log_mean(self, name: str) -> None:
        total, rows = self._sums[name]
        self._means.append(name)
        self._log_rows(name, total / rows, rows)

    def _log_rows(self, name: str, value: Any, rows: Any) -> None:
        # batch_size is a float: Lightning averages it over the processes, and would cut the mean of integers.
        self.log(name, value, on_step=False, on_epoch=True, prog_bar=True, batch_size=rows, sync_dist=True)

    def on_train_epoch_start(self) -> None:
        """Reset the sums of the logged values."""
        self._forget_sums()

    def _forget_sums(self) -> None:
        self._sums.clear()
        self._means.clear()

    def on_validation_epoch_end(self) -> None:
        """Log ``val_loss``, the negative of ``val_elbo``: lower is better, as Lightning's callbacks expect."""
        elbo = self.trainer.callback_metrics.get("val_elbo")
        if elbo is not None and not self.trainer.sanity_checking:
            self._validated = float(elbo)
            self.log("val_loss", -elbo, sync_dist=True)

    def on_train_epoch_end(self) -> None:
        """Log the means of an epoch that was stopped before its last step, and step schedulers that watch the ELBO.

        Lightning would step those after the checkpoints of the epoch's end are saved, which would lack the step.
        """
        for name in [name for name in self._sums if name not in self._means]:
            self._log_mean(name)
        self._forget_sums()
        validated, self._validated = self._validated, None
        for config in self.trainer.lr_scheduler_configs:
            if config.reduce_on_plateau and (elbo := self._watched(validated)) is not None:
                step_plateau(config.scheduler, elbo)

    def _watched(self, validated: float | None) -> float | None:
        """The epoch's ``val_elbo``, or ``train_elbo`` in a fit without held-out rows; None in an epoch without."""
        metrics = self.trainer.callback_metrics
        if validated is not None or "val_elbo" in metrics or "train_elbo" not in metrics:
            return validated
        every = self.trainer.check_val_every_n_epoch or 1
        is_due = not self.trainer.enable_validation or (self.current_epoch + 1) % every == 0
        return float(metrics["train_elbo"]) if is_due else None

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step a scheduler, unless `on_train_epoch_end` did."""
        if not isinstance(scheduler, ReduceLROnPlateau):
            super().lr_scheduler_step(scheduler, metric)


def _has_stopped(callback: pl.Callback) -> bool:
    """Whether a callback like EarlyStopping had lost its patience when its state was saved."""
    waited = getattr(callback, "wait_count", 0)
    return waited > 0 and waited >= getattr(callback, "patience", math.inf)
