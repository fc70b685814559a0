"""pyro_omics' SCVI or TotalVI: python ours.py FILE.h5ad scvi|totalvi [options]."""

import argparse
import contextlib
import logging
from pathlib import Path

from gate import Finished, Gate, lightning_budgets, lightning_gate, lightning_steps

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("model", choices=["scvi", "totalvi"])
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--precision", default="32-true", help="of the Trainer")
parser.add_argument("--plain", action="store_true", help="the plain form of the likelihoods")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, help="a turn is so many steps, and not an epoch")
parser.add_argument("--budgets", type=float, nargs="+", help="a turn is up to each of so many seconds of training")
parser.add_argument("--latents", type=Path, help="folder that the latents of all cells are written to at each budget")
options = parser.parse_args()

import anndata  # noqa: E402
import numpy as np  # noqa: E402
import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402

import pyro_omics as po  # noqa: E402

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
torch.set_num_threads(options.threads)
pl.seed_everything(options.seed, verbose=False)
adata = anndata.read_h5ad(options.data)
held_out = np.flatnonzero(adata.obs["held_out"].to_numpy())
totalvi = options.model == "totalvi"
dm = po.CellDataModule(
    adata,
    validation_indices=held_out,
    batch_size=256 if totalvi else 128,
    protein_obsm_key="protein_counts" if totalvi else None,
    seed=options.seed,
)
svi = po.SVIModule((po.TotalVI if totalvi else po.SCVI).from_data(dm))


def score(budget):
    """ELBO of the held-out cells, nats a cell, and where the latents are."""
    posterior, path = po.Posterior(svi, dm), options.latents / f"ours_{options.seed}_{budget:g}.npy"
    np.save(path, posterior.latent())
    return {"elbo": float(posterior.elbo("validation", num_samples=100).mean()), "latent": str(path)}


held = lightning_gate(pl.Callback, Gate())
if options.steps:
    held = lightning_steps(pl.Callback, Gate(), options.steps)
elif options.budgets:
    held = lightning_budgets(pl.Callback, Gate(), options.budgets, score)
trainer = pl.Trainer(
    max_epochs=10_000,
    accelerator="cpu",
    precision=options.precision,
    logger=False,
    enable_checkpointing=False,
    enable_model_summary=False,
    enable_progress_bar=False,
    limit_val_batches=0,
    callbacks=[held],
)
plain = contextlib.nullcontext()
if options.plain:
    from pyro_omics import kernels

    plain = kernels.reference()
with plain, contextlib.suppress(Finished):
    trainer.fit(svi, dm)
