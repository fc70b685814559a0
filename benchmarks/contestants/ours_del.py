"""pyro_omics' DELCount on compounds with fingerprints: python ours_del.py FILE.h5ad [options]."""

import argparse
import contextlib
import logging

from gate import Finished, Gate, lightning_gate

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--batch", type=int, default=1024)
options = parser.parse_args()

import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402

import pyro_omics as po  # noqa: E402

logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
torch.set_num_threads(options.threads)
pl.seed_everything(0, verbose=False)
dm = po.DELDataModule(options.data, feature_key="fingerprint", batch_size=options.batch)
svi = po.SVIModule(po.DELCount.from_data(dm))
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
    trainer.fit(svi, dm)
