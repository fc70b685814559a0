"""Fits that two processes share, as a program: ``python ddp_fits.py FOLDER`` starts the second process itself.

`test_devices.py` runs it, and the same fits in one process. What a fit ends as is written for each process."""

import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pyro.infer.autoguide import AutoLaplaceApproximation

import pyro_omics as po

FITS = ("SCVI", "TotalVI", "Laplace")
GLOBAL_BATCH, EPOCHS = 64, 3
IGNORED = [(r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)]


def cells():
    """699 cells of the bundled PBMC set, of which 69 are held out, with proteins made of the RNA: 630 to train on."""
    adata = po.datasets.pbmc68k()[:699].copy()
    rng = np.random.default_rng(0)
    seen = np.asarray(adata.X[:, :5].todense() if hasattr(adata.X, "todense") else adata.X[:, :5])
    adata.obsm["protein_counts"] = rng.poisson(3 + 20 * (seen > 0)).astype(np.float32)
    adata.obs["donor"] = np.where(np.arange(699) % 3, "a", "b")
    return adata


def module(dm, laplace):
    """The data's totalVI where there are proteins, which has a global latent, or scVI."""
    torch.manual_seed(0)
    guide = partial(po.guides.Amortized, rest=AutoLaplaceApproximation) if laplace else None
    model = po.TotalVI if dm.sizes.n_proteins else po.SCVI
    options = {"n_latent": 4, "n_hidden": 16, "norm": po.layers.LayerNorm, "dropout": 0.0}
    return po.SVIModule(model.from_data(dm, **options), guide, kl_warmup_epochs=2, noise_seed=5)


def fit(name, processes):
    """One fit: its parameters, its logged numbers, and the training rows that this process saw in each epoch."""
    proteins = {} if name == "SCVI" else {"protein_obsm_key": "protein_counts", "batch_key": "donor"}
    held_out = np.arange(0, 690, 10)
    dm = po.CellDataModule(cells(), batch_size=GLOBAL_BATCH // processes, validation_indices=held_out, **proteins)
    svi, seen = module(dm, name == "Laplace"), Rows()
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        callbacks=[seen],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    # Processes that were seeded apart, as a user's may be.
    torch.manual_seed(trainer.global_rank)
    trainer.fit(svi, dm)
    predicted = torch.cat([batch["row"] for batch in trainer.predict(svi, dm)])
    return {
        "weights": {key: value.clone() for key, value in svi.state_dict().items()},
        "logged": {key: float(value) for key, value in seen.logged.items()},
        "rows": seen.rows,
        "held_out": seen.held_out,
        "predicted": predicted,
    }


class Rows(pl.Callback):
    """Which rows the steps of a process are made of."""

    def __init__(self):
        self.rows, self.held_out, self.logged = [], [], {}

    def on_train_epoch_start(self, trainer, svi):
        self.rows.append([])

    def on_train_batch_end(self, trainer, svi, outputs, batch, batch_idx):
        self.rows[-1].append(batch.row)

    def on_validation_batch_end(self, trainer, svi, outputs, batch, batch_idx):
        if not trainer.sanity_checking and trainer.current_epoch == EPOCHS - 1:
            self.held_out.append(batch.row)

    def on_train_end(self, trainer, svi):
        self.logged = dict(trainer.callback_metrics)


def main(folder):
    warnings.simplefilter("error")
    for message, category in IGNORED:
        warnings.filterwarnings("ignore", message, category)
    torch.set_num_threads(1)
    for name in FITS:
        found = fit(name, processes=2)
        torch.save(found, Path(folder) / f"{name}-{torch.distributed.get_rank()}.pt")


if __name__ == "__main__":
    main(sys.argv[1])
