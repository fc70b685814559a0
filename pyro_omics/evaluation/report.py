"""Report of a fit: files with its model, latent, tables, metrics and figures."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from pyro_omics import plots
from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.lightning import pl
from pyro_omics.posterior import Posterior
from pyro_omics.schema import RowData
from pyro_omics.serialization.atomic_write import atomic_write, write_together
from pyro_omics.version import __version__

UNIT = "nats per observation"
SCORES = "validation_scores.csv"
METRICS = "metrics.json"


class History(pl.Callback):
    """Callback that records the ELBOs of each epoch, and the duration of the training."""

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {"train_elbo": [], "val_elbo": []}
        self.started = time.monotonic()
        self._before = 0.0  # seconds of training before the fit was resumed

    @property
    def curves(self) -> dict[str, list[float]]:
        """The logged values: name -> value after each epoch."""
        return {name: values for name, values in self.history.items() if values}

    @property
    def seconds(self) -> float:
        """Seconds of training, without those between a fit and its resumption."""
        return round(self._before + time.monotonic() - self.started, 2)

    def state_dict(self) -> dict[str, Any]:
        """The history, for a checkpoint."""
        return {"history": {name: list(values) for name, values in self.history.items()}, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the history of a checkpoint."""
        self.history, self._before = dict(state_dict["history"]), state_dict["seconds"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record the epoch's values."""
        for name, values in self.history.items():
            if name in trainer.callback_metrics:
                values.append(float(trainer.callback_metrics[name]))


class Report(History):
    """Callback that records a training and writes its results to a folder.

    Parameters
    ----------
    color
        column of obs that colours the UMAP; None for one colour.
    umap
        whether to draw a UMAP of a latent of two dimensions or more.
    num_particles
        number of importance samples of the held-out rows' log-likelihood; 0 leaves it out.
    """

    def __init__(self, color: str | None = None, umap: bool = True, num_particles: int = 25) -> None:
        super().__init__()
        self.color, self.umap, self.num_particles = color, umap, num_particles

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raise a ValueError, before the training, if the column ``color`` does not exist."""
        obs = getattr(getattr(getattr(trainer, "datamodule", None), "adata", None), "obs", None)
        if self.color is not None and obs is not None and self.color not in obs:
            raise ValueError(
                f"report.color must be one of the columns of adata.obs, {list(obs.columns)}; got {self.color!r}"
            )

    def write(self, svi: SVIModule, dm: RowData, trainer: pl.Trainer, folder: Path) -> list[Path]:
        """Write the saved model, an .h5ad with the latent, the model's tables, metrics and figures.

        A model without local sites has no latent and no UMAP; a latent of one dimension has no UMAP.

        Parameters
        ----------
        svi
            the trained `SVIModule`.
        dm
            the DataModule that it was trained on.
        trainer
            the Trainer that trained it.
        folder
            folder of the results; made where it does not exist.

        Returns
        -------
        The paths of the files.
        """
        seconds = self.seconds
        folder.mkdir(parents=True, exist_ok=True)
        posterior = Posterior(svi, dm)
        adata = dm.adata.copy()
        figures = {"training_curve.png": plots.training_curve(self.curves)}
        if svi.model.local_sites:
            posterior.annotate(adata)
            basis = svi.model.latent_key
            if self.umap and adata.obsm[basis].shape[1] > 1:
                figures["umap.png"] = plots.umap(adata, basis, self.color)
        tables = {f"{name}.csv": getattr(posterior, name)() for name in svi.model.tables}
        found = None
        if self.num_particles and len(dm.rows("validation")):
            found = tables[SCORES] = scores(posterior, self.num_particles)
        metrics = self._metrics(posterior, trainer, seconds, found)

        def write(fresh: Path) -> None:
            svi.save(fresh / "model")
            adata.write_h5ad(fresh / "adata.h5ad")
            for name, table in tables.items():
                table.to_csv(fresh / name)
            draw(figures, fresh)
            write_metrics(fresh, metrics)

        return write_together(folder, write, old_results(folder))

    def _metrics(
        self, posterior: Posterior, trainer: pl.Trainer, seconds: float, found: pd.DataFrame | None
    ) -> dict[str, Any]:
        dm = posterior.dm
        metrics: dict[str, Any] = {name: values[-1] for name, values in self.curves.items()}
        held_out = len(dm.rows("validation"))
        if found is not None:
            metrics["val_log_likelihood"] = float(found["log_likelihood"].mean())
            metrics["num_particles"] = self.num_particles
        sizes = dm.sizes.description()
        return {
            **metrics,
            "unit": UNIT,
            "n_validation": held_out,
            **{name: size for name, size in sizes.items() if name.startswith("n_") and size},
            "epochs": trainer.current_epoch,
            "seconds": seconds,
            "parameters": sum(p.numel() for p in posterior.svi.parameters()),
            "model": type(posterior.model).__name__,
            "pyro_omics": __version__,
        }


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Write metrics.json, with the names of the files and folders beside it, which `old_results` reads."""
    names = sorted([*(path.name for path in folder.iterdir()), METRICS])
    (folder / METRICS).write_text(json.dumps({**metrics, "files": names}, indent=1))


def old_results(folder: Path) -> set[str]:
    """Names of the files and folders that an earlier run of this package wrote to a folder."""
    try:
        files = json.loads((folder / METRICS).read_text())["files"]
    except (OSError, ValueError, KeyError, TypeError):  # no results, or those of an earlier version
        return set()
    return {name for name in files if isinstance(name, str)} if isinstance(files, list) else set()


def scores(posterior: Posterior, num_particles: int, seed: int = 0) -> pd.DataFrame:
    """ELBO and importance-weighted log-likelihood of each held-out row, in nats, (n, 2).

    Parameters
    ----------
    posterior
        posterior of a fit with held-out rows.
    num_particles
        number of importance samples of the log-likelihood.
    seed
        seed of the draws.
    """
    elbo = posterior.elbo("validation", num_samples=5, seed=seed)
    likelihood = posterior.log_likelihood("validation", num_particles=num_particles, seed=seed)
    return pd.concat([elbo, likelihood], axis=1)


def draw(figures: Mapping[str, Figure], folder: Path) -> list[Path]:
    """Write figures, file name -> figure, to a folder, and return their paths."""
    return [atomic_write(folder / name, partial(figure.savefig, dpi=150)) for name, figure in figures.items()]
