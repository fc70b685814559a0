"""cellarium-ml's scVI, in an environment that has it: python cellarium_ml.py FILE.h5ad [options].

The network of the others: one hidden layer of 128, 10 latents, batch 128, scvi-tools' Adam. What differs: counts are
negative binomial, for a zero-inflated one is not implemented there, which spares it the second output layer."""

import argparse
import contextlib

from gate import Finished, Gate, lightning_gate

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("--threads", type=int, default=2)
options = parser.parse_args()

import anndata  # noqa: E402
import lightning.pytorch as pl  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from cellarium.ml import CellariumAnnDataDataModule, CellariumModule  # noqa: E402
from cellarium.ml.models import SingleCellVariationalInference  # noqa: E402
from cellarium.ml.transforms import Densify  # noqa: E402
from cellarium.ml.utilities.data import AnnDataField, to_torch_sparse_csr  # noqa: E402

torch.set_num_threads(options.threads)
pl.seed_everything(0, verbose=False)
adata = anndata.read_h5ad(options.data)
adata = adata[~adata.obs["held_out"].to_numpy()].copy()
adata.X = adata.X.tocsr().astype(np.float32)
adata.obs["batch"] = np.zeros(adata.n_obs, np.int64)
keys = {
    "x_ng": AnnDataField(attr="X", convert_fn=to_torch_sparse_csr),
    "var_names_g": AnnDataField(attr="var_names"),
    "batch_index_n": AnnDataField(attr="obs", key="batch"),
}
dm = CellariumAnnDataDataModule(adata, batch_keys=keys, batch_size=128, shuffle=True, train_size=1.0)


def network():
    """One hidden layer of 128, and a linear one to what is asked for; the model fills in the rest."""
    hidden = {"class_path": "torch.nn.Linear", "init_args": {"out_features": 128}}
    return {"hidden_layers": [hidden], "final_layer": {"class_path": "torch.nn.Linear", "init_args": {}}}


model = SingleCellVariationalInference(
    var_names_g=adata.var_names.to_numpy(),
    encoder=network(),
    decoder={**network(), "final_additive_bias": False},
    n_batch=1,
    kl_warmup_epochs=10,
)
module = CellariumModule(
    transforms=[Densify()], model=model, optim_fn=torch.optim.Adam, optim_kwargs={"lr": 1e-3, "eps": 0.01}
)
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
    trainer.fit(module, dm)
