"""MuData: its RNA and proteins joined in one AnnData, from memory, and from files and stores."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.io import read_elem

from pyro_omics.data.anndata_io.loaded import element
from pyro_omics.data.anndata_io.stores import TABLES
from pyro_omics.data.matrices.containers import dense
from pyro_omics.data.matrices.count_checks import CountSummary
from pyro_omics.data.names import check_axis_names, same_but_for_blanks

PROTEINS = "protein_counts"
# Names of modalities, in lower case, of which the first that a MuData has is taken; "_", "-" and blanks are alike.
RNA = ("rna", "gex", "gene expression")
PROTEIN = ("prot", "protein", "proteins", "adt", "cite", "antibody capture")


def from_mudata(
    mdata: Any, rna: str | None = None, protein: str | None = None, protein_layer: str | None = None
) -> AnnData:
    """Join the RNA and proteins of a MuData in one AnnData, with the proteins in ``obsm["protein_counts"]``.

    Its cells are those of the RNA; proteins are matched by the cells' names. Cells that the protein modality lacks have
    NaN there, which means "not measured".

    Parameters
    ----------
    mdata
        a ``mudata.MuData`` whose modalities share their cells.
    rna, protein
        names of its modalities. None takes the modality that is called "rna", "gex" or "Gene Expression", and for
        proteins "prot", "protein", "proteins", "adt", "cite" or "Antibody Capture", in any case; without such a protein
        modality, the AnnData has no proteins.
    protein_layer
        the layer of the protein modality with the counts; None for its X.

    Returns
    -------
    A new AnnData, which shares its matrices with the MuData; its obs has the columns of the RNA's obs, then those of
    ``mdata.obs``.

    Raises
    ------
    ValueError
        If there is no modality or layer of that name, modalities share genes instead of cells (``axis=1``) or have no
        cell in common, the proteins are not counts, or names of cells, genes or proteins are missing or not unique.
    """
    check_axis(getattr(mdata, "axis", 0))
    rna, protein = modalities(mdata.mod, rna, protein)
    cells = mdata.mod[rna]
    adata = AnnData(
        _layer(cells, None, "adata.X"),
        obs=cells.obs.copy(),
        var=cells.var.copy(),
        layers={name: _layer(cells, name, f"adata.layers[{name!r}]") for name in cells.layers},
        obsm=dict(cells.obsm),
    )
    return joined(adata, mdata.obs, None if protein is None else mdata.mod[protein], protein, protein_layer)


def read_multimodal(root: Any, layer: str | None, with_counts: bool = True) -> tuple[AnnData, str]:
    """The RNA and proteins of a MuData in a file, joined in one AnnData, and the name of the RNA's modality.

    Parameters
    ----------
    root
        root group.
    layer
        the layer with the counts; of the proteins too, if they have it.
    with_counts
        whether to read the matrices of the RNA; its tables are always read.

    Raises
    ------
    ValueError
        As `from_mudata`.
    """
    check_axis(root.attrs.get("axis", 0))
    groups = {name: root["mod"][name] for name in root["mod"]}
    rna, protein = modalities(groups, None, None)
    names = (*TABLES, "X", "layers") if with_counts else TABLES
    adata = _read(groups[rna], names)
    obs = read_elem(root["obs"]) if "obs" in root else pd.DataFrame(index=adata.obs_names)
    table = None if protein is None else _read(groups[protein], ("obs", "var", "X", "layers"))
    return joined(adata, obs, table, protein, layer_of(table, layer)), rna


def _read(group: Any, names: Iterable[str]) -> AnnData:
    parts = {name: read_elem(group[name]) for name in names if name in group}
    return AnnData(**{name: part if name in ("X", "obs", "var") else dict(part) for name, part in parts.items()})


def layer_of(table: AnnData | None, layer: str | None) -> str | None:
    """The layer with the counts of proteins: that of the RNA, if the proteins have it."""
    return layer if table is not None and layer in table.layers else None


def check_axis(axis: int) -> None:
    """Raise a ValueError for a MuData whose modalities share genes."""
    if int(axis) == 1:
        raise ValueError(
            "adata must be a MuData whose modalities share their cells (axis=0); got axis=1, modalities that share "
            "their genes, as two samples do: join them, anndata.concat(dict(mdata.mod), label='sample', "
            "index_unique='-')"
        )


def modalities(found: Iterable[str], rna: str | None, protein: str | None) -> tuple[str, str | None]:
    """Names of the RNA and of the proteins among a MuData's modalities; None of the proteins if there are none.

    Raises
    ------
    ValueError
        If there is no modality of the name, or none is called as RNA usually is.
    """
    names = list(found)
    rna = rna if rna is not None else _first(names, RNA)
    if rna not in names:
        raise ValueError(
            f"rna must be a modality of the MuData, {names}; got {'rna' if rna is None else rna!r}: pass the names, "
            "CellDataModule(data.from_mudata(mdata, rna=..., protein=...), protein_obsm_key='protein_counts')"
        )
    if protein is not None and protein not in names:
        raise ValueError(f"protein must be a modality of the MuData, {names}; got {protein!r}")
    return rna, protein if protein is not None else _first([name for name in names if name != rna], PROTEIN)


def _first(names: list[str], usual: tuple[str, ...]) -> str | None:
    """The name that is the first of the ``usual`` ones, in any case.

    Raises
    ------
    ValueError
        If two names differ only in case, blanks, "_" or "-".
    """
    for one in usual:
        fitting = [name for name in names if re.sub(r"[\s_-]+", " ", name).strip().lower() == one]
        if len(fitting) > 1:
            raise ValueError(
                f"the MuData has the modalities {fitting}: pass one, data.from_mudata(mdata, rna=..., protein=...)"
            )
        if fitting:
            return fitting[0]
    return None


def joined(adata: AnnData, obs: pd.DataFrame, table: AnnData | None, protein: str | None, layer: str | None) -> AnnData:
    """Fill in the columns of a MuData's obs and the counts of its proteins.

    Parameters
    ----------
    adata
        the RNA, which is changed.
    obs
        the MuData's obs.
    table
        the proteins; None without.
    protein
        name of the proteins' modality, for errors.
    layer
        the layer with their counts; None for X.

    Raises
    ------
    ValueError
        As `from_mudata`.
    """
    check_axis_names(adata)
    for name in obs.columns.difference(adata.obs.columns, sort=False):
        adata.obs[name] = obs[name].reindex(adata.obs_names)
    if table is None:
        return adata
    check_axis_names(table, f"mdata.mod[{protein!r}]")
    _check_cells(adata.obs_names, table.obs_names, protein)
    counts = pd.DataFrame(_protein_counts(table, protein, layer), index=table.obs_names, columns=table.var_names)
    adata.obsm[PROTEINS] = counts.reindex(adata.obs_names)
    return adata


def _check_cells(cells: pd.Index, others: pd.Index, protein: str | None) -> None:
    missing = cells.difference(others)
    if twins := same_but_for_blanks(missing, others.difference(cells)):
        raise ValueError(
            f"the modality {protein!r} must have the cells' names; got {twins[1]!r} for {twins[0]!r}, which differ in "
            "blanks: use obs_names.str.strip()"
        )
    if len(missing) == len(cells):
        seen = f"got none of them, but {others[0]!r} and others" if len(others) else "got no cells at all"
        raise ValueError(
            f"the modality {protein!r} must have cells of the RNA, such as {cells[0]!r}; {seen}: rename its obs_names"
        )


def _protein_counts(table: AnnData, protein: str | None, layer: str | None) -> np.ndarray:
    """Counts of the proteins, (n, t), NaN where masked."""
    if layer is not None and layer not in table.layers:
        raise ValueError(f"protein_layer must be a layer of {protein!r}, {list(table.layers)}; got {layer!r}")
    name = f"mdata.mod[{protein!r}].{'X' if layer is None else f'layers[{layer!r}]'}"
    found = _layer(table, layer, name)
    if found is None:
        raise ValueError(f"{name} is empty: pass protein_layer, of {list(table.layers)}")
    counts = dense(found, name, masked="nan")
    if problem := _problem(counts):
        fitting = [repr(other) for other in table.layers if other != layer and _fits(table.layers[other])]
        fix = "Pass the raw counts, before any normalisation"
        if fitting:
            fix = (
                f"This one looks like counts: CellDataModule(data.from_mudata(mdata, protein_layer={fitting[0]}), "
                f"protein_obsm_key={PROTEINS!r})"
            )
        raise ValueError(f"{name} does not hold counts: {problem}. {fix}")
    return counts


def _layer(adata: AnnData, layer: str | None, name: str) -> Any:
    return element(adata, lambda one: one.X if layer is None else one.layers[layer], name, has_columns=True)


def _problem(counts: np.ndarray) -> str | None:
    measured = counts[~np.isnan(counts)] if counts.dtype.kind == "f" else counts
    return CountSummary().add(measured).problem() if measured.any() else None  # zeros are checked with the batches


def _fits(matrix: Any) -> bool:
    try:
        return _problem(dense(matrix, "", masked="nan")) is None
    except ValueError:
        return False
