"""Reading of an AnnData from memory or a path, and checks of the names that arguments refer to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

PROTEINS = "protein_counts"


def read(adata: Any) -> tuple[AnnData, str | None]:
    """The AnnData, read from its file if given as a path, and the proteins' key of obsm if made from a MuData.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        If the path does not exist or holds no AnnData, or ``adata`` is of another type.
    """
    if isinstance(adata, AnnData):
        return adata, None
    if hasattr(adata, "mod") and hasattr(adata, "obs_names"):
        joined = from_mudata(adata)
        return joined, PROTEINS if PROTEINS in joined.obsm else None
    if not isinstance(adata, str | Path):
        raise TypeError(
            f"adata must be an AnnData, a MuData or the path of one (.h5ad, .h5mu, .zarr); got a {type(adata).__name__}"
        )
    return read_path(adata)


def read_path(adata: str | Path) -> tuple[AnnData, str | None]:
    """The AnnData at a path, and the proteins' key of obsm if it is a MuData; raises as `read`."""
    path = checked_path(adata)
    readers = {".h5ad": ad.read_h5ad, ".zarr": ad.read_zarr, ".h5mu": _read_h5mu}
    try:
        return read(readers[path.suffix](path))
    except ImportError:
        raise
    except Exception as error:  # each reader raises errors of its own on files of another format
        raise ValueError(f"adata={str(path)!r} could not be read as an AnnData ({error})") from error


def checked_path(adata: str | Path) -> Path:
    """The absolute path of a .h5ad or .h5mu file or .zarr store.

    Raises
    ------
    FileNotFoundError, ValueError
        If nothing is at the path, or its suffix is another one.
    """
    path = Path(adata).expanduser().absolute()  # the working directory may change before the file is read
    if not path.exists():
        raise FileNotFoundError(f"adata={str(path)!r} does not exist: pass the path of a .h5ad file or a .zarr store")
    if path.suffix not in (".h5ad", ".zarr", ".h5mu"):
        raise ValueError(
            f"adata must be the path of a .h5ad or .h5mu file or a .zarr store; got {str(path)!r}: write a file with "
            "adata.write_h5ad(path)"
        )
    return path


def _read_h5mu(path: Path) -> Any:
    try:
        import mudata
    except ImportError as error:
        raise ImportError(f"{path} needs the package mudata: pip install 'pyro-omics[mudata]'") from error
    return mudata.read_h5mu(path)


def from_mudata(mdata: Any, rna: str = "rna", protein: str = "prot") -> AnnData:
    """Join the RNA and proteins of a MuData in one AnnData, with the proteins in ``obsm["protein_counts"]``.

    Its cells are those of the RNA; proteins are matched by the cells' names. Cells that the protein modality lacks have
    NaN there, which means "not measured".

    Parameters
    ----------
    mdata
        a ``mudata.MuData``.
    rna, protein
        names of its modalities; without the protein modality, the AnnData has no proteins.

    Returns
    -------
    A new AnnData, which shares its matrices with the MuData; its obs has the columns of the RNA's obs, then those of
    ``mdata.obs``.

    Raises
    ------
    ValueError
        If there is no RNA modality of that name, or names of cells, genes or proteins are not unique.
    """
    if rna not in mdata.mod:
        raise ValueError(
            f"rna must be a modality of the MuData, {list(mdata.mod)}; got {rna!r}: pass the names, "
            "data.from_mudata(mdata, rna=..., protein=...)"
        )
    cells = mdata.mod[rna]
    check_names(cells)
    adata = AnnData(cells.X, obs=cells.obs.copy(), var=cells.var.copy(), layers=dict(cells.layers))
    for name in mdata.obs.columns.difference(adata.obs.columns, sort=False):
        adata.obs[name] = mdata.obs[name].reindex(adata.obs_names)
    if protein in mdata.mod:
        table = mdata.mod[protein]
        check_names(table)
        counts = pd.DataFrame(dense(table.X), index=table.obs_names, columns=table.var_names)
        adata.obsm[PROTEINS] = counts.reindex(adata.obs_names)
    return adata


def dense(matrix: Any) -> np.ndarray:
    """A matrix, sparse or dense, as an array."""
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)


def check_keys(one: dict[str, Any], several: dict[str, Any]) -> None:
    """Raise a ValueError where an argument of one name has several, or one of several names is a text.

    Parameters
    ----------
    one
        arguments that must be None or the name of one column or layer, and their values.
    several
        arguments that must be lists of names, and their values.
    """
    for argument, key in one.items():
        if not isinstance(key, str | None):
            raise ValueError(f"{argument} must be the name of one column or layer; got {key!r}: pass one name")
    for argument, keys in several.items():
        if isinstance(keys, str):
            raise ValueError(f"{argument} must be a list of columns; got the text {keys!r}: pass [{keys!r}]")


def check_names(adata: AnnData) -> None:
    """Raise a ValueError where names of rows or columns are not unique."""
    for axis, names in (("obs", adata.obs_names), ("var", adata.var_names)):
        if not names.is_unique:
            twice = names[names.duplicated()][0]
            raise ValueError(
                f"adata.{axis}_names must be unique, since results are labelled by them; got {twice!r} twice: call "
                f"adata.{axis}_names_make_unique() first"
            )


def masked_genes(adata: AnnData, gene_mask: str | Sequence[bool] | None) -> np.ndarray:
    """The genes to model, as booleans (n_vars,).

    Raises
    ------
    ValueError
        If the mask is no column of var, not boolean, of the wrong length, or False for all genes.
    """
    if gene_mask is None:
        return np.ones(adata.n_vars, dtype=bool)
    if isinstance(gene_mask, str):
        if gene_mask not in adata.var:
            raise ValueError(f"gene_mask must be a column of adata.var, {list(adata.var.columns)}; got {gene_mask!r}")
        mask = adata.var[gene_mask].to_numpy()
    else:
        mask = np.asarray(gene_mask)
    if mask.dtype != bool or mask.shape != (adata.n_vars,):
        raise ValueError(
            f"gene_mask must be {adata.n_vars} booleans, one for each gene; got {mask.dtype} of shape {mask.shape}"
        )
    if not mask.any():
        raise ValueError("gene_mask must select at least one gene; got False for all")
    return mask
