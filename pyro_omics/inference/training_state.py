"""State of a fit beyond weights, optimizer and counters, by which a resumed fit equals the uninterrupted one."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyro_omics.layers.eval_mode import ONE_AT_A_TIME

POSITIONS = "combined_loader"  # Lightning's name for the positions of the training loaders
METRICS = ("_callback_metrics", "_logged_metrics", "_progress_bar_metrics")  # Lightning's names


def generator_states(device: torch.device) -> dict[str, Any]:
    """States of the random generators of Python, numpy and torch, the latter also of ``device``.

    Only plain values and tensors, which ``torch.load(weights_only=True)`` reads.
    """
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 - callbacks and transforms may draw from it
    with ONE_AT_A_TIME:  # else a query in another thread may have seeded the generator
        states = {
            "python": random.getstate(),
            "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
            "torch": torch.get_rng_state(),
        }
        if device.type == "cuda":
            states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(states: dict[str, Any], device: torch.device) -> None:
    """Set the generators to ``states``, those of `generator_states`."""
    random.setstate(states["python"])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    with ONE_AT_A_TIME:
        torch.set_rng_state(states["torch"].cpu())
        if device.type == "cuda" and "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"].cpu(), device)


def waiting_gradients(module: nn.Module, trainer: Any) -> dict[str, Tensor]:
    """The gradients summed so far where the fit stands between two steps of the optimizer; else none."""
    done = trainer.fit_loop.epoch_loop.batch_progress.current.processed
    if done % trainer.accumulate_grad_batches == 0 or trainer.is_last_batch:
        return {}
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def set_gradients(module: nn.Module, gradients: dict[str, Tensor]) -> None:
    """Give the parameters these gradients, by name."""
    parameters = dict(module.named_parameters())
    for name, gradient in gradients.items():
        parameters[name].grad = gradient.to(parameters[name])


def forget_unfinished_batches(checkpoint: dict[str, Any], trainer: Any) -> None:
    """Set the saved positions of the training loaders back by the minibatches that were fetched but not trained on."""
    progress = trainer.fit_loop.epoch_loop.batch_progress.current
    unfinished = progress.ready - progress.processed
    for position in checkpoint["loops"]["fit_loop"]["state_dict"].get(POSITIONS, ()):
        if "taken" in position:
            position["taken"] -= unfinished


def what_follows(trainer: Any) -> str | None:
    """What comes after a step at whose end a checkpoint is saved: "validation", "end" (of the epoch), or None.

    Only a checkpoint that a callback saves in ``on_train_batch_end`` comes before these.
    """
    loop = trainer.fit_loop.epoch_loop
    batches = loop.batch_progress
    if not trainer.training or batches.total.completed == batches.total.processed:
        return None
    if loop._should_check_val_fx(trainer.fit_loop._data_fetcher):
        return "validation"
    return "end" if batches.is_last_batch else None


def go_on_after_step(checkpoint: dict[str, Any], follows: str | None) -> None:
    """Let a checkpoint of the end of a step go on with what follows it, which Lightning would leave out."""
    loops = checkpoint["loops"]["fit_loop"]
    if follows is None or POSITIONS not in loops["state_dict"]:
        return
    batches = loops["epoch_loop.batch_progress"]
    for progress in (batches["total"], batches["current"]):
        progress["completed"] = progress["processed"]
    if follows == "end":  # the loader has no other minibatch, and ends the epoch
        loops["epoch_loop.state_dict"]["_batches_that_stepped"] += 1
        return
    # A validation that stands before its first minibatch, which Lightning finishes.
    validated = loops["epoch_loop.val_loop.batch_progress"]
    total, current = validated["total"], validated["current"]
    total.update(dict.fromkeys(("ready", "started"), total["processed"] + 1), completed=total["processed"])
    current.update(dict.fromkeys(current, 0))


def metrics(trainer: Any) -> dict[str, dict[str, Tensor]]:
    """The values that callbacks, loggers and the progress bar have last seen, by kind and name."""
    connector = trainer._logger_connector
    return {kind: {name: torch.as_tensor(v).cpu() for name, v in getattr(connector, kind).items()} for kind in METRICS}


def set_metrics(trainer: Any, seen: dict[str, dict[str, Tensor]]) -> None:
    """Let callbacks, loggers and the progress bar see the values of `metrics`."""
    device = trainer.strategy.root_device
    for kind, values in seen.items():
        getattr(trainer._logger_connector, kind).update({name: value.to(device) for name, value in values.items()})


def resume_averages(trainer: Any, module: nn.Module) -> None:
    """Let Lightning's StochasticWeightAveraging go on within an epoch, at whose start alone it does so by itself.

    Raises
    ------
    ValueError
        In the epoch that it adds at the end for batch norm, whose statistics so far it does not save.
    """
    for callback in _of_class(trainer, "StochasticWeightAveraging"):
        if trainer.current_epoch > callback.swa_end:
            raise ValueError(
                "ckpt_path must be a checkpoint from before the last epoch, in which StochasticWeightAveraging renews "
                f"the statistics of batch norm; got one of step {trainer.global_step}, within it: pass an earlier one"
            )
        callback.on_train_epoch_start(trainer, module)


def end_averages(trainer: Any, module: nn.Module) -> None:
    """Give the module the averaged weights of Lightning's WeightAveraging, which it does only after a step."""
    for callback in _of_class(trainer, "WeightAveraging"):
        callback.on_train_end(trainer, module)


def _of_class(trainer: Any, name: str) -> list[Any]:
    """The callbacks of a class of Lightning, by name, since `pytorch_lightning` and `lightning` each have it."""
    return [c for c in trainer.callbacks if name in {cls.__name__ for cls in type(c).__mro__}]


def begin_next_epoch(checkpoint: dict[str, Any]) -> None:
    """Let a checkpoint of the end of an epoch begin the next one.

    With ``Trainer(max_steps=...)`` Lightning would go through the end of that epoch again, and count it twice.
    """
    loops = checkpoint["loops"]["fit_loop"]
    epoch = loops["epoch_progress"]
    if epoch["current"]["processed"] == epoch["current"]["ready"]:
        for progress in epoch.values():
            progress["completed"] = progress["processed"]
        batches = loops["epoch_loop.batch_progress"]
        batches.update(current=dict.fromkeys(batches["current"], 0), is_last_batch=False)
