"""What a finished fit leaves in its folder: model, latent, metrics and pictures."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from pyro_omics import plots
from pyro_omics.posterior import Posterior
from pyro_omics.svi import SVIModule
from pyro_omics.version import __version__


class Report(pl.Callback):
    """Follows a training, and writes what came of it.

    Parameters
    ----------
    color
        column of obs that the UMAP is coloured by; None for one colour.
    umap
        whether to draw a UMAP of the latent.
    num_particles
        of the importance-weighted log-likelihood of the held-out cells; 0 leaves it out.
    """

    def __init__(self, color: str | None = None, umap: bool = True, num_particles: int = 25) -> None:
        self.color, self.umap, self.num_particles = color, umap, num_particles
        self.history: dict[str, list[float]] = {"train_elbo": [], "val_elbo": []}
        self.started = time.monotonic()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse a column that does not exist, before the training and not after."""
        obs = getattr(getattr(getattr(trainer, "datamodule", None), "adata", None), "obs", None)
        if self.color is not None and obs is not None and self.color not in obs:
            raise ValueError(f"report.color={self.color!r} is not a column of adata.obs: there are {list(obs.columns)}")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.started = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the epoch's figures."""
        for name, values in self.history.items():
            if name in trainer.callback_metrics:
                values.append(float(trainer.callback_metrics[name]))

    def write(self, svi: SVIModule, dm: Any, trainer: pl.Trainer, folder: Path) -> list[Path]:
        """Write the saved model, an .h5ad with the latent, metrics and pictures; returns their paths."""
        seconds = time.monotonic() - self.started
        folder.mkdir(parents=True, exist_ok=True)
        posterior = Posterior(svi, dm)
        adata = dm.adata.copy()
        posterior.annotate(adata)
        basis = svi.model.latent_key
        metrics = json.dumps(self._metrics(posterior, trainer, seconds), indent=1)
        figures = {"training_curve.png": plots.training_curve({k: v for k, v in self.history.items() if v})}
        if self.umap:
            figures["umap.png"] = plots.umap(adata, basis, self.color)
        paths = [svi.save(folder / "model")]
        paths.append(in_place(folder / "adata.h5ad", adata.write_h5ad))
        for name, figure in figures.items():
            paths.append(in_place(folder / name, lambda path, figure=figure: figure.savefig(path, dpi=150)))
        paths.append(in_place(folder / "metrics.json", lambda path: path.write_text(metrics)))
        return paths

    def _metrics(self, posterior: Posterior, trainer: pl.Trainer, seconds: float) -> dict[str, Any]:
        dm = posterior.dm
        metrics: dict[str, Any] = {name: values[-1] for name, values in self.history.items() if values}
        held_out = len(dm.rows("validation"))
        if self.num_particles and held_out:
            likelihood = posterior.log_likelihood("validation", num_particles=self.num_particles)
            metrics["val_log_likelihood"] = float(likelihood.mean())
            metrics["num_particles"] = self.num_particles
        return {
            **metrics,
            "unit": "nats per cell",
            "n_obs": dm.n_obs,
            "n_validation": held_out,
            "n_genes": dm.n_genes,
            "epochs": trainer.current_epoch,
            "seconds": round(seconds, 2),
            "model": type(posterior.model).__name__,
            "pyro_omics": __version__,
        }


def in_place(path: Path, write: Any) -> Path:
    """Write beside, then rename: what was there stays whole until the new file is."""
    fresh = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        write(fresh)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    return path
