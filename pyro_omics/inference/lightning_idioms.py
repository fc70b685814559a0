"""`LightningIdioms`: what Lightning's tutorials do with a LightningModule, for `SVIModule`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import torch

from pyro_omics.inference.checkpoint_io import ENTRY, read_checkpoint
from pyro_omics.inference.description import describe, make_described, plain
from pyro_omics.inference.starts import sums
from pyro_omics.layers.eval_mode import ONE_AT_A_TIME
from pyro_omics.lightning import pl
from pyro_omics.models.base import CountModel
from pyro_omics.parts.other_names import TRAIN, check_arguments
from pyro_omics.serialization.folder import write_folder
from pyro_omics.version import __version__


class LightningIdioms(pl.LightningModule):
    """Saved fits, checkpoints that load by themselves, Lightning's learning rate finder, and hints for wrong names."""

    _start: dict[str, float] = {}
    _lifted: int | None = None
    row_codes: torch.Tensor | None  # of `TrainedRows`

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make the instance, unless an argument is of another package."""
        check_arguments(cls, kwargs)
        return super().__new__(cls)

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
            whether model and guide must be made as those that were saved.
        weights_only
            whether to read tensors and plain data alone, which is all that these checkpoints have.
        model, guide, classes, options
            as in `load`.

        Raises
        ------
        ValueError
            For a file that is no checkpoint of an SVIModule, one without a description of its model, and as `load`.
        """
        checkpoint = read_checkpoint(checkpoint_path, map_location, weights_only)
        about = checkpoint[ENTRY]
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
        svi.strict_loading = strict
        svi.on_load_checkpoint(checkpoint)
        svi.load_state_dict(checkpoint["state_dict"], strict=strict)
        weight = next(iter(checkpoint["state_dict"].values()), torch.empty(0))
        return svi.to(weight.device)

    def save(self, path: str | Path) -> Path:
        """Write a folder that `load` reads: weights and trained rows (safetensors), configuration and schema (JSON).

        Returns
        -------
        The folder.

        Raises
        ------
        FileExistsError
            Where ``path`` exists and is not a saved model.
        """
        schema = None if self.schema is None else self.schema.to_dict()
        config = {"pyro_omics": __version__, **self.description(), "schema": schema}
        return write_folder(path, self.elbo.state_dict(), config, rows=self.row_codes)

    def description(self) -> dict[str, Any]:
        """The description of model, guide and settings from which a saved fit is made again."""
        return {**describe(self.model, self.guide), **plain({"kl_warmup_epochs": self.kl_warmup_epochs})}

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
