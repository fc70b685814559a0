"""scvi-tools' SCVI or TOTALVI, in an environment that has it: python scvi_tools.py FILE.h5ad scvi|totalvi [options]."""

import argparse
import contextlib
from pathlib import Path

from gate import Finished, Gate, lightning_budgets, lightning_gate, lightning_steps

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("model", choices=["scvi", "totalvi"])
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--warm-up", type=int, help="epochs of KL warm-up; theirs, 400, where not given")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, help="a turn is so many steps, and not an epoch")
parser.add_argument("--budgets", type=float, nargs="+", help="a turn is up to each of so many seconds of training")
parser.add_argument("--latents", type=Path, help="folder that the latents of all cells are written to at each budget")
options = parser.parse_args()

import anndata  # noqa: E402
import numpy as np  # noqa: E402
import scvi  # noqa: E402
import torch  # noqa: E402
from lightning.pytorch.callbacks import Callback  # noqa: E402

torch.set_num_threads(options.threads)
scvi.settings.seed = options.seed
adata = anndata.read_h5ad(options.data)
held_out = np.flatnonzero(adata.obs["held_out"].to_numpy())
split = [np.setdiff1d(np.arange(adata.n_obs), held_out), held_out]
if options.model == "scvi":
    scvi.model.SCVI.setup_anndata(adata)
    model, batch = scvi.model.SCVI(adata), 128
    more = {"datasplitter_kwargs": {"external_indexing": split}}
else:
    scvi.model.TOTALVI.setup_anndata(adata, protein_expression_obsm_key="protein_counts")
    model, batch = scvi.model.TOTALVI(adata), 256
    more = {"external_indexing": split, "reduce_lr_on_plateau": False}
if options.warm_up:
    more["plan_kwargs"] = {"n_epochs_kl_warmup": options.warm_up}


def score(budget):
    """ELBO of the held-out cells, nats a cell, the mean of 20 draws, and where the latents are."""
    path = options.latents / f"theirs_{options.seed}_{budget:g}.npy"
    model.module.eval()  # get_elbo leaves dropout and batch norm as they are in training
    model.is_trained = True  # asked of before the latent is given
    elbo = np.mean([float(model.get_elbo(indices=held_out)) for _ in range(20)])
    np.save(path, model.get_latent_representation())
    model.module.train()
    return {"elbo": float(elbo), "latent": str(path)}


held = lightning_gate(Callback, Gate())
if options.steps:
    held = lightning_steps(Callback, Gate(), options.steps)
elif options.budgets:
    held = lightning_budgets(Callback, Gate(), options.budgets, score)
with contextlib.suppress(Finished):
    model.train(
        max_epochs=10_000,
        accelerator="cpu",
        batch_size=batch,
        early_stopping=False,
        enable_progress_bar=False,
        check_val_every_n_epoch=10_000,
        **more,
        callbacks=[held],
    )
