"""Small builders that several test files share."""

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from anndata import AnnData

import pyro_omics as po


def counts(n=60, g=12, seed=0, **obs):
    """Negative-binomial counts (n, g) of three groups of cells that express different genes; ``obs`` are columns."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, n)
    frequency = rng.gamma(0.5, 1.0, (3, g)) + 0.05
    frequency /= frequency.sum(1, keepdims=True)
    mean = rng.lognormal(4.0, 0.3, (n, 1)) * frequency[group]
    x = rng.poisson(rng.gamma(2.0, mean / 2.0)).astype(np.float32)
    columns = pd.DataFrame({"group": group.astype(str), **obs}, index=[f"cell{i}" for i in range(n)])
    return AnnData(x, obs=columns, var=pd.DataFrame(index=[f"gene{i}" for i in range(g)]))


def donors(n, *names):
    """A column of obs: the names in turn."""
    return [names[i % len(names)] for i in range(n)]


PROTEINS = ["CD3", "CD4", "CD14", "CD19"]


def cells_with_proteins(missing="none", seed=0, n=60, g=12):
    """Cells of two donors; of "d2", proteins are all there, or not measured, in three ways of saying so."""
    adata = counts(n, g, seed, donor=donors(n, "d1", "d2", "d1"))
    rng = np.random.default_rng(seed)
    high = adata.obs["group"].to_numpy()[:, None] == np.array(list("0120"))
    y = rng.negative_binomial(5, 1 / (1 + np.where(high, 60.0, 4.0)))
    y = pd.DataFrame(y, adata.obs_names, PROTEINS).astype(float)
    d2 = (adata.obs["donor"] == "d2").to_numpy()
    if missing in ("nan", "zero"):
        y.loc[d2] = np.nan if missing == "nan" else 0.0
    adata.obsm["protein"] = y
    adata.obs["has"] = ~d2
    return adata


def protein_data(adata, **options):
    """The DataModule of `cells_with_proteins`."""
    return po.CellDataModule(
        adata, **{"batch_key": "donor", "protein_obsm_key": "protein", "batch_size": 16, "seed": 0, **options}
    )


def quiet_trainer(epochs=2, **options):
    """A CPU Trainer that writes nothing and prints nothing."""
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "accelerator": "cpu",
    }
    return pl.Trainer(max_epochs=epochs, **{**quiet, **options})


def small(dm, **options):
    """An SCVI of three latent dimensions and 16 hidden units, from seed 0."""
    torch.manual_seed(0)
    return po.SCVI.from_data(dm, **{"n_latent": 3, "n_hidden": 16, **options})


def totalvi(dm, **options):
    """A TotalVI of three latent dimensions and 16 hidden units, from seed 0."""
    torch.manual_seed(0)
    return po.TotalVI.from_data(dm, **{"n_latent": 3, "n_hidden": 16, "dropout": 0.0, **options})


def fitted(dm, epochs=2, guide=None, **options):
    """A trained SVIModule over `small`'s SCVI."""
    svi = po.SVIModule(small(dm, **options), guide=guide)
    quiet_trainer(epochs).fit(svi, dm)
    return svi
