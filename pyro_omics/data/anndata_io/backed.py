"""Opening of data: AnnData and MuData in memory, and those whose counts stay on disk as a `StoredMatrix`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset
from anndata.io import read_elem

from pyro_omics.data.anndata_io.loaded import LoadedCounts
from pyro_omics.data.anndata_io.multimodal import (
    PROTEINS,
    check_axis,
    joined,
    layer_of,
    modalities,
    read_multimodal,
)
from pyro_omics.data.anndata_io.reading import check_sparse, check_stored, is_mudata, read
from pyro_omics.data.anndata_io.stores import TABLES, checked_path, is_multimodal, is_old, is_zarr, open_store
from pyro_omics.data.blocks import Blocks
from pyro_omics.data.matrices.containers import ON_DISK
from pyro_omics.data.matrices.count_checks import check_layer, check_shape, matrix_of, name_of, raise_not_counts
from pyro_omics.data.matrices.disk import MatrixFile, StoredMatrix


class BackedCounts:
    """The counts of an AnnData on disk.

    Parameters
    ----------
    node
        group or array of h5py or zarr.
    layer
        name of the layer; None for X.
    others
        the other matrices of the AnnData, for errors: how to use the matrix instead -> its node.

    Raises
    ------
    ValueError
        If the matrix is stored by columns.
    """

    def __init__(self, node: Any, layer: str | None, others: Mapping[str, Any]) -> None:
        self.layer = layer
        self.source = MatrixFile(node, name_of(layer))
        self.others = {fix: file for fix, other in others.items() if (file := _readable(other)) is not None}
        self._checked: Any = None

    def check(self, genes: np.ndarray) -> None:
        """Check that these are counts, and sum each row over ``genes``, booleans (n_vars,), in one pass over the file.

        Raises
        ------
        ValueError
            If they are not counts; the error names the matrix, the value seen, and a layer that looks like counts.
        """
        check_shape(self.layer, self.source.shape)
        columns = None if genes.all() else np.flatnonzero(genes)
        summary, sums = self.source.summarize(columns)
        if (problem := summary.problem()) is not None:
            fitting = [fix for fix, other in self.others.items() if _looks_like_counts(other)]
            raise_not_counts(self.layer, problem, fitting[0] if fitting else "")
        self._checked = columns, sums

    def matrix(self, columns: np.ndarray | None) -> StoredMatrix:
        """The counts of the genes at these positions; of all genes for None."""
        known, sums = self._checked
        same = columns is known is None or (
            columns is not None and known is not None and np.array_equal(columns, known)
        )
        return StoredMatrix(self.source, columns, sums if same else None)


class Opened(NamedTuple):
    """An AnnData, its counts in memory or on disk, and the key of obsm of the proteins if it was a MuData.

    The AnnData has only its tables where counts are on disk; a MuData's proteins are among them.
    """

    adata: AnnData
    counts: LoadedCounts | BackedCounts
    proteins: str | None = None


def open_data(adata: Any, layer: str | None, backed: bool | Blocks) -> Opened:
    """Open an AnnData, MuData or path of one; ``backed`` leaves the counts at a path on disk.

    Raises
    ------
    FileNotFoundError, ValueError, TypeError
        If the path does not exist or holds no AnnData, ``adata`` is of another type, or ``backed`` is given for counts
        in memory.
    """
    if (opened := _open_backed(adata, layer, backed)) is not None:
        return opened
    loaded, proteins = read(adata, layer)
    return Opened(loaded, LoadedCounts(loaded, layer), proteins)


def _open_backed(adata: Any, layer: str | None, backed: bool | Blocks) -> Opened | None:
    """The tables of an AnnData and its counts on disk; None if the counts are in memory or are to be read into it.

    Raises
    ------
    FileNotFoundError, ValueError
        If the path does not exist or holds no AnnData, or ``backed`` is given for counts in memory.
    """
    if not isinstance(backed, bool | Blocks):
        raise ValueError(f"backed must be True, False or data.Blocks(size, number); got {backed!r}")
    if isinstance(adata, str | Path) and backed:
        return _open_path(checked_path(adata), layer)
    if is_mudata(adata) and getattr(adata, "isbacked", False):
        return _open_backed_mudata(adata, layer)
    if not isinstance(adata, AnnData):
        if backed:
            raise ValueError(
                f"adata must be the path of a .h5ad or .h5mu file or .zarr store, or a backed AnnData or MuData, where "
                f"backed={backed!r}; got a {type(adata).__name__}"
            )
        return None
    if adata.isbacked:
        if adata.is_view:
            raise ValueError(
                "adata must not be a view of a backed AnnData: pass the whole AnnData (validation_indices and "
                "gene_mask choose cells and genes), or adata.to_memory()"
            )
        with open_store(Path(adata.filename)) as file:
            return Opened(*_with_counts(_tables_of(adata), file, layer))
    if adata.is_view and not backed:
        return None  # X of such a view is read into memory each time
    matrix = matrix_of(adata, layer)
    if not isinstance(matrix, ON_DISK):
        if backed:
            raise ValueError(
                f"backed={backed!r} needs counts on disk, and {name_of(layer)} is in memory: pass the path of its file"
            )
        return None
    node = matrix.group if isinstance(matrix, CSRDataset | CSCDataset) else matrix
    return Opened(_tables_of(adata), BackedCounts(node, layer, {}))


def _open_path(path: Path, layer: str | None) -> Opened:
    rna, key = None, None
    try:
        with open_store(path) as file:
            if is_multimodal(file):
                tables, rna = read_multimodal(file, layer, with_counts=False)
                key = PROTEINS if PROTEINS in tables.obsm else None
            else:
                check_stored(file, layer)
                found = {} if is_old(file) else {name: read_elem(file[name]) for name in TABLES if name in file}
                tables = _tables(found) if found else _old_tables(path)
        check_sparse(tables, layer)
    except Exception as error:  # each reader raises errors of its own on files of another format
        raise ValueError(f"adata={str(path)!r} could not be read as an AnnData ({error})") from error
    with open_store(path) as file:
        return Opened(*_with_counts(tables, file if rna is None else file["mod"][rna], layer), key)


def _old_tables(path: Path) -> AnnData:
    """The tables of an AnnData of a version before 0.7, whose conversion is anndata's."""
    adata = ad.read_zarr(path) if is_zarr(path) else ad.read_h5ad(path, backed="r")
    tables = _tables_of(adata)
    if adata.isbacked:
        adata.file.close()
    return tables


def _open_backed_mudata(mdata: Any, layer: str | None) -> Opened:
    check_axis(mdata.axis)
    rna, protein = modalities(mdata.mod, None, None)
    table = None if protein is None else mdata.mod[protein]
    tables = joined(_tables_of(mdata.mod[rna]), mdata.obs, table, protein, layer_of(table, layer))
    with open_store(Path(mdata.filename)) as file:
        return Opened(*_with_counts(tables, file["mod"][rna], layer), None if table is None else PROTEINS)


def _tables_of(adata: AnnData) -> AnnData:
    return _tables({name: getattr(adata, name) for name in TABLES})


def _tables(parts: dict[str, Any]) -> AnnData:
    """An AnnData of these tables, without counts."""
    if lacking := [name for name in ("obs", "var") if name not in parts]:
        raise ValueError(f"it has no {' and no '.join(lacking)}")
    return AnnData(obs=parts.pop("obs"), var=parts.pop("var"), **{name: dict(part) for name, part in parts.items()})


def _with_counts(tables: AnnData, file: Any, layer: str | None) -> tuple[AnnData, BackedCounts]:
    counts = _backed_counts(file, layer)
    if counts.source.shape != tables.shape:
        raise ValueError(
            f"{counts.source.name} must have a row for each of the {tables.n_obs} rows of obs and a column for each of "
            f"the {tables.n_vars} rows of var; got the shape {counts.source.shape}: its file is broken"
        )
    return tables, counts


def _backed_counts(file: Any, layer: str | None) -> BackedCounts:
    layers = {name: file["layers"][name] for name in list(file["layers"].keys())} if "layers" in file else {}
    check_layer(layer, "X" in file, layers)
    others = {f"This one looks like counts: layer={name!r}": node for name, node in layers.items() if name != layer}
    if layer is not None and "X" in file:
        others["This one looks like counts: layer=None (adata.X)"] = file["X"]
    if "raw" in file and "X" in file["raw"]:
        others["adata.raw looks like counts: write adata.raw.to_adata() to a file of its own"] = file["raw"]["X"]
    return BackedCounts(file["X"] if layer is None else layers[layer], layer, others)


def _readable(node: Any) -> MatrixFile | None:
    """The matrix in a file, if it is stored by rows or dense and its pointers are right."""
    try:
        return MatrixFile(node, "")
    except ValueError:
        return None


def _looks_like_counts(matrix: MatrixFile) -> bool:
    try:
        return matrix.first_summary().problem() is None
    except ValueError:
        return False
