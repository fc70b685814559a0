"""pyro_omics' SCVI or TotalVI: python ours.py FILE.h5ad scvi|totalvi [options]."""

import argparse
import contextlib
import logging

from gate import Finished, Gate, lightning_gate

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("model", choices=["scvi", "totalvi"])
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--plain", action="store_true", help="the plain form of the likelihoods")
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
held_out = np.flatnonzero(adata.obs["held_out"].to_numpy())
totalvi = options.model == "totalvi"
dm = po.CellDataModule(
    adata,
    validation_indices=held_out,
    batch_size=256 if totalvi else 128,
    protein_obsm_key="protein_counts" if totalvi else None,
)
svi = po.SVIModule((po.TotalVI if totalvi else po.SCVI).from_data(dm))
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
plain = contextlib.nullcontext()
if options.plain:
    from pyro_omics import kernels

    plain = kernels.plain()
with plain, contextlib.suppress(Finished):
    trainer.fit(svi, dm)
