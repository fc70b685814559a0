"""`compare`: several configurations, fitted on one split, in one table."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl

from pyro_omics.evaluation.described import described_data, described_pair, is_kept, told
from pyro_omics.evaluation.report import SCORES, History, scores
from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.posterior import Posterior
from pyro_omics.serialization.arguments import encode
from pyro_omics.serialization.atomic_write import atomic_write

METRICS, MODEL = "metrics.json", "model"


@dataclass
class Fit:
    """What a comparison keeps of one fit: scores of the held-out rows, and what it cost."""

    scores: pd.DataFrame
    seconds: float
    parameters: int


def compare(
    configurations: Mapping[str, Callable[[], SVIModule]],
    dm: Any,
    max_epochs: int = 100,
    folder: str | Path | None = None,
    num_particles: int = 50,
    seed: int = 0,
    reference: str | None = None,
    **trainer: Any,
) -> pd.DataFrame:
    """Fit several configurations on the same split, from the same seed, and compare them on the held-out rows.

    Parameters
    ----------
    configurations
        name -> what makes the pair, such as ``lambda: po.SVIModule(po.SCVI.from_data(dm, prior=...))``.
    dm
        a DataModule with held-out rows (``validation_size``).
    max_epochs
        of each training.
    folder
        where each fit is kept, under its name: one that is there already, of the same configuration, data, epochs and
        seed, is read and not repeated, so that a comparison that was cut off goes on. The same configuration is one
        that is made with the same settings, code and starting values (`identity.identity`); where that cannot be told
        it is fitted again, and a line of the log says what differs. None keeps nothing.
    num_particles
        of the importance-weighted log-likelihood.
    seed
        of each training, and of the draws.
    reference
        the name of the configuration that differences are to; None takes the best.
    trainer
        other arguments of Lightning's Trainer; by default on the CPU, without a logger, checkpoints or a progress bar.

    Returns
    -------
    DataFrame, one row for each configuration, in their order; see `table`.

    Raises
    ------
    ValueError
        Where no rows are held out, for a name that cannot be a folder's, and for a ``reference`` that is no name.
    FileExistsError
        Where a folder of that name is there, and is no fit.
    TypeError
        For a configuration that does not make an `SVIModule`.
    """
    if not len(dm.rows("validation")):
        raise ValueError("no rows are held out to compare on: make the DataModule with validation_size=0.1")
    names = list(configurations)
    if wrong := [name for name in names if not name or name != Path(name).name]:
        raise ValueError(f"configurations: {wrong[0]!r} cannot be the name of a folder: leave out '/'")
    check_reference(reference, names)
    place = None if folder is None else Path(folder).expanduser()
    for taken in [] if place is None else [place / name for name in names if (place / name).exists()]:
        if "description" not in _metrics(taken):  # another's, or one of `pyro-omics fit`, which would be lost
            raise FileExistsError(f"{taken} exists and is no fit of a comparison: choose another folder")
    run = _Run(dm, {"max_epochs": max_epochs, "num_particles": num_particles, "seed": seed}, trainer)
    return table({name: run(name, make, place) for name, make in configurations.items()}, reference)


def check_reference(reference: str | None, names: Iterable[str]) -> None:
    """Refuse a reference that is none of the names.

    Raises
    ------
    ValueError
        With the names that there are.
    """
    if reference is not None and reference not in (names := list(names)):
        raise ValueError(f"reference={reference!r} is none of the configurations: give one of {names}")


def table(fits: Mapping[str, Fit], reference: str | None = None) -> pd.DataFrame:
    """Compare fits on their held-out rows.

    Parameters
    ----------
    fits
        name -> `Fit`, all of the same rows.
    reference
        the name of the one that differences are to; None takes the best.

    Returns
    -------
    DataFrame with the columns ``val_elbo`` and ``log_likelihood`` (importance-weighted), means over the held-out rows
    in nats, ``se``, the standard error of the latter; ``difference`` in it to the reference, and ``difference_se`` of
    that, row by row, so that what is common to all configurations cancels; ``seconds`` of training; ``parameters``.

    Raises
    ------
    ValueError
        Where the held-out rows differ, and for a ``reference`` that is no name.
    """
    check_reference(reference, fits)
    rows = [fit.scores.index for fit in fits.values()]
    if differ := [name for name, index in zip(fits, rows, strict=True) if not index.equals(rows[0])]:
        raise ValueError(
            f"{differ[0]!r} was scored on other held-out rows than {next(iter(fits))!r}: compare on one split, with "
            "the same data, validation_size and seed"
        )
    whole = pd.DataFrame({name: fit.scores["log_likelihood"] for name, fit in fits.items()}).astype(float)
    mean = whole.mean()
    behind = whole.sub(whole[mean.idxmax() if reference is None else reference], axis=0)
    error = len(whole) ** -0.5
    return pd.DataFrame(
        {
            "val_elbo": {name: float(fit.scores["elbo"].mean()) for name, fit in fits.items()},
            "log_likelihood": mean,
            "se": whole.std() * error,
            "difference": behind.mean(),
            "difference_se": behind.std() * error,
            "seconds": {name: fit.seconds for name, fit in fits.items()},
            "parameters": {name: fit.parameters for name, fit in fits.items()},
        }
    ).loc[list(fits)]


def read(folder: Path) -> Fit:
    """The fit that a folder keeps: a comparison's, or one of ``pyro-omics fit``.

    Raises
    ------
    ValueError
        Where it has no scores of held-out rows.
    """
    if not (folder / SCORES).is_file():
        raise ValueError(f"{folder} has no {SCORES}: no rows were held out, or it is no folder of a fit")
    metrics = json.loads((folder / METRICS).read_text())
    found = pd.read_csv(folder / SCORES, index_col=0, dtype={0: str})
    return Fit(found, metrics["seconds"], metrics["parameters"])


class _Run:
    """Fits configurations to a DataModule, or reads them where they were kept."""

    def __init__(self, dm: Any, options: dict[str, Any], trainer: dict[str, Any]) -> None:
        self.dm, self.options = dm, options
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        self.trainer = {"accelerator": "cpu", "enable_model_summary": False, **quiet, **trainer}

    def __call__(self, name: str, make: Callable[[], SVIModule], place: Path | None) -> Fit:
        pl.seed_everything(self.options["seed"], verbose=False)
        svi = make()
        if not isinstance(svi, SVIModule):
            raise TypeError(
                f"the configuration {name!r} must make an SVIModule, as in {{{name!r}: lambda: po.SVIModule(model)}}, "
                f"and made a {type(svi).__name__}"
            )
        described = self._description(svi)
        if place is not None and is_kept(place / name, _metrics(place / name).get("description"), described):
            return read(place / name)
        history, given = History(), copy.deepcopy(self.trainer.get("callbacks") or [])  # they remember the last fit
        callbacks = [history, *(given if isinstance(given, list) else [given])]
        trainer = {**self.trainer, "max_epochs": self.options["max_epochs"], "callbacks": callbacks}
        pl.Trainer(**trainer).fit(svi, self.dm)
        found = scores(Posterior(svi, self.dm), self.options["num_particles"], self.options["seed"])
        fit = Fit(found, history.seconds, sum(p.numel() for p in svi.parameters()))
        if place is not None:
            _keep(place / name, svi, fit, described)
        return fit

    def _description(self, svi: SVIModule) -> dict[str, Any]:
        """What must be the same for a fit not to be repeated."""
        trainer = {name: value for name, value in self.trainer.items() if name != "callbacks"}
        described = {
            **described_pair(svi),
            "data": described_data(self.dm),
            "trainer": {**told(self.trainer), "options": encode(trainer)},
            **self.options,
        }
        return json.loads(json.dumps(described))


def _metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / METRICS).read_text()) if (folder / METRICS).is_file() else {}


def _keep(folder: Path, svi: SVIModule, fit: Fit, described: dict[str, Any]) -> None:
    """Write a fit beside its place, then rename."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        fresh = Path(beside) / folder.name
        svi.save(fresh / MODEL)
        fit.scores.to_csv(fresh / SCORES)
        metrics = {"seconds": fit.seconds, "parameters": fit.parameters, "description": described}
        atomic_write(fresh / METRICS, lambda path: path.write_text(json.dumps(metrics, indent=1)))
        if folder.exists():
            folder.rename(Path(beside) / "old")
        fresh.rename(folder)
