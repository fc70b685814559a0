"""UNCDEL003 (53BP1, three replicates, no control arm): the C synthons, a held-out replicate, time and memory.

python benchmarks/del_uncdel003.py [--epochs 30]

The held-out replicate's counts are predicted from the two others: by draws of the model's means, whose level is the
held-out selection's own total, and by a Poisson whose means are products of the synthons' frequencies.
"""

import argparse
import logging
import resource
import time

import numpy as np
import pytorch_lightning as pl
import torch
from scipy import stats

import pyro_omics as po


def fit(adata, epochs, **options):
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    pl.seed_everything(0, verbose=False)
    dm = po.DELDataModule(adata, batch_size=4096)
    svi = po.SVIModule(po.HierarchicalDEL.from_data(dm, **options))
    pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(svi, dm)  # fmt: skip
    return po.Posterior(svi, dm, batch_size=4096)


def held_out(adata, name, epochs, num_samples=50):
    """Log-likelihood of the held-out replicate per compound, by the model and by a Poisson of synthon means."""
    kept = [other for other in adata.var_names if other != name]
    x = adata[:, name].X.toarray().ravel()
    posterior = fit(adata[:, kept].copy(), epochs)
    theta = posterior.model.target.likelihood.dispersion.log_theta.exp().mean().item()
    means = rates(posterior, num_samples)
    scaled = means * x.sum() / means.mean(0).sum()
    weights = [stats.nbinom.logpmf(x, theta, theta / (theta + mean)) for mean in scaled]
    ours = np.logaddexp.reduce(weights, 0) - np.log(num_samples)
    training = np.asarray(adata[:, kept].X.sum(1)).ravel()
    mean = np.full(adata.n_obs, x.sum(), float)
    for cycle in "ABC":
        share = adata.obs.assign(counts=training + 1e-3).groupby(cycle, observed=True)["counts"].sum()
        mean *= (share / share.sum()).loc[adata.obs[cycle]].to_numpy()
    return ours.mean(), stats.poisson.logpmf(x, mean).mean()


def rates(posterior, num_samples):
    """Draws of each compound's expected counts (num_samples, n), summed over the replicates fitted."""
    from pyro_omics.inference.draws import drawing
    from pyro_omics.sites import latent_values

    parts = []
    with drawing(posterior.svi, 0) as draws:
        for batch in posterior._batches("all", num_samples, "rates"):
            each = [
                posterior.model.target_mean(batch, latent_values(draws.guide(batch, s))) for s in range(num_samples)
            ]
            parts.append(torch.stack(each).sum(-1))
    return torch.cat(parts, 1).double().numpy()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    args = parser.parse_args()
    adata = po.datasets.uncdel003()
    started = time.perf_counter()
    posterior = fit(adata, args.epochs)
    print(f"fit of {adata.n_obs} compounds: {time.perf_counter() - started:.1f} s")
    print(posterior.synthons(["C"]).head(5).round(2).to_string())
    for name in adata.var_names:
        ours, poisson = held_out(adata, name, args.epochs)
        print(f"RESULT held out {name}: model={ours:.4f} poisson_synthon_means={poisson:.4f} nats per compound")
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
