"""An epoch of one of this package's models, by public names alone: python epoch.py FILE.h5ad MODEL [--threads N].

It runs with whatever checkout PYTHONPATH names first, see against_commit.py.
"""

import argparse
import contextlib
import logging

from gate import Finished, Gate, lightning_gate

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("model", choices=["scvi", "totalvi", "hierarchical"])
parser.add_argument("--threads", type=int, default=2)
options = parser.parse_args()

import anndata  # noqa: E402
import numpy as np  # noqa: E402
import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402

import pyro_omics as po  # noqa: E402

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
torch.set_num_threads(options.threads)
pl.seed_everything(0, verbose=False)
adata = anndata.read_h5ad(options.data)
if options.model == "hierarchical":
    dm = po.DELDataModule(adata)
    model = po.HierarchicalDEL.from_data(dm)
else:
    proteins = "protein_counts" if options.model == "totalvi" else None
    held_out = np.flatnonzero(adata.obs["held_out"].to_numpy())
    dm = po.CellDataModule(
        adata, validation_indices=held_out, batch_size=256 if proteins else 128, protein_obsm_key=proteins
    )
    model = (po.TotalVI if proteins else po.SCVI).from_data(dm)
trainer = pl.Trainer(
    max_epochs=10_000,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_model_summary=False,
    enable_progress_bar=False,
    limit_val_batches=0,
    callbacks=[lightning_gate(pl.Callback, Gate())],
)
with contextlib.suppress(Finished):
    trainer.fit(po.SVIModule(model), dm)
