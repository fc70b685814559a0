"""Reading of an AnnData from memory or a path, and checks of the names that arguments refer to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset

from pyro_omics.data.anndata_io.multimodal import PROTEINS, from_mudata, layer_of, modalities, read_multimodal
from pyro_omics.data.anndata_io.stores import TABLES, checked_path, is_multimodal, is_zarr, open_store
from pyro_omics.data.matrices.containers import check_chunks, in_memory
from pyro_omics.data.matrices.count_checks import name_of
from pyro_omics.data.names import same_but_for_blanks


def read(adata: Any, layer: str | None = None) -> tuple[AnnData, str | None]:
    """The AnnData, read from its file if given as a path, and the proteins' key of obsm if made from a MuData.

    Parameters
    ----------
    adata
        AnnData, MuData or path.
    layer
        the layer with the counts, which is that of a MuData's proteins too, if they have it.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        If the path does not exist or holds no AnnData, or ``adata`` is of another type.
    """
    if isinstance(adata, AnnData):
        # Tables that are read lazily (anndata.experimental.read_lazy) are no DataFrames.
        return adata if isinstance(adata.obs, pd.DataFrame) else adata.to_memory(), None
    if is_mudata(adata):
        _, protein = modalities(adata.mod, None, None)
        table = None if protein is None else adata.mod[protein]
        return _with_key(from_mudata(adata, protein_layer=layer_of(table, layer)))
    if not isinstance(adata, str | Path):
        raise TypeError(
            f"adata must be an AnnData, a MuData or the path of one (.h5ad, .h5mu, .zarr); got a {type(adata).__name__}"
        )
    return read_path(adata, layer)


def is_mudata(adata: Any) -> bool:
    """Whether this is a MuData; its package may not be installed."""
    return hasattr(adata, "mod") and hasattr(adata, "obs_names")


def read_path(adata: str | Path, layer: str | None = None) -> tuple[AnnData, str | None]:
    """The AnnData at a path, and the proteins' key of obsm if it is a MuData; raises as `read`."""
    path = checked_path(adata)
    try:
        with open_store(path) as root:
            if is_multimodal(root):
                found, key = _with_key(read_multimodal(root, layer)[0])
            else:
                check_stored(root, layer)
                found, key = _read_anndata(path, root), None
        check_sparse(found, layer)
        return found, key
    except Exception as error:  # each reader raises errors of its own on files of another format
        raise ValueError(f"adata={str(path)!r} could not be read as an AnnData ({error})") from error


def _read_anndata(path: Path, root: Any) -> AnnData:
    try:
        return ad.read_zarr(path) if is_zarr(path) else ad.read_h5ad(path)
    except Exception as error:
        if "scipy.sparse does not support" not in str(error):
            raise
    # Of a type that SciPy does not have, such as float16, in which anndata does not read a sparse matrix.
    layers = root.get("layers", {})
    return AnnData(
        X=_read_matrix(root["X"], "adata.X") if "X" in root else None,
        layers={name: _read_matrix(layers[name], f"adata.layers[{name!r}]") for name in layers},
        **{name: read_elem(root[name]) for name in TABLES if name in root},
    )


def _read_matrix(node: Any, name: str) -> Any:
    return in_memory(node if hasattr(node, "dtype") else sparse_dataset(node), name)


def check_stored(root: Any, layer: str | None) -> None:
    """Raise a ValueError where the counts in a store, X or a layer, or a matrix of obsm lack chunks."""
    nodes = {"adata.X": root["X"]} if layer is None and "X" in root else {}
    if layer is not None and "layers" in root and layer in root["layers"]:
        nodes[f"adata.layers[{layer!r}]"] = root["layers"][layer]
    if "obsm" in root and not hasattr(root["obsm"], "dtype"):
        nodes |= {f"adata.obsm[{name!r}]": root["obsm"][name] for name in root["obsm"]}
    for name, node in nodes.items():
        check_chunks(node, name)


def check_sparse(adata: AnnData, layer: str | None) -> None:
    """Raise a ValueError if the counts, X or a layer, or a matrix of obsm is sparse and broken."""
    places = {f"adata.obsm[{name!r}]": matrix for name, matrix in adata.obsm.items()}
    if layer is None or layer in adata.layers:
        places[name_of(layer)] = adata.X if layer is None else adata.layers[layer]
    for name, matrix in places.items():
        if sp.issparse(matrix):
            in_memory(matrix, name)


def _with_key(adata: AnnData) -> tuple[AnnData, str | None]:
    return adata, PROTEINS if PROTEINS in adata.obsm else None


def masked_genes(adata: AnnData, gene_mask: Any) -> np.ndarray:
    """The genes to model, as booleans (n_vars,); a Series is matched by name to adata.var_names.

    Raises
    ------
    ValueError
        If the mask is no column of var, not boolean, of the wrong length or of other genes, or False for all genes.
    """
    if gene_mask is None:
        return np.ones(adata.n_vars, dtype=bool)
    if isinstance(gene_mask, str):
        if gene_mask not in adata.var:
            raise ValueError(f"gene_mask must be a column of adata.var, {list(adata.var.columns)}; got {gene_mask!r}")
        gene_mask = adata.var[gene_mask]
    mask = booleans("gene_mask", gene_mask, adata.var_names, "adata.var_names")
    if mask.dtype != bool or mask.shape != (adata.n_vars,):
        raise ValueError(
            f"gene_mask must be {adata.n_vars} booleans, one for each gene; got {mask.dtype} of shape {mask.shape}"
        )
    if not mask.any():
        raise ValueError("gene_mask must select at least one gene; got False for all")
    return mask


def booleans(argument: str, mask: Any, names: pd.Index, where: str) -> np.ndarray:
    """A mask as an array: of booleans, if it has booleans in any container; a Series is matched by its index.

    Parameters
    ----------
    argument
        name of the argument, for errors.
    mask
        list, array (NumPy, pandas, pyarrow), Series or generator.
    names
        names of the axis that the mask is of; a Series that counts its rows from 0 is taken in their order.
    where
        what ``names`` are, for errors.

    Raises
    ------
    ValueError
        If a Series has other names, or booleans are missing.
    """
    if isinstance(mask, pd.Series) and not mask.index.equals(names):
        mask = aligned(argument, mask, names, where)
    if hasattr(mask, "to_pylist"):  # pyarrow
        mask = mask.to_pylist()
    elif not hasattr(mask, "__array__") and hasattr(mask, "__iter__"):
        mask = list(mask)
    found = np.asarray(mask)
    if found.dtype == object and found.ndim == 1 and len(found):
        if pd.isna(found).any():
            raise ValueError(f"{argument} must have no missing booleans; got {found[pd.isna(found)][0]!r}: fill them")
        if all(isinstance(value, bool | np.bool_) for value in found):
            return found.astype(bool)
    return found


def aligned(argument: str, values: pd.Series | pd.DataFrame, names: pd.Index, where: str) -> Any:
    """A Series or DataFrame in the order of ``names``, by its index; as it is, if that counts rows from 0.

    Raises
    ------
    ValueError
        If the index has not the same names.
    """
    index = values.index
    if index.equals(names) or (isinstance(index, pd.RangeIndex) and index.equals(pd.RangeIndex(len(names)))):
        return values
    if not index.is_unique or len(index) != len(names) or not names.isin(index).all():
        missing = [name for name in names if name not in index][:1]
        twins = same_but_for_blanks(missing, index)
        seen = f"got {twins[1]!r} for {twins[0]!r}, which differ in blanks" if twins else f"got {list(index[:3])}"
        raise ValueError(
            f"{argument} must have {where} as its index, such as {list(names[:3])}; {seen}: use "
            f".reindex({where}), or pass an array in that order"
        )
    return values.loc[names]
