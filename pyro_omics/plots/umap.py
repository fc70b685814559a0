"""UMAP of a latent."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from anndata import AnnData
from matplotlib.figure import Figure


def umap(adata: AnnData, basis: str, color: str | None = None, max_cells: int = 20_000, seed: int = 0) -> Figure:
    """UMAP of a latent in ``adata.obsm[basis]``, computed by scanpy; the AnnData is not changed.

    Parameters
    ----------
    adata
        AnnData with the latent.
    basis
        key of the latent in obsm.
    color
        column of obs that colours the cells; None for one colour.
    max_cells
        largest number of cells to draw; of more, a random subset is drawn.
    seed
        seed of the subset and of UMAP.

    Raises
    ------
    ValueError
        Where ``basis`` or ``color`` does not exist.

    Source: McInnes et al. 2018 (UMAP).
    """
    import scanpy as sc  # imported here: it takes seconds, and most sessions draw no UMAP

    if basis not in adata.obsm:
        raise ValueError(f"basis must be a key of adata.obsm, {list(adata.obsm)}; got {basis!r}")
    if color is not None and color not in adata.obs:
        raise ValueError(f"color must be a column of adata.obs, {list(adata.obs.columns)}; got {color!r}")
    rows = np.arange(adata.n_obs)
    if adata.n_obs > max_cells:
        rows = np.sort(np.random.default_rng(seed).permutation(adata.n_obs)[:max_cells])
    small = AnnData(obs=adata.obs.iloc[rows].copy(), obsm={basis: adata.obsm[basis][rows]})
    threads = torch.get_num_threads()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numba and umap, about their own internals
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
