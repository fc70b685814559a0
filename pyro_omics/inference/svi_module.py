"""The LightningModule that trains any model, guide, ELBO and optimizer."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from numbers import Integral
from typing import Any

import pyro
import torch
from pyro.infer import ELBO
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from pyro_omics.batch import RowBatch, in_precision
from pyro_omics.guides.hooks import TrainingHooks
from pyro_omics.inference.build_pair import build_pair, check_on_data
from pyro_omics.inference.checkpoint_io import ENTRY
from pyro_omics.inference.checks import (
    check_callable,
    check_not_compiled,
    check_parameters,
    check_schema,
    check_sizes,
    kind_of,
    refuse_batch,
)
from pyro_omics.inference.description import plain
from pyro_omics.inference.draws import drawing
from pyro_omics.inference.elbos.adapters import adapter
from pyro_omics.inference.keyed_noise import KeyedNoise
from pyro_omics.inference.kl_warmup import LatentValues
from pyro_omics.inference.lifecycle import FitLifecycle
from pyro_omics.inference.lightning_idioms import LightningIdioms
from pyro_omics.inference.saved_pair import check_saved
from pyro_omics.inference.starts import remember_start, renew_start, warn_if_trained, was_trained
from pyro_omics.inference.trained_rows import TrainedRows
from pyro_omics.layers.eval_mode import ONE_AT_A_TIME, eval_mode
from pyro_omics.layers.module import local_parameters
from pyro_omics.models.base import CountModel, Guide
from pyro_omics.optim import lowers_its_rate, takes_steps, warn_of_two_decays
from pyro_omics.parts.other_names import attribute_error
from pyro_omics.schema import Schema

KL_WARMUP = 0.25  # share of the training in which the KL's weight rises to 1
UNKNOWN_WARMUP = 10  # epochs of it, where the training's length is not known


class SVIModule(TrainedRows, LightningIdioms, FitLifecycle):
    """Stochastic variational inference as a LightningModule.

    The loss is the negative bound over the full data divided by ``n_obs``. The logged ``train_elbo`` and ``val_elbo``
    are the plain ELBO at full KL weight, whatever bound is trained, per observation, in nats: higher is better. With
    ``val_elbo`` its negative is logged, as ``val_loss``.

    Parameters
    ----------
    model
        a `models.CountModel`.
    guide
        any callable model -> guide (`guides.Amortized`, a ``functools.partial`` of one, a class of your own), or a
        guide; None takes the model's default guide, `guides.Amortized` for most models.
    elbo
        any ELBO with a differentiable loss, of Pyro or of `elbos`; None takes the model's default, `elbos.TraceELBO`
        for most models. ``TraceMeanField_ELBO()`` computes the KL in closed form where model and guide allow it (two
        Normals), and estimates it from a draw elsewhere. Discrete latents that the model marks
        ``infer={"enumerate": "parallel"}`` are summed out by ``TraceEnum_ELBO(max_plate_nesting=1)``,
        `elbos.RenyiELBO` and `elbos.ImportanceWeightedELBO`; every logged or reported ELBO and likelihood then has them
        summed out.
    optimizer
        callable parameters -> torch optimizer; None takes the model's default, `optim.ClippedAdam`.
    scheduler
        callable optimizer -> learning-rate scheduler, stepped once per epoch, or one with a second argument
        ``n_steps``, the number of steps of the fit, stepped once per step of the optimizer; None takes the model's
        default, `optim.OneCycle` for most models, unless the optimizer lowers the rate itself; `optim.Constant` keeps
        the rate.
        ``ReduceLROnPlateau`` watches ``val_elbo`` (``train_elbo`` where nothing is held out), with ``mode="min"`` its
        negative.
    kl_warmup_epochs
        number of epochs over which the weight of the latent sites rises linearly to 1, at most half of the training; 0
        for no warm-up; None for a quarter of the training. Where discrete latents are summed out, the weight scales the
        KL of the other latents.
    noise_seed
        integer that makes every draw in training and validation a function of the seed, the step and, for local
        latents, the row's index (`inference.keyed_noise.KeyedNoise`): several processes then train as one process with
        their minibatches joined, and a resumed fit draws what the uninterrupted one would have. The guide must draw
        local latents from Normals or transformed Normals. None draws from torch's generator.
    warm_start
        whether model and guide start from the data (`models.CountModel.warm_start`); False leaves them at the draws
        that they were made with, as the field does.

    Attributes
    ----------
    lr
        learning rate that replaces the optimizer's own, as Lightning's ``Tuner.lr_find`` sets it; None keeps that.

    Raises
    ------
    ValueError, TypeError
        Where model, guide and ELBO do not fit together: before any training starts.

    Source: Kingma and Welling 2014; Bowman et al. 2016 and Sønderby et al. 2016 (KL warm-up).
    """

    def __init__(
        self,
        model: CountModel,
        guide: Callable[[CountModel], Guide] | Guide | None = None,
        elbo: ELBO | None = None,
        optimizer: Callable[[Iterable[Tensor]], Optimizer] | None = None,
        scheduler: Callable[..., LRScheduler] | None = None,
        kl_warmup_epochs: int | None = None,
        noise_seed: int | None = None,
        warm_start: bool = True,
    ) -> None:
        super().__init__()
        if not isinstance(model, CountModel):
            raise TypeError(f"model must be a CountModel, such as SCVI.from_data(dm); got {kind_of(model)}")
        if not (noise_seed is None or isinstance(noise_seed, Integral)):
            raise ValueError(
                f"noise_seed must be an integer, or None to draw from torch's generator; got {noise_seed!r}"
            )
        if kl_warmup_epochs is not None and kl_warmup_epochs < 0:
            raise ValueError(
                f"kl_warmup_epochs must be a number of epochs, 0 or more, or None for a share of the training; got "
                f"{kl_warmup_epochs}"
            )
        for argument, value, example in (
            ("guide", guide, "guides.Amortized"),
            ("optimizer", optimizer, "pyro.optim.clipped_adam.ClippedAdam"),
            ("scheduler", scheduler, "torch.optim.lr_scheduler.CosineAnnealingLR in a functools.partial"),
        ):
            check_callable(argument, value, example)
        self.adapter = adapter(model.default_elbo() if elbo is None else elbo)
        self.n_obs = model.n_obs
        self.kl_warmup_epochs = kl_warmup_epochs
        self.noise_seed = noise_seed
        self.make_optimizer = optimizer or model.default_optimizer()
        self.default_scheduler = model.default_scheduler()
        self.make_scheduler = self.default_scheduler if scheduler is None else scheduler
        self.warm_start = warm_start
        self.lr: float | None = None
        self.schema: Schema | None = None
        self._make_guide = guide
        self._waiting: tuple[CountModel] | None = None  # in a tuple, so that the model is registered in the pair alone
        self._weight: tuple[Tensor, ...] = ()  # the first, whose precision is that of all
        self._thread: int | None = None  # in which a Trainer is at work
        self._n_names = 0
        self._warmup_steps: int | None = None  # known when the training starts
        self._checked_step = False
        try:
            batch = model.example_batch()
        except NotImplementedError:
            self._waiting = (model,)  # the pair is built in setup, on an example from the DataModule
        else:
            self._build(model, batch)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            raise attribute_error(error, name) from None

    def _build(self, model: CountModel, batch: RowBatch) -> None:
        made = isinstance(self._make_guide, nn.Module)
        if not made:
            warn_if_trained(model)
        # Only the pair is registered: model and guide beside it would triple the keys of the state dict.
        self.elbo = build_pair(model, self._make_guide, self.adapter, batch)
        self._n_names = len(list(self.elbo.parameters()))
        self._weight = tuple(p for p in self.elbo.parameters() if p.is_floating_point())[:1]
        self.fitted = made  # a guide that is an object may have been trained with its model
        remember_start(model)

    @property
    def bound(self) -> ELBO:
        """The ELBO that is trained."""
        return self.adapter.bound

    @property
    def nesting(self) -> int | None:
        """Nesting depth of plates, where discrete latents are summed out; else None."""
        return self.adapter.nesting

    @property
    def model(self) -> CountModel:
        """The model."""
        return self.elbo.model

    @property
    def guide(self) -> Guide:
        """The guide."""
        return self.elbo.guide

    def setup(self, stage: str) -> None:
        """Check the data, take their schema from the DataModule, and build a pair that needs an example of the data."""
        check_not_compiled(self)
        self._thread = threading.get_ident()
        if self.trainer.precision in ("16-true", "bf16-true"):
            raise ValueError(
                f"Trainer(precision={self.trainer.precision!r}) holds weights in 16 bits, which are too few for counts "
                'and their likelihood: use precision="bf16-mixed", in which the networks alone run in 16 bits'
            )
        super().setup(stage)
        if stage == "fit":
            self._warmup_steps = None
        dm = getattr(self.trainer, "datamodule", None)
        if self._waiting is not None:
            if dm is None:
                raise ValueError(
                    f"{type(self._waiting[0]).__name__} defines no example_batch(), and there is no DataModule to take "
                    "one from: call trainer.fit(svi, dm), or define example_batch()"
                )
            (model,), self._waiting = self._waiting, None
            model.given_example = dm.example_batch()
            self._build(model, model.given_example)
        if dm is None or not hasattr(dm, "schema"):
            return
        if self.schema is not None:
            check_schema(self.schema, dm.schema)
            if stage != "predict":  # which scores no row
                self.warn_of_other_split(dm, dm.data)
        if stage == "fit":
            check_sizes(self.model, dm.sizes)
            if dm.n_obs != self.n_obs:
                raise ValueError(
                    f"the model was made for n_obs={self.n_obs} training rows, but the data have {dm.n_obs}: make it "
                    "from the DataModule that it is trained on, from_data(dm)"
                )
            check_on_data(self.elbo, self.adapter, self.in_precision(dm.example_batch()))
            self._start_from(dm)
            self.schema = dm.schema
            self.note_rows(dm, self.row_codes if self.fitted else None)

    def _start_from(self, dm: Any) -> None:
        """Start model and guide from the data, unless they have been trained or loaded."""
        if self.warm_start and not (self.model.started or was_trained(self.model)):
            fitted = self.fitted
            self.model.warm_start(self.guide, dm)
            self.fitted = fitted  # a start is no fit
            renew_start(self.model)
        self.model.started = True

    def check_thread(self) -> None:
        """Raise in another thread than the one in which a Trainer is at work: Lightning notes and sets modes there."""
        trainer = self._trainer
        if trainer is not None and trainer.state.status == "running" and self._thread != threading.get_ident():
            raise RuntimeError(
                "this SVIModule is being trained in another thread: ask it there, in a callback, or ask a copy that "
                "was made there, copy.deepcopy(svi), or wait for the end"
            )

    def in_precision(self, batch: Any) -> Any:
        """The minibatch, its floats in the precision of the weights."""
        if not isinstance(getattr(batch, "index", None), Tensor):
            refuse_batch(batch)
        dtype = self._weight[0].dtype if self._weight else batch.x.dtype
        return batch if batch.x.dtype == dtype else in_precision(batch, dtype)

    def forward(self, batch: RowBatch) -> Tensor:
        """The training loss at full KL weight: the negative bound divided by n_obs, plus the model's penalty."""
        with local_parameters(self.model, self.guide), self._record_latents() as latents:
            loss = self.adapter.loss(self.elbo, batch) / self.n_obs
        penalty = self._penalty(batch, latents)
        return loss if penalty is None else loss + penalty

    def _record_latents(self) -> AbstractContextManager[LatentValues | None]:
        """Record the latents' values in training, for a model that defines a penalty."""
        has_penalty = getattr(self.model.penalty, "__func__", None) is not CountModel.penalty
        return LatentValues() if self.training and has_penalty else nullcontext()

    def _penalty(self, batch: RowBatch, latents: LatentValues | None) -> Tensor | None:
        return None if latents is None else self.model.penalty(batch, latents.values)

    @property
    def kl_weight(self) -> float:
        """The weight of the latent sites at this step, in (0, 1]."""
        if not self._warmup_steps or self._trainer is None or not self.trainer.training:
            return 1.0
        return min(1.0, (self.global_step + 1) / self._warmup_steps)

    def on_train_start(self) -> None:
        """Set the length of the warm-up in steps, from the number of batches, or as in the fit that is resumed."""
        self.lift_epochs()
        epochs, steps = self._resumed.get("warmup", (math.nan, 0))  # nan, which equals no number of epochs, nor None
        self._warmup_steps = steps if epochs == self.kl_warmup_epochs else self._count_warmup_steps()
        super().on_train_start()

    def training_state(self) -> dict[str, Any]:
        """See `FitLifecycle`; with the length of the warm-up."""
        known = {} if self._warmup_steps is None else {"warmup": plain((self.kl_warmup_epochs, self._warmup_steps))}
        return {**super().training_state(), **known}

    def _count_warmup_steps(self) -> int:
        per_epoch = self.trainer.num_training_batches / self.trainer.accumulate_grad_batches
        total, epochs = self.trainer.estimated_stepping_batches, self.kl_warmup_epochs
        if epochs is None:
            steps = KL_WARMUP * total if math.isfinite(total) else UNKNOWN_WARMUP * per_epoch
        else:
            steps = min(epochs * per_epoch, total / 2)
        return int(steps) if math.isfinite(steps) else 0

    def on_train_end(self) -> None:
        """Call the guide's hooks, such as that of a Laplace approximation at the trained optimum."""
        self.restore_epochs()
        sum_over_processes = partial(self.trainer.strategy.reduce, reduce_op="sum")
        with ONE_AT_A_TIME, torch.enable_grad(), eval_mode(self), pyro.validation_enabled(False):
            for hooks in self._hooks():
                hooks.on_train_end(self._final_loss, self._training_batches(), sum_over_processes)

    def _hooks(self) -> list[TrainingHooks]:
        return [module for module in self.guide.modules() if isinstance(module, TrainingHooks)]

    def _final_loss(self, batch: RowBatch) -> Tensor:
        """The negative bound over the full data after training, with its own keyed noise."""
        with self._running(batch, "end"):
            return self.adapter.loss(self.elbo, batch)

    def _training_batches(self) -> Iterator[Any]:
        """All minibatches of training, in the order of the epoch after the last, also where a fit was resumed."""
        loader = self.trainer.train_dataloader
        sampler: Any = getattr(loader, "sampler", None)
        if hasattr(sampler, "set_epoch"):  # in the last epoch, what was taken before would be left out
            sampler.set_epoch(self.trainer.current_epoch)
        for batch in loader:
            yield self.in_precision(self.trainer.strategy.batch_to_device(batch))

    def training_step(self, batch: RowBatch, batch_idx: int) -> Tensor:
        """The loss of one step, with the latent sites at `kl_weight`.

        Raises
        ------
        FloatingPointError
            If the loss is not finite; on a GPU, up to 50 steps later.
        """
        batch = self.in_precision(batch)
        # Pyro's validation costs 8-17% of a step, and finds in the first step what there is to find.
        with self._running(batch, "step"), pyro.validation_enabled(not self._checked_step):
            with self._record_latents() as latents:
                loss, elbo = self.adapter.step(self.elbo, batch, self.kl_weight)
            penalty = self._penalty(batch, latents)
        value = loss / self.n_obs if penalty is None else loss / self.n_obs + penalty
        self.check_loss(value, batch)
        if not self._checked_step:
            check_parameters(self, self._n_names)
            self._checked_step = True
        self._log("train_elbo", elbo / self.n_obs, batch)
        if penalty is not None:
            self._log("train_penalty", penalty.detach(), batch)
        return value

    @torch.no_grad()
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Add the gradient of the model's `models.CountModel.weight_priors`, divided by n_obs as the loss is."""
        for weight, scale in self.model.weight_priors():
            if weight.grad is not None:
                weight.grad.add_(weight, alpha=1 / (scale**2 * self.n_obs))

    @torch.no_grad()
    def plain_elbo(self, batch: RowBatch) -> Tensor:
        """One draw of the ELBO per observation, in nats, at full KL weight, with discrete latents summed out."""
        batch = self.in_precision(batch)
        with self._running(batch, "plain"), pyro.validation_enabled(False):
            return self.adapter.plain(self.elbo, batch) / self.n_obs

    @contextmanager
    def _running(self, batch: RowBatch, purpose: str) -> Iterator[None]:
        """Run the pair: with local parameters, and the keyed noise of this step if there is a ``noise_seed``."""
        seed = self.noise_seed
        noise = nullcontext() if seed is None else KeyedNoise(batch.index, seed, purpose, self.global_step)
        with ONE_AT_A_TIME, local_parameters(self.model, self.guide), noise:
            yield

    def validation_step(self, batch: RowBatch, batch_idx: int) -> None:
        """Log ``val_elbo``: local terms averaged over the held-out rows, and the global terms divided by n_obs."""
        self._log("val_elbo", self.plain_elbo(batch), batch)

    def test_step(self, batch: RowBatch, batch_idx: int) -> None:
        """Log ``test_elbo``."""
        self._log("test_elbo", self.plain_elbo(batch), batch)

    def predict_step(self, batch: RowBatch, batch_idx: int) -> dict[str, Tensor]:
        """``latent`` and ``latent_sd`` (n, k), the posterior mean and standard deviation, and ``row`` of each row."""
        batch = self.in_precision(batch)
        with drawing(self, seed=batch_idx) as draws:
            mean, sd = draws.moments(batch, 25)
        return {"row": batch.row, "latent": mean, "latent_sd": sd}

    def configure_optimizers(self) -> Any:
        """The optimizer of all parameters of the pair, and the scheduler if there is one."""
        optimizer = self.make_optimizer(self.parameters())
        if isinstance(optimizer, PyroOptim) or not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"optimizer must make a torch optimizer from parameters; it made a {type(optimizer).__name__}: use "
                "pyro.optim.clipped_adam.ClippedAdam (pyro.optim.ClippedAdam is a factory for pyro.infer.SVI)"
            )
        for group in optimizer.param_groups if self.lr is not None else ():
            group["lr"] = self.lr
        for hooks in self._hooks():
            hooks.on_optimizer(optimizer.param_groups[0]["lr"])
        schedule = self.make_scheduler
        if schedule is None or (schedule is self.default_scheduler and lowers_its_rate(optimizer)):
            return optimizer
        per_step = takes_steps(schedule)
        scheduler = schedule(optimizer, n_steps=self._count_steps()) if per_step else schedule(optimizer)
        warn_of_two_decays(optimizer, scheduler)
        if per_step:
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
        if isinstance(scheduler, ReduceLROnPlateau):  # Lightning asks for a metric that it has in every epoch
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "train_elbo"}}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _count_steps(self) -> float:
        """Number of steps of the optimizer in the fit; inf where it has no known end."""
        if self._trainer is None:
            return math.inf
        loop = self.trainer.fit_loop
        is_set_up = getattr(loop, "_combined_loader", None) is not None
        loop.setup_data()  # or Lightning says that it loads the data to count
        steps = self.trainer.estimated_stepping_batches - self.trainer.global_step
        if not is_set_up:
            loop._combined_loader = None  # a resumed fit sets the loaders' positions when they are set up
        return steps

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the data's schema, the description of model and guide, and in a fit what it needs to be resumed."""
        sizes = getattr(self.model, "sizes", None)
        made_for = None if sizes is None else sizes.description()
        schema = None if self.schema is None else self.schema.to_dict()
        about = {"schema": schema, "n_obs": self.n_obs, "sizes": made_for, "noise_seed": self.noise_seed}
        checkpoint[ENTRY] = {**plain(about), **self.description(), "rows": self.row_codes}
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the data's schema, and check that pair and data are the same: weights refer to genes by position."""
        if self.strict_loading:
            check_saved(checkpoint[ENTRY], checkpoint["state_dict"], self, (self.model, self.guide), "the checkpoint")
        schema = checkpoint[ENTRY]["schema"]
        self.schema = None if schema is None else Schema.from_dict(schema)
        stage = None if self._trainer is None else self.trainer.state.fn
        if (rows := checkpoint[ENTRY].get("rows")) is not None or stage != "fit":
            self.row_codes = None if rows is None else rows.cpu()
        super().on_load_checkpoint(checkpoint)
        dm: Any = getattr(self._trainer, "datamodule", None)
        if hasattr(dm, "schema") and self.schema is not None:
            check_schema(self.schema, dm.schema, training_rows=True)
            if stage in ("validate", "test"):
                self.warn_of_other_split(dm, dm.data)
