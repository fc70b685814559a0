"""AnnData in, from memory or a path, and the checks of what an argument names in it."""

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
    """The AnnData, read if it is a path, and the entry of obsm with the proteins if it was a MuData.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        Where the path does not exist, or holds no AnnData.
    """
    if isinstance(adata, AnnData):
        return adata, None
    if hasattr(adata, "mod") and hasattr(adata, "obs_names"):
        joined = from_mudata(adata)
        return joined, PROTEINS if PROTEINS in joined.obsm else None
    if not isinstance(adata, str | Path):
        raise TypeError(
            "adata must be an AnnData, a MuData or a path to one (.h5ad, .h5mu, .zarr), and is a "
            f"{type(adata).__name__}"
        )
    return read_path(adata)


def read_path(adata: str | Path) -> tuple[AnnData, str | None]:
    """As `read`, of a path."""
    path = checked_path(adata)
    readers = {".h5ad": ad.read_h5ad, ".zarr": ad.read_zarr, ".h5mu": _read_h5mu}
    try:
        return read(readers[path.suffix](path))
    except ImportError:
        raise
    except Exception as error:  # every reader fails in its own way on foreign bytes
        raise ValueError(f"adata={str(path)!r} could not be read as an AnnData ({error})") from error


def checked_path(adata: str | Path) -> Path:
    """The path, if something of a known kind is there.

    Raises
    ------
    FileNotFoundError, ValueError
        Where there is not.
    """
    path = Path(adata).expanduser().absolute()  # the process may go elsewhere before it reads
    if not path.exists():
        raise FileNotFoundError(f"adata={str(path)!r} does not exist: give the path of a .h5ad file or a .zarr store")
    if path.suffix not in (".h5ad", ".zarr", ".h5mu"):
        raise ValueError(
            f"adata={str(path)!r} is no .h5ad or .h5mu file or .zarr store: write one with adata.write_h5ad(path)"
        )
    return path


def _read_h5mu(path: Path) -> Any:
    try:
        import mudata
    except ImportError as error:
        raise ImportError(f"{path} needs the package mudata: pip install 'pyro-omics[mudata]'") from error
    return mudata.read_h5mu(path)


def from_mudata(mdata: Any, rna: str = "rna", protein: str = "prot") -> AnnData:
    """RNA and proteins of a MuData as one AnnData: the RNA's cells, the proteins in ``obsm["protein_counts"]``.

    Cells are matched by name. Those that the protein modality lacks have NaN there, which is "not measured".

    Parameters
    ----------
    mdata
        a ``mudata.MuData``.
    rna, protein
        names of its modalities; without the protein modality the AnnData has no proteins.

    Returns
    -------
    A new AnnData, which shares its matrices with the MuData; columns of ``mdata.obs`` come after those of the RNA's.

    Raises
    ------
    ValueError
        Where there is no RNA modality of that name, or names of cells are not unique.
    """
    if rna not in mdata.mod:
        raise ValueError(
            f"rna={rna!r} is not a modality of the MuData: there are {list(mdata.mod)}; name them, "
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
    """A matrix as an array, if it was sparse."""
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)


def check_keys(one: dict[str, Any], several: dict[str, Any]) -> None:
    """Raise where an argument that names one column has several, or the other way round."""
    for argument, key in one.items():
        if not isinstance(key, str | None):
            raise ValueError(f"{argument} is the name of one column or layer, and is {key!r}: pass one name")
    for argument, keys in several.items():
        if isinstance(keys, str):
            raise ValueError(f"{argument} is a list of columns, and is the text {keys!r}: pass [{keys!r}]")


def check_names(adata: AnnData) -> None:
    """Raise where rows or columns cannot be told apart by name."""
    for axis, names in (("obs", adata.obs_names), ("var", adata.var_names)):
        if not names.is_unique:
            twice = names[names.duplicated()][0]
            raise ValueError(
                f"adata.{axis}_names has duplicates, such as {twice!r}: results could not be told apart; call "
                f"adata.{axis}_names_make_unique() first"
            )


def masked_genes(adata: AnnData, gene_mask: str | Sequence[bool] | None) -> np.ndarray:
    """Booleans (n_vars,): the genes to model.

    Raises
    ------
    ValueError
        For a mask that is no column of var, not boolean, of the wrong length, or empty.
    """
    if gene_mask is None:
        return np.ones(adata.n_vars, dtype=bool)
    if isinstance(gene_mask, str):
        if gene_mask not in adata.var:
            there = ", ".join(map(repr, adata.var.columns)) or "none"
            raise ValueError(f"gene_mask={gene_mask!r} is not a column of adata.var: there are {there}")
        mask = adata.var[gene_mask].to_numpy()
    else:
        mask = np.asarray(gene_mask)
    if mask.dtype != bool or mask.shape != (adata.n_vars,):
        raise ValueError(
            f"gene_mask must be {adata.n_vars} booleans, one for each gene, and is {mask.dtype} of shape {mask.shape}"
        )
    if not mask.any():
        raise ValueError("gene_mask selects no gene: there is nothing to fit")
    return mask
