"""Cells drawn from the generative models of scVI and totalVI, with the true values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.special import expit, polygamma


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
    r"""Simulate cells from scVI's generative model with a negative binomial likelihood.

    .. math::
        z_n \sim \mathrm{Normal}(0, I_k), \quad
        \rho_n = \mathrm{softmax}(a + z_n W + b_{s_n}), \quad
        x_{ng} \sim \mathrm{NB}(l_n \rho_{ng}, \theta_g)

    with log l_n ~ Normal(log depth, 0.3), log theta_g ~ Normal(1.5, 0.7), a_g ~ Normal(0, 1),
    W_kg ~ Normal(0, signal) and b_sg ~ Normal(0, batch_effect).

    Parameters
    ----------
    n_obs, n_genes, n_latent, n_batches
        numbers of cells, genes, latent dimensions and batches.
    depth
        median library size, in counts.
    signal
        standard deviation of the loadings W.
    batch_effect
        standard deviation of each batch's shift of the log frequencies.
    seed
        seed of all draws.

    Returns
    -------
    AnnData (counts in X, ``obs["batch"]``), and the true values as arrays: ``z`` (n, k), ``rho`` (n, g), ``mean``
    (n, g), ``library`` (n,), ``theta`` (g,).

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


def citeseq(
    n_obs: int = 2000,
    n_genes: int = 100,
    n_proteins: int = 10,
    n_latent: int = 5,
    n_batches: int = 1,
    separation: float = 2.0,
    efficiency: float = 0.5,
    seed: int = 0,
) -> tuple[AnnData, dict[str, Any]]:
    r"""Simulate cells with RNA (as `cells`) and proteins from totalVI's generative model.

    .. math::
        e_{st} \sim \mathrm{LogNormal}(0, \mathrm{efficiency}), \quad
        \beta_{nt} \sim \mathrm{LogNormal}(c_t, d), \quad
        v_{nt} \sim \mathrm{Bernoulli}(\mathrm{sigmoid}(8 \, w_t^\top z_n + o_t)), \quad
        y_{nt} \sim \mathrm{NB}(e_{s_n t} \, \alpha^{v_{nt}} \beta_{nt}, \phi_t)

    with c_t ~ Uniform(2.5, 4), d = 0.3, phi_t ~ Uniform(6, 12), w_t of unit length and
    log alpha = separation sqrt(d^2 + trigamma(phi_t)): foreground and background differ by ``separation`` standard
    deviations of the background's log rate.

    Parameters
    ----------
    n_obs, n_genes, n_proteins, n_latent, n_batches
        numbers of cells, genes, proteins, latent dimensions and batches.
    separation
        difference of foreground and background, in standard deviations.
    efficiency
        standard deviation of the log efficiency between batches and proteins.
    seed
        seed of all draws.

    Returns
    -------
    AnnData as of `cells`, with ``obsm["protein_counts"]``, and the true values: those of `cells`, ``efficiency``
    (s, t), ``background`` e beta (n, t) in counts, ``log_background`` c (t,), and ``foreground`` v (n, t), booleans.

    Source: Gayoso et al. 2021, Methods.
    """
    adata, truth = cells(n_obs, n_genes, n_latent, n_batches, signal=1.0, seed=seed)
    rng = np.random.default_rng([seed, 1])
    code = adata.obs["batch"].cat.codes.to_numpy()
    e = np.exp(rng.normal(scale=efficiency, size=(n_batches, n_proteins)))
    c, d, phi = rng.uniform(2.5, 4.0, n_proteins), 0.3, rng.uniform(6.0, 12.0, n_proteins)
    w = rng.normal(size=(n_latent, n_proteins))
    logits = 8 * truth["z"] @ (w / np.linalg.norm(w, axis=0)) + rng.normal(scale=2.0, size=n_proteins)
    foreground = rng.random(logits.shape) < expit(logits)
    log_alpha = separation * np.sqrt(d**2 + polygamma(1, phi))
    background = e[code] * np.exp(rng.normal(c, d, size=foreground.shape))
    mean = background * np.exp(log_alpha * foreground)
    y = rng.poisson(mean * rng.gamma(phi, 1 / phi, size=mean.shape)).astype(np.float32)
    names = [f"protein{t}" for t in range(n_proteins)]
    adata.obsm["protein_counts"] = pd.DataFrame(y, index=adata.obs_names, columns=names)
    proteins = {"efficiency": e, "background": background, "log_background": c, "foreground": foreground}
    return adata, {**truth, **proteins}
