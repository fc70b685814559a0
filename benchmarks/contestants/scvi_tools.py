"""scvi-tools' SCVI or TOTALVI, in an environment that has it: python scvi_tools.py FILE.h5ad scvi|totalvi [options]."""

import argparse
import contextlib

from gate import Finished, Gate, lightning_gate

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("model", choices=["scvi", "totalvi"])
parser.add_argument("--threads", type=int, default=2)
options = parser.parse_args()

import anndata  # noqa: E402
import numpy as np  # noqa: E402
import scvi  # noqa: E402
import torch  # noqa: E402
from lightning.pytorch.callbacks import Callback  # noqa: E402

torch.set_num_threads(options.threads)
scvi.settings.seed = 0
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
with contextlib.suppress(Finished):
    model.train(
        max_epochs=10_000,
        accelerator="cpu",
        batch_size=batch,
        early_stopping=False,
        enable_progress_bar=False,
        check_val_every_n_epoch=10_000,
        **more,
        callbacks=[lightning_gate(Callback, Gate())],
    )
