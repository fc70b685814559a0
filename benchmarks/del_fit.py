"""What the DEL benchmarks share: a fit of HierarchicalDEL, and scores of its answers against the truth."""

import logging
import time
import warnings

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from sklearn.metrics import average_precision_score

import pyro_omics as po

RATES = (0.05, 0.1, 0.2)


def fit(adata, epochs, seed=0, num_samples=100, **options):
    """The table of enrichment of a library, and the seconds that its fit and its queries took."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="The 'train_dataloader' does not have many workers")
    warnings.filterwarnings("ignore", message="there is one target selection")
    pl.seed_everything(seed, verbose=False)
    dm = po.DELDataModule(adata)
    started = time.perf_counter()
    svi = po.SVIModule(po.HierarchicalDEL.from_data(dm, **options))
    pl.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(svi, dm)  # fmt: skip
    fitted = time.perf_counter()
    posterior = po.Posterior(svi, dm)
    table = posterior.enrichment(num_samples=num_samples, seed=seed)
    return posterior, table, {"fit": fitted - started, "query": time.perf_counter() - fitted}


def discoveries(table, binder, fdr):
    """Number of hits at a Bayesian false discovery rate, and how many of them are false."""
    p = table["p_enriched"].sort_values(ascending=False)
    rate = (1 - p).cumsum() / np.arange(1, len(p) + 1)
    chosen = p.index[rate <= fdr]
    return len(chosen), int((~binder.loc[chosen]).sum())


def covered(table, truth):
    """Which compounds' 90% intervals contain their true log enrichment."""
    value = truth["log_enrichment"]
    return (value >= table["lower"]) & (value <= table["upper"])


def average_precisions(table, adata, binder):
    """Average precision of the model and of every classical score."""
    scores = {
        "model": table["log_enrichment"],
        "counts": pd.Series(np.asarray(adata[:, adata.var["condition"] == "target"].X.sum(1)).ravel(), adata.obs_names),
        "z": table["z_score"],
        "poly_o": table["poly_o"],
    }
    if "ratio_lower" in table:
        scores["ratio"] = table["ratio"].fillna(0).clip(upper=1e9)
        scores["ratio_lower"] = table["ratio_lower"]
    return {name: average_precision_score(binder, score.loc[binder.index]) for name, score in scores.items()}
