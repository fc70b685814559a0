"""Real data sets: bundled with a dependency, or fetched once by pooch and checked by SHA-256."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pooch
import scipy.sparse as sp
from anndata import AnnData

DATA_FOLDER = "PYRO_OMICS_DATA"
_TOTALVI = (
    "https://raw.githubusercontent.com/YosefLab/totalVI_reproducibility/"
    "27d65a9c49182f39df0c4325249bc7dc8e663dd0/data/raw_data/"
)
_FILES = {
    "pbmc10k_harmo_rna.csv.gz": (_TOTALVI, "77cacfec0e17dce2a9b00c479a07a162e29dc9263ff5dc4cb5235df4679baba9"),
    "pbmc10k_harmo_pro.csv.gz": (_TOTALVI, "184afe670d264b598e24cca73ccfd4f07c7bde696b8fb4cb53ba62d89b13f048"),
}


def fetch(name: str) -> Path:
    """The path of a data file: from the folder that PYRO_OMICS_DATA names, else downloaded once into a cache.

    Raises
    ------
    ValueError
        Where the file's SHA-256 is not the expected one (in the named folder: it is left as it is).
    """
    source, digest = _FILES[name]
    folder = os.environ.get(DATA_FOLDER)
    if folder and (path := Path(folder) / name).is_file():
        if pooch.file_hash(str(path)) != digest:
            raise ValueError(f"{path} ({DATA_FOLDER}) is not the file expected: its SHA-256 is not {digest}")
        return path
    return Path(pooch.retrieve(source + name, known_hash=f"sha256:{digest}", fname=name, path=_cache()))


def _cache() -> Path:
    return Path(pooch.os_cache("pyro_omics"))


def pbmc68k() -> AnnData:
    """700 peripheral blood mononuclear cells x 765 genes, integer UMI counts in X; offline.

    scanpy bundles a subset of the 68k PBMC data as log1p of normalised counts, rounded to 3 decimals. Counts come
    back exactly: in each cell, expm1 divided by its smallest non-zero value is within 0.12 of an integer, and a
    cell's smallest non-zero count is 1.

    Returns
    -------
    AnnData, with ``obs["bulk_labels"]`` and ``obs["louvain"]``.

    Source: Zheng et al. 2017, Nature Communications 8, 14049; scanpy's ``datasets.pbmc68k_reduced``.
    """
    import scanpy as sc  # seconds to import, and only this loader needs it

    reduced = sc.datasets.pbmc68k_reduced()
    matrix = sp.csr_matrix(reduced.raw.X, dtype=np.float64, copy=True)
    matrix.eliminate_zeros()
    np.expm1(matrix.data, out=matrix.data)
    lengths = np.diff(matrix.indptr)
    smallest = np.minimum.reduceat(matrix.data, matrix.indptr[:-1][lengths > 0])
    matrix.data = np.rint(matrix.data / np.repeat(smallest, lengths[lengths > 0])).astype(np.float32)
    obs = reduced.obs[["bulk_labels", "louvain", "phase"]].copy()
    obs.index.name = None
    var = pd.DataFrame(index=pd.Index(reduced.raw.var_names, name=None))
    return AnnData(matrix.astype(np.float32), obs=obs, var=var)


def pbmc10k_citeseq() -> AnnData:
    """6,855 peripheral blood mononuclear cells: 4,000 genes in X, 14 surface proteins in ``obsm["protein_counts"]``.

    The 10x Genomics PBMC 10k v3 CITE-seq set (TotalSeq-B), as filtered for totalVI's harmonization study: UMI counts
    of both. Two files, 3.2 MB, are looked for in the folder that PYRO_OMICS_DATA names before they are downloaded.

    Returns
    -------
    AnnData; ``obsm["protein_counts"]`` is a DataFrame whose columns are bare names (``CD3``).

    Raises
    ------
    ValueError
        Where a file is not the expected one.

    Source: Gayoso et al. 2021, Nature Methods 18, 272; github.com/YosefLab/totalVI_reproducibility.
    """
    rna = pd.read_csv(fetch("pbmc10k_harmo_rna.csv.gz"), index_col=0).T
    protein = pd.read_csv(fetch("pbmc10k_harmo_pro.csv.gz"), index_col=0).T
    adata = AnnData(
        sp.csr_matrix(rna.to_numpy(np.float32)),
        obs=pd.DataFrame(index=pd.Index(rna.index.astype(str), name=None)),
        var=pd.DataFrame(index=pd.Index(rna.columns.astype(str), name=None)),
    )
    protein = protein.loc[rna.index]
    protein.columns = [str(name).removesuffix("_TotalSeqB") for name in protein.columns]
    protein.index = adata.obs_names
    adata.obsm["protein_counts"] = protein.astype(np.float32)
    return adata
