"""Real data sets: bundled with a dependency, or downloaded once by pooch and checked by SHA-256."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pooch
import scipy.sparse as sp
from anndata import AnnData

from pyro_omics.data.dna_encoded.tables.reading import read_del

DATA_FOLDER = "PYRO_OMICS_DATA"
_TOTALVI = (
    "https://raw.githubusercontent.com/YosefLab/totalVI_reproducibility/"
    "27d65a9c49182f39df0c4325249bc7dc8e663dd0/data/raw_data/"
)
_DELDENOISER = (
    "https://raw.githubusercontent.com/totient-bio/deldenoiser/380413841a5983b6a92c6567dd48266c26099a95/example/"
)
_FILES = {
    "pbmc10k_harmo_rna.csv.gz": (_TOTALVI, "77cacfec0e17dce2a9b00c479a07a162e29dc9263ff5dc4cb5235df4679baba9"),
    "pbmc10k_harmo_pro.csv.gz": (_TOTALVI, "184afe670d264b598e24cca73ccfd4f07c7bde696b8fb4cb53ba62d89b13f048"),
    "UNCDEL003_53bp1.csv.gz": (
        "https://raw.githubusercontent.com/Popov-Lab-UNC/DELi/b4cbec550b88cce6b2ddbee50ba9b643a680ead2/examples/"
        "UNCDEL003_53bp1_Analyze/",
        "7ed087d7308ce7dd1cdc7846e1a3ed43cf9a3451db2042ee1f93f71754978a30",
    ),
    "size20x20x20_preselection_readcount.tsv": (
        _DELDENOISER + "input/",
        "40164a71e8eea5afc2453c4fc3adaad72eb12e2d8420504ba30acece4f9f0416",
    ),
    "size20x20x20_postselection_readcount.tsv": (
        _DELDENOISER + "input/",
        "1a663252e46fcbc5df433541b5819195ce7240a89ad44742a160321df643c0a7",
    ),
    "size20x20x20_yields.tsv": (
        _DELDENOISER + "input/",
        "8423758f7b3d43bef98fdd00a9ce6d896a252a8a5409b2fca93a44b71c5f2ddd",
    ),
    "size20x20x20_fullcycles.tsv": (
        _DELDENOISER + "true/",
        "3df1f8e10fa1a0d1932485522a1bf218fdb94d7a01c7d3042b09077b5fbb2a96",
    ),
}


def fetch(name: str) -> Path:
    """Path of a data file: in the folder named by PYRO_OMICS_DATA, else downloaded once into a cache.

    Raises
    ------
    ValueError
        If the file's SHA-256 is not the expected one; a file in the named folder is left unchanged.
    """
    source, digest = _FILES[name]
    folder = os.environ.get(DATA_FOLDER)
    if folder and (path := Path(folder) / name).is_file():
        if pooch.file_hash(str(path)) != digest:
            raise ValueError(f"{path} must have the SHA-256 {digest}; got another file: remove it from {DATA_FOLDER}")
        return path
    return Path(pooch.retrieve(source + name, known_hash=f"sha256:{digest}", fname=name, path=_cache()))


def _cache() -> Path:
    return Path(pooch.os_cache("pyro_omics"))


def pbmc68k() -> AnnData:
    """700 peripheral blood mononuclear cells x 765 genes, integer UMI counts in X; offline.

    scanpy bundles a subset of the 68k PBMC data as log1p of normalised counts, rounded to 3 decimals. The counts are
    recovered exactly: in each cell the smallest non-zero count is 1, and expm1 divided by its smallest non-zero value
    is within 0.12 of an integer.

    Returns
    -------
    AnnData, with ``obs["bulk_labels"]`` and ``obs["louvain"]``.

    Source: Zheng et al. 2017, Nature Communications 8, 14049; scanpy's ``datasets.pbmc68k_reduced``.
    """
    import scanpy as sc  # takes seconds to import, and only this function needs it

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
    of both. Two files, 3.2 MB, are read from the folder named by PYRO_OMICS_DATA, or downloaded.

    Returns
    -------
    AnnData; ``obsm["protein_counts"]`` is a DataFrame whose columns are the proteins' names (``CD3``).

    Raises
    ------
    ValueError
        If a file is not the expected one.

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


def uncdel003() -> AnnData:
    """UMI counts of a DNA-encoded library in three selections on 53BP1, without a control: 58,080 compounds.

    UNCDEL003, 33 x 40 x 44 building blocks made for readers of methylated lysine. 4,209 compounds were sequenced; the
    others have counts of zero. Building block C006 (methyl piperazine) was validated by experiment. One file, 0.3 MB,
    is read from the folder named by PYRO_OMICS_DATA, or downloaded.

    Most compounds were seen in one selection only, some of them with tens of UMIs: replicates agree by building block
    (their sums have correlations of 0.8 to 0.98), but hardly by compound (0.1). RDKit does not parse the SMILES of the
    119 compounds with A005, whose ammonium is written without its charge: replace "[N](C)(C)" by "[N+](C)(C)".

    Returns
    -------
    AnnData; ``obs`` has the building blocks ``A``, ``B``, ``C`` and ``smiles``, the latter of sequenced compounds only;
    all three selections have the condition "target".

    Raises
    ------
    ValueError
        If the file is not the expected one.

    Source: github.com/Popov-Lab-UNC/DELi; doi 10.1021/acs.jmedchem.3c01192.
    """
    return read_del(fetch("UNCDEL003_53bp1.csv.gz"), layout="deli", complete=True)


def deldenoiser_20x20x20() -> AnnData:
    """Simulated counts of 20 x 20 x 20 compounds with truncated products, before and after selection.

    A truncated product is counted as the compound whose tag it carries, so that counts alone do not distinguish binders
    from building blocks that bind when truncated. Four files, 0.5 MB, are read from the folder named by
    PYRO_OMICS_DATA, or downloaded.

    Returns
    -------
    AnnData; ``obs`` has the building blocks (lanes) ``A``, ``B``, ``C``, the true yields of their reactions,
    ``yield_A``, ``yield_B``, ``yield_C``, and the true ``log10_K`` and ``survival_rate`` of the full-cycle compound;
    one selection has the condition "pre-selection", the other "target".

    Raises
    ------
    ValueError
        If a file is not the expected one.

    Source: github.com/totient-bio/deldenoiser; Komar & Kalinic 2020, ACS Combinatorial Science 22, 410.
    """
    name = "size20x20x20_{}.tsv"
    yields, truth, before, after = (
        pd.read_csv(fetch(name.format(part)), sep="\t")
        for part in ("yields", "fullcycles", "preselection_readcount", "postselection_readcount")
    )
    lanes = {f"cycle_{i + 1}_lane": key for i, key in enumerate("ABC")}
    counts = {"pre-selection_1": before, "target_1": after}
    for column, table in counts.items():
        truth = truth.merge(table.rename(columns={"readcount": column}), on=list(lanes), validate="one_to_one")
    truth = truth.rename(columns=lanes)
    adata = read_del(truth[[*lanes.values(), *counts]], layout="plain", complete=False)
    for i, key in enumerate(lanes.values()):
        of_lane = yields[yields["cycle"] == i + 1].set_index("lane")["yield"]
        adata.obs[f"yield_{key}"] = of_lane.loc[truth[key]].to_numpy()
    for column in ("log10_K", "survival_rate"):
        adata.obs[column] = truth[column].to_numpy()
    return adata
