"""`compare`: several configurations, fitted on one split, in one table."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl

from pyro_omics.evaluation.fingerprint import fingerprint, same_fit
from pyro_omics.evaluation.report import SCORES, History, scores
from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.posterior import Posterior
from pyro_omics.schema import RowData
from pyro_omics.serialization.atomic_write import atomic_write

METRICS, MODEL = "metrics.json", "model"


@dataclass
class Fit:
    """One fit in a comparison: scores of the held-out rows, and what it cost."""

    scores: pd.DataFrame
    seconds: float
    parameters: int


def compare(
    configurations: Mapping[str, Callable[[], SVIModule]],
    dm: RowData,
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
        name -> a callable that makes the pair, such as ``lambda: po.SVIModule(po.SCVI.from_data(dm, prior=...))``.
    dm
        a DataModule with held-out rows (``validation_size``).
    max_epochs
        of each training.
    folder
        where each fit is saved, under its name. One that is there already is read and not repeated, so that a
        comparison that was cut off goes on, where its `fingerprint.fingerprint` is the same: settings, starting values
        and code of your own classes, data, epochs and seed. Else it is fitted again, as is one with a part that cannot
        be compared, such as a lambda, and a line of the log says what differs. None saves nothing.
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
        if "fingerprint" not in _metrics(taken):  # another's, or one of `pyro-omics fit`, which would be lost
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
    """Read a fit from its folder: one of a comparison, or of ``pyro-omics fit``.

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
    """Fits configurations to a DataModule, or reads fits that were saved."""

    def __init__(self, dm: RowData, options: dict[str, Any], trainer: dict[str, Any]) -> None:
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
        if place is not None:
            current = fingerprint(svi, self.dm, {**self.trainer, **self.options})  # before it is trained
            if same_fit(place / name, _metrics(place / name).get("fingerprint"), current):
                return read(place / name)
        history, given = History(), copy.deepcopy(self.trainer.get("callbacks") or [])  # they remember the last fit
        callbacks = [history, *(given if isinstance(given, list) else [given])]
        trainer = {**self.trainer, "max_epochs": self.options["max_epochs"], "callbacks": callbacks}
        pl.Trainer(**trainer).fit(svi, self.dm)
        found = scores(Posterior(svi, self.dm), self.options["num_particles"], self.options["seed"])
        fit = Fit(found, history.seconds, sum(p.numel() for p in svi.parameters()))
        if place is not None:
            _save(place / name, svi, fit, current)
        return fit


def _metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / METRICS).read_text()) if (folder / METRICS).is_file() else {}


def _save(folder: Path, svi: SVIModule, fit: Fit, current: dict[str, Any]) -> None:
    """Write what `read` reads, whole or not at all."""
    metrics = {"seconds": fit.seconds, "parameters": fit.parameters, "fingerprint": current}

    def write(fresh: Path) -> None:
        svi.save(fresh / MODEL)
        fit.scores.to_csv(fresh / SCORES)
        (fresh / METRICS).write_text(json.dumps(metrics, indent=1))

    folder.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(folder, write)
