"""Fit several configurations on one split, and compare them in one table."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from pyro_omics.evaluation.fingerprint import fingerprint, same_fit
from pyro_omics.evaluation.report import SCORES, History, scores
from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.lightning import pl
from pyro_omics.posterior import Posterior
from pyro_omics.schema import RowData
from pyro_omics.serialization.atomic_write import atomic_write

METRICS, MODEL = "metrics.json", "model"


@dataclass
class Fit:
    """One fit in a comparison.

    Attributes
    ----------
    scores
        ``elbo`` and ``log_likelihood`` of each held-out row, in nats, (n, 2).
    seconds
        duration of the training.
    parameters
        number of parameters.
    """

    scores: pd.DataFrame
    seconds: float
    parameters: int


def compare(
    configurations: Mapping[str, Callable[[], SVIModule]],
    dm: RowData | None = None,
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
        name -> callable that makes an `SVIModule`, such as ``lambda: po.SVIModule(po.SCVI.from_data(dm, prior=...))``.
    dm
        a DataModule with held-out rows (``validation_size``).
    max_epochs
        number of epochs of each training.
    folder
        folder in which each fit is saved under its name, so that an interrupted comparison can be resumed. A saved fit
        is read instead of repeated if its fingerprint (`evaluation.fingerprint`) is the same: settings, starting values
        and code of your own classes, data, epochs and seed. Otherwise it is fitted again, and the log says what
        differs. A configuration with a part that cannot be compared, such as a lambda, is always fitted again. None
        saves nothing.
    num_particles
        number of importance samples of the log-likelihood.
    seed
        seed of each training, and of the draws.
    reference
        name of the configuration that differences are taken to; None takes the best.
    trainer
        other arguments of Lightning's Trainer; by default on the CPU, without a logger, checkpoints or a progress bar.

    Returns
    -------
    DataFrame, one row for each configuration, in their order; see `table`.

    Raises
    ------
    ValueError
        Where no rows are held out, for a name that cannot name a folder, and for an unknown ``reference``.
    FileExistsError
        Where the folder of a configuration exists and is not a fit of a comparison.
    TypeError
        For a configuration that does not make an `SVIModule`, and for a ``dm`` that is no DataModule.
    """
    _check_configurations(configurations)
    if dm is None or not hasattr(dm, "schema"):
        raise TypeError(f"dm must be a DataModule with held-out rows; got {dm!r:.80}: compare(configurations, dm)")
    if not len(dm.rows("validation")):
        raise ValueError("no rows are held out to compare on: make the DataModule with validation_size=0.1")
    names = list(configurations)
    if wrong := [name for name in names if not name or name != Path(name).name]:
        raise ValueError(f"names of configurations must be names of folders; got {wrong[0]!r}: leave out '/'")
    check_reference(reference, names)
    root = None if folder is None else Path(folder).expanduser()
    for existing in [] if root is None else [root / name for name in names if (root / name).exists()]:
        if "fingerprint" not in _metrics(existing):  # a fit of `pyro-omics fit`, or other files, would be lost
            raise FileExistsError(f"{existing} exists and is not a fit of a comparison: choose another folder")
    run = _Run(dm, {"max_epochs": max_epochs, "num_particles": num_particles, "seed": seed}, trainer)
    return table({name: run(name, make, root) for name, make in configurations.items()}, reference)


def _check_configurations(configurations: Any) -> None:
    if not isinstance(configurations, Mapping):
        raise TypeError(
            f"configurations must be a mapping of names to callables; got a {type(configurations).__name__}: pass "
            '{"scvi": lambda: po.SVIModule(model)}'
        )
    for name, make in configurations.items():
        if isinstance(make, nn.Module) or not callable(make):
            raise TypeError(
                f"the configuration {name!r} must be a callable that makes an SVIModule, so that each fit starts "
                f"afresh; got a {type(make).__name__}: pass {{{name!r}: lambda: po.SVIModule(po.SCVI.from_data(dm))}}"
            )


def check_reference(reference: str | None, names: Iterable[str]) -> None:
    """Raise a ValueError unless the reference is None or one of the names."""
    if reference is not None and reference not in (names := list(names)):
        raise ValueError(f"reference must be one of the configurations {names}; got {reference!r}")


def table(fits: Mapping[str, Fit], reference: str | None = None) -> pd.DataFrame:
    """Compare fits on their held-out rows.

    Parameters
    ----------
    fits
        name -> `Fit`, all with the same held-out rows.
    reference
        name of the fit that differences are taken to; None takes the best.

    Returns
    -------
    DataFrame with one row per fit:

    - ``val_elbo`` and ``log_likelihood`` (importance-weighted): means over the held-out rows, in nats;
    - ``se``: standard error of ``log_likelihood``;
    - ``difference``: mean difference in log-likelihood to the reference, in nats, and ``difference_se``, its standard
      error, from the differences of each row, in which variation between rows cancels;
    - ``seconds`` of training, and number of ``parameters``.

    Raises
    ------
    ValueError
        Where the held-out rows differ, and for an unknown ``reference``.
    """
    check_reference(reference, fits)
    rows = [fit.scores.index for fit in fits.values()]
    if differ := [name for name, index in zip(fits, rows, strict=True) if not index.equals(rows[0])]:
        raise ValueError(
            f"{differ[0]!r} was scored on other held-out rows than {next(iter(fits))!r}: compare on one split, with "
            "the same data, validation_size and seed"
        )
    likelihood = pd.DataFrame({name: fit.scores["log_likelihood"] for name, fit in fits.items()}).astype(float)
    mean = likelihood.mean()
    difference = likelihood.sub(likelihood[mean.idxmax() if reference is None else reference], axis=0)
    error = len(likelihood) ** -0.5
    return pd.DataFrame(
        {
            "val_elbo": {name: float(fit.scores["elbo"].mean()) for name, fit in fits.items()},
            "log_likelihood": mean,
            "se": likelihood.std() * error,
            "difference": difference.mean(),
            "difference_se": difference.std() * error,
            "seconds": {name: fit.seconds for name, fit in fits.items()},
            "parameters": {name: fit.parameters for name, fit in fits.items()},
        }
    ).loc[list(fits)]


def read(folder: Path) -> Fit:
    """Read a fit from the folder that a comparison or ``pyro-omics fit`` wrote.

    Raises
    ------
    ValueError
        Where it has no scores of held-out rows.
    """
    if not (folder / SCORES).is_file():
        raise ValueError(f"{folder} has no {SCORES}: no rows were held out, or it is not the folder of a fit")
    metrics = json.loads((folder / METRICS).read_text())
    found = pd.read_csv(folder / SCORES, index_col=0, dtype={0: str})
    return Fit(found, metrics["seconds"], metrics["parameters"])


class _Run:
    """Fit configurations to a DataModule, or read saved fits."""

    def __init__(self, dm: RowData, options: dict[str, Any], trainer: dict[str, Any]) -> None:
        self.dm, self.options = dm, options
        silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        self.trainer = {"accelerator": "cpu", "enable_model_summary": False, **silent, **trainer}

    def __call__(self, name: str, make: Callable[[], SVIModule], root: Path | None) -> Fit:
        pl.seed_everything(self.options["seed"], verbose=False)
        svi = make()
        if not isinstance(svi, SVIModule):
            raise TypeError(
                f"the configuration {name!r} must make an SVIModule; it made a {type(svi).__name__}: pass "
                f"{{{name!r}: lambda: po.SVIModule(model)}}"
            )
        if root is not None:
            current = fingerprint(svi, self.dm, {**self.trainer, **self.options})  # of the starting values
            if same_fit(root / name, _metrics(root / name).get("fingerprint"), current):
                return read(root / name)
        # Copies of the callbacks for each fit, since they keep the state of the last one.
        history, given = History(), copy.deepcopy(self.trainer.get("callbacks") or [])
        callbacks = [history, *(given if isinstance(given, list) else [given])]
        trainer = {**self.trainer, "max_epochs": self.options["max_epochs"], "callbacks": callbacks}
        pl.Trainer(**trainer).fit(svi, self.dm)
        found = scores(Posterior(svi, self.dm), self.options["num_particles"], self.options["seed"])
        fit = Fit(found, history.seconds, sum(p.numel() for p in svi.parameters()))
        if root is not None:
            _save(root / name, svi, fit, current)
        return fit


def _metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / METRICS).read_text()) if (folder / METRICS).is_file() else {}


def _save(folder: Path, svi: SVIModule, fit: Fit, current: dict[str, Any]) -> None:
    """Write a fit to the folder that `read` reads, completely or not at all."""
    metrics = {"seconds": fit.seconds, "parameters": fit.parameters, "fingerprint": current}

    def write(fresh: Path) -> None:
        svi.save(fresh / MODEL)
        fit.scores.to_csv(fresh / SCORES)
        (fresh / METRICS).write_text(json.dumps(metrics, indent=1))

    folder.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(folder, write)
