"""Feature types, as 10x's matrices have them: genes and antibodies in one matrix are told apart by a column of var."""

from __future__ import annotations

import numpy as np
from anndata import AnnData

KEYS = ("feature_types", "feature_type")
GENES, PROTEINS = "Gene Expression", "Antibody Capture"


def check_feature_types(adata: AnnData, modelled: np.ndarray) -> None:
    """Raise a ValueError, with the mend as code, if columns of several feature types would be modelled as genes.

    Parameters
    ----------
    adata
        the data.
    modelled
        booleans (n_vars,): the columns that are modelled.
    """
    for key in KEYS:
        if key not in adata.var or adata.var[key].ndim > 1:
            continue
        n_columns = adata.var[key][modelled].astype(object).value_counts()
        if len(n_columns) < 2:
            continue
        seen = " and ".join(f"{n} of {kind!r}" for kind, n in n_columns.items())
        genes = GENES if GENES in n_columns else n_columns.index[0]
        mend = f"To model the genes alone, pass gene_mask=(adata.var[{key!r}] == {genes!r}).to_numpy()"
        if PROTEINS in n_columns:
            mend += (
                f"; for TotalVI, move the proteins to obsm: kind = adata.var[{key!r}]; "
                f"cells = adata[:, kind == {genes!r}].copy(); "
                f"cells.obsm['protein_counts'] = adata[:, kind == {PROTEINS!r}].to_df(); "
                "CellDataModule(cells, protein_obsm_key='protein_counts')"
            )
        raise ValueError(
            f"the modelled columns of adata must be genes; adata.var[{key!r}] has several types, {seen}. {mend}"
        )
