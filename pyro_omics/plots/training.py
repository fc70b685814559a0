"""Figures of a training, and of the latent that came of it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from anndata import AnnData
from matplotlib.figure import Figure


def training_curve(history: Mapping[str, Sequence[float]]) -> Figure:
    """ELBO per observation (nats) by epoch.

    Parameters
    ----------
    history
        name of a curve (``"train_elbo"``, ``"val_elbo"``) -> its value after each epoch.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    names = {"train_elbo": "training", "val_elbo": "validation"}
    for name, values in history.items():
        axes.plot(np.arange(1, len(values) + 1), values, label=names.get(name, name))
    later = [value for values in history.values() for value in values[min(2, len(values) - 1) :]]
    if later:
        # The first epochs are far below the rest, and would flatten it.
        margin = 0.1 * (max(later) - min(later)) + 1e-6
        axes.set_ylim(min(later) - margin, max(later) + margin)
    axes.set(xlabel="epoch", ylabel="ELBO per observation (nats; higher is better)")
    axes.legend(frameon=False)
    return figure


def umap(adata: AnnData, basis: str, color: str | None = None, max_cells: int = 20_000, seed: int = 0) -> Figure:
    """UMAP of a latent in ``adata.obsm[basis]``, computed by scanpy; the AnnData stays as it is.

    Parameters
    ----------
    adata
        with the latent.
    basis
        its key in obsm.
    color
        column of obs to colour the cells by.
    max_cells
        above so many, a random subset is drawn.
    seed
        of the subset and of UMAP.

    Raises
    ------
    ValueError
        Where ``basis`` or ``color`` does not exist.

    Source: McInnes et al. 2018 (UMAP).
    """
    import scanpy as sc  # takes seconds, and most sessions draw no UMAP

    if basis not in adata.obsm:
        raise ValueError(f"basis={basis!r} is not in adata.obsm: there are {list(adata.obsm)}")
    if color is not None and color not in adata.obs:
        raise ValueError(f"color={color!r} is not a column of adata.obs: there are {list(adata.obs.columns)}")
    rows = np.arange(adata.n_obs)
    if adata.n_obs > max_cells:
        rows = np.sort(np.random.default_rng(seed).permutation(adata.n_obs)[:max_cells])
    small = AnnData(obs=adata.obs.iloc[rows].copy(), obsm={basis: adata.obsm[basis][rows]})
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba's and umap's, about their own insides
        sc.pp.neighbors(small, use_rep=basis, n_neighbors=min(15, len(rows) - 1), random_state=seed)
        sc.tl.umap(small, random_state=seed)
        torch.set_num_threads(threads)  # numba's thread pool changes torch's
        figure = Figure(figsize=(7, 5), layout="constrained")
        _scatter(figure, small, color, basis)
    return figure


def _scatter(figure: Figure, small: AnnData, color: str | None, basis: str) -> None:
    import scanpy as sc

    axes = figure.subplots()
    sc.pl.umap(small, color=color, ax=axes, show=False, frameon=False, title=color or basis)
