"""`LightningIdioms`: what Lightning's tutorials do with a LightningModule, for `SVIModule`."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from pyro_omics.batch import map_tensors
from pyro_omics.inference.description import make_described
from pyro_omics.inference.starts import sums
from pyro_omics.layers.eval_mode import ONE_AT_A_TIME
from pyro_omics.lightning import pl
from pyro_omics.models.base import CountModel
from pyro_omics.parts.other_names import TRAIN, attribute_error, check_arguments

ENTRY = "pyro_omics"  # key of what this package adds to a checkpoint


class LightningIdioms(pl.LightningModule):
    """Checkpoints that load by themselves, a learning rate finder, minibatches in the weights' precision, and hints."""

    _start: dict[str, float] = {}
    _weight: tuple[Tensor, ...] = ()  # the first, whose precision is that of all
    _lifted: int | None = None
    _thread: int | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make the instance, unless an argument is of another package."""
        check_arguments(cls, kwargs)
        return super().__new__(cls)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError as error:
            raise attribute_error(error, name) from None

    @property
    def fitted(self) -> bool:
        """Whether the weights differ from those that the pair was made with, trained in whatever way or loaded.

        Set it to True to query a pair as it was made, without a warning.
        """
        return not self._start or sums(self.elbo) != self._start

    @fitted.setter
    def fitted(self, value: bool) -> None:
        self._start = {} if value else sums(self.elbo)

    def train(self, mode: bool = True, **options: Any) -> Any:
        """Set the mode of all modules, as of any torch module; a Trainer's ``fit`` trains."""
        if options or not isinstance(mode, bool):
            raise TypeError(TRAIN)
        with ONE_AT_A_TIME:  # a query of another thread restores the mode that it found
            return super().train(mode)

    @pl.utilities.model_helpers._restricted_classmethod
    def load_from_checkpoint(
        cls,  # noqa: N805  # Lightning's classmethod, which cannot be called on an instance
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = "cpu",
        hparams_file: None = None,
        strict: bool = True,
        weights_only: bool = True,
        model: type[CountModel] | CountModel | None = None,
        guide: Any = None,
        classes: Iterable[type] = (),
        **options: Any,
    ) -> Any:
        """Load the trained model and guide from a Trainer's checkpoint, as `load` does from a folder.

        Parameters
        ----------
        checkpoint_path
            the .ckpt file.
        map_location
            device of the weights; the CPU by default.
        hparams_file
            not used: the checkpoint describes the model.
        strict
            whether the weights must be those of this model and guide.
        weights_only
            whether to read tensors and plain data alone, which is all that these checkpoints have.
        model, guide, classes, options
            as in `load`.

        Raises
        ------
        ValueError
            For a checkpoint without a description of its model, and as `load`.
        RuntimeError
            Where the weights do not fit.
        """
        checkpoint = torch.load(checkpoint_path, map_location=map_location, weights_only=weights_only)
        about = checkpoint.get(ENTRY, {})
        if model is None and "model" not in about:
            raise ValueError(
                f"{checkpoint_path} does not describe its model: make the model and the guide as before, and pass "
                f"them, {cls.__name__}.load_from_checkpoint(path, model=MODEL, guide=GUIDE), or load the folder of "
                "svi.save, load(path)"
            )
        made, maker = make_described(about, model, guide, classes) if "model" in about else (model, guide)
        svi: Any = cls(made, guide=maker, **{**_settings(about), **options})
        if svi._waiting is not None:
            raise ValueError(
                f"{type(made).__name__} defines no example_batch(), by which its guide is made: pass the model with "
                "an example of the data, model.given_example = dm.example_batch()"
            )
        svi.on_load_checkpoint(checkpoint)
        svi.load_state_dict(checkpoint["state_dict"], strict=strict)
        weight = next(iter(checkpoint["state_dict"].values()), torch.empty(0))
        return svi.to(weight.device)

    def in_precision(self, batch: Any) -> Any:
        """The minibatch, its floats in the precision of the weights.

        Raises
        ------
        TypeError
            For what is no minibatch, as a Trainer finds it that was given an AnnData.
        """
        if not isinstance(getattr(batch, "index", None), Tensor):
            raise TypeError(
                "a Trainer must be given an SVIModule and a DataModule, trainer.fit(svi, CellDataModule(adata)), whose "
                f"minibatches have x, row and index; got one of a {type(batch).__name__}"
            )
        if not self._weight or batch.x.dtype == self._weight[0].dtype:
            return batch
        dtype = self._weight[0].dtype
        return map_tensors(batch, lambda field: field.to(dtype) if field.is_floating_point() else field)

    def check_thread(self) -> None:
        """Raise in another thread than the one in which a Trainer is at work with this module.

        Lightning notes and restores the modes of modules, which a query changes for its time.
        """
        trainer = self._trainer
        if trainer is not None and trainer.state.status == "running" and self._thread != threading.get_ident():
            raise RuntimeError(
                "this SVIModule is being trained in another thread: ask it there, in a callback, or ask a copy that "
                "was made there, copy.deepcopy(svi), or wait for the end"
            )

    def lift_epochs(self) -> None:
        """Let Lightning's learning rate finder take all of its steps, however few epochs the training has."""
        loop = self.trainer.fit_loop
        if any(type(callback).__name__ == "_LRCallback" for callback in self.trainer.callbacks):
            self._lifted, loop.max_epochs = loop.max_epochs, -1

    def restore_epochs(self) -> None:
        """Undo `lift_epochs`."""
        if self._lifted is not None:
            self.trainer.fit_loop.max_epochs, self._lifted = self._lifted, None


def _settings(about: dict[str, Any]) -> dict[str, Any]:
    return {name: about[name] for name in ("kl_warmup_epochs", "noise_seed") if name in about}
