"""Data drawn from a model's own generative story, with the truth beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData


def cells(
    n_obs: int = 2000,
    n_genes: int = 100,
    n_latent: int = 5,
    n_batches: int = 1,
    depth: float = 2000.0,
    signal: float = 0.5,
    batch_effect: float = 0.5,
    seed: int = 0,
) -> tuple[AnnData, dict[str, Any]]:
    r"""Cells from scVI's generative story with a negative binomial likelihood.

    .. math::
        z_n \sim \mathrm{Normal}(0, I_k), \quad
        \rho_n = \mathrm{softmax}(a + z_n W + b_{s_n}), \quad
        x_{ng} \sim \mathrm{NB}(l_n \rho_{ng}, \theta_g)

    with log l_n ~ Normal(log depth, 0.3), log theta_g ~ Normal(1.5, 0.7), a_g ~ Normal(0, 1),
    W_kg ~ Normal(0, signal) and b_sg ~ Normal(0, batch_effect).

    Parameters
    ----------
    n_obs, n_genes, n_latent, n_batches
        sizes.
    depth
        median library size, in counts.
    signal
        standard deviation of the loadings W.
    batch_effect
        standard deviation of each batch's shift of the log frequencies.
    seed
        of everything.

    Returns
    -------
    AnnData (counts in X, ``obs["batch"]``), and the truth: ``z`` (n, k), ``rho`` (n, g), ``mean`` (n, g),
    ``library`` (n,), ``theta`` (g,), as arrays.

    Source: Lopez et al. 2018, Methods.
    """
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n_obs, n_latent))
    batch = rng.integers(n_batches, size=n_obs)
    shift = rng.normal(scale=batch_effect, size=(n_batches, n_genes))
    logits = rng.normal(size=n_genes) + z @ rng.normal(scale=signal, size=(n_latent, n_genes)) + shift[batch]
    rho = np.exp(logits - logits.max(1, keepdims=True))
    rho /= rho.sum(1, keepdims=True)
    library = np.exp(rng.normal(np.log(depth), 0.3, size=n_obs))
    theta = np.exp(rng.normal(1.5, 0.7, size=n_genes))
    mean = library[:, None] * rho
    x = rng.poisson(mean * rng.gamma(theta, 1 / theta, size=mean.shape)).astype(np.float32)
    obs = pd.DataFrame(
        {"batch": pd.Categorical([f"batch{b}" for b in batch])}, index=[f"cell{i}" for i in range(n_obs)]
    )
    adata = AnnData(x, obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]))
    return adata, {"z": z, "rho": rho, "mean": mean, "library": library, "theta": theta}
