"""AnnData whose counts stay on disk: its tables in memory, and its counts as a `StoredMatrix`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from anndata import AnnData
from anndata.abc import CSCDataset, CSRDataset
from anndata.io import read_elem

from pyro_omics.data.anndata_io.reading import checked_path
from pyro_omics.data.blocks import Blocks
from pyro_omics.data.matrices.count_checks import check_layer, check_shape, matrix_of, name_of, raise_not_counts
from pyro_omics.data.matrices.disk import MatrixFile, StoredMatrix

ON_DISK = (CSRDataset, CSCDataset, h5py.Dataset, zarr.Array)
TABLES = ("obs", "var", "obsm", "varm", "uns")  # parts that are read into memory


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
        self.others = {fix: MatrixFile(other, "") for fix, other in others.items() if _is_stored_by_rows(other)}
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
        summary, totals = self.source.summarize(columns)
        if (problem := summary.problem()) is not None:
            fitting = [fix for fix, other in self.others.items() if other.first_summary().problem() is None]
            raise_not_counts(self.layer, problem, fitting[0] if fitting else "")
        self._checked = columns, totals

    def matrix(self, columns: np.ndarray | None) -> StoredMatrix:
        """The counts of the genes at these positions; of all genes for None."""
        known, totals = self._checked
        same = columns is known is None or (
            columns is not None and known is not None and np.array_equal(columns, known)
        )
        return StoredMatrix(self.source, columns, totals if same else None)


def open_backed(adata: Any, layer: str | None, backed: bool | Blocks) -> tuple[AnnData, BackedCounts] | None:
    """The tables of an AnnData and its counts on disk; None if the counts are in memory or are to be read into it.

    Raises
    ------
    FileNotFoundError, ValueError
        If the path does not exist or holds no AnnData, or ``backed`` is given for counts in memory.
    """
    if not isinstance(backed, bool | Blocks):
        raise ValueError(f"backed must be True, False or data.Blocks(size, number); got {backed!r}")
    if isinstance(adata, str | Path) and backed:
        path = checked_path(adata)
        if path.suffix == ".h5mu":
            raise ValueError(
                f"adata={str(adata)!r} is a MuData, which cannot stay on disk: write its RNA as an AnnData, with the "
                "proteins in obsm (data.from_mudata(mdata).write_h5ad(path))"
            )
        return _open_path(path, layer)
    if not isinstance(adata, AnnData):
        if backed:
            raise ValueError(
                f"adata must be the path of a .h5ad file or .zarr store, or a backed AnnData, where backed={backed!r}"
            )
        return None
    if adata.isbacked:
        if adata.is_view:
            raise ValueError(
                "adata must not be a view of a backed AnnData: pass the whole AnnData (validation_indices and "
                "gene_mask choose cells and genes), or adata.to_memory()"
            )
        with _open(Path(adata.filename)) as file:
            return _tables({name: getattr(adata, name) for name in TABLES}), _backed_counts(file, layer)
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
    return _tables({name: getattr(adata, name) for name in TABLES}), BackedCounts(node, layer, {})


def _open_path(path: Path, layer: str | None) -> tuple[AnnData, BackedCounts]:
    try:
        with _open(path) as file:
            found = _tables({name: read_elem(file[name]) for name in TABLES if name in file})
    except Exception as error:  # each reader raises errors of its own on files of another format
        raise ValueError(f"adata={str(path)!r} could not be read as an AnnData ({error})") from error
    with _open(path) as file:
        return found, _backed_counts(file, layer)


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    if path.suffix == ".zarr":
        yield zarr.open_group(str(path), mode="r")
        return
    with h5py.File(path, "r") as file:
        yield file


def _tables(parts: dict[str, Any]) -> AnnData:
    """An AnnData of these tables, without counts."""
    return AnnData(obs=parts.pop("obs"), var=parts.pop("var"), **{name: dict(part) for name, part in parts.items()})


def _backed_counts(file: Any, layer: str | None) -> BackedCounts:
    layers = {name: file["layers"][name] for name in list(file["layers"].keys())} if "layers" in file else {}
    check_layer(layer, "X" in file, layers)
    others = {f"This one looks like counts: layer={name!r}": node for name, node in layers.items() if name != layer}
    if layer is not None and "X" in file:
        others["This one looks like counts: layer=None (adata.X)"] = file["X"]
    if "raw" in file and "X" in file["raw"]:
        others["adata.raw looks like counts: write adata.raw.to_adata() to a file of its own"] = file["raw"]["X"]
    return BackedCounts(file["X"] if layer is None else layers[layer], layer, others)


def _is_stored_by_rows(node: Any) -> bool:
    return hasattr(node, "dtype") or "csr" in str(dict(node.attrs))
