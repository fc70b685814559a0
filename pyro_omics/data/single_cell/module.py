"""`CellDataModule`: AnnData in, minibatches of tensors out."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from pyro_omics.batch import CellBatch
from pyro_omics.data.anndata_io import obs_columns
from pyro_omics.data.anndata_io.backed import Stored, opened
from pyro_omics.data.anndata_io.reading import check_keys, check_names, masked_genes, read
from pyro_omics.data.blocks import Blocks
from pyro_omics.data.matrices.count_checks import check_counts, matrix_of
from pyro_omics.data.matrices.disk import StoredMatrix
from pyro_omics.data.matrices.memory import CountMatrix
from pyro_omics.data.module import RowDataModule, RowTensors, digest
from pyro_omics.data.single_cell.proteins import ProteinTable, background_start, check_training
from pyro_omics.data.splits import split_rows
from pyro_omics.sizes import Sizes

ARGUMENTS = {"batch": "batch_key", "label": "label_key", "categorical": "categorical_keys"}


class CellDataModule(RowDataModule):
    """Minibatches of cells from an AnnData, which is read once and never changed.

    Parameters
    ----------
    adata
        AnnData, MuData with the modalities "rna" and "prot" (`data.from_mudata` for others), or the path of a .h5ad or
        .h5mu file or a .zarr store.
    layer
        the layer with the counts; None for X.
    batch_key
        column of obs: the batch.
    label_key
        column of obs: a label that dispersions can be shared by.
    categorical_keys
        columns of obs: further categorical covariates.
    continuous_keys
        columns of obs: continuous covariates, used as they are.
    size_factor_key
        column of obs: a given library size, in counts, for `library_sizes.SizeFactor`.
    gene_mask
        boolean column of var (``"highly_variable"``), or booleans (n_vars,): the genes to model.
    protein_obsm_key
        entry of obsm with protein counts, a DataFrame or a matrix (n, t), for `TotalVI`. NaN, and proteins that are
        zero in all cells of a batch, count as not measured. A MuData's protein modality is taken by itself.
    protein_mask
        which of them were measured: the name of an entry of obsm with booleans (n, t), the booleans (matched by name
        in a DataFrame), or the name of a boolean column of obs, for all proteins of a cell.
    batch_size
        rows in a minibatch.
    validation_size
        share of the rows held out, drawn with ``seed``; 0 for none.
    validation_indices
        the rows held out, as positions, instead.
    seed
        of the split and of the order of the training rows.
    num_workers
        worker processes of the loaders.
    backed
        True, or `data.Blocks` with other sizes, leaves the counts of a path on disk, for data larger than memory: they
        are read as they are trained on, in blocks of neighbouring rows that are shuffled together, and checked once, in
        one pass over the file. A backed AnnData's stay there anyway. Tables (obs, var, obsm) are in memory; the file is
        not written to, and a .h5ad file cannot be by others of this process while the DataModule reads it (``del dm``).
        `Blocks` says how rows are shuffled then.

    Attributes
    ----------
    adata
        the AnnData; where the counts are on disk, its tables alone.
    n_obs
        number of training rows.
    n_genes
        number of genes modelled.
    sizes
        `sizes.Sizes`.
    schema
        the data's description: gene names, and the levels of each covariate.

    Raises
    ------
    ValueError, FileNotFoundError
        For data that are no counts, or do not have what an argument names: before any training.
    """

    sizes_type = Sizes

    def __init__(
        self,
        adata: AnnData | Any | str | Path,
        layer: str | None = None,
        batch_key: str | None = None,
        label_key: str | None = None,
        categorical_keys: Sequence[str] = (),
        continuous_keys: Sequence[str] = (),
        size_factor_key: str | None = None,
        gene_mask: str | Sequence[bool] | None = None,
        protein_obsm_key: str | None = None,
        protein_mask: Any = None,
        batch_size: int = 128,
        validation_size: float = 0.1,
        validation_indices: Sequence[int] | None = None,
        seed: int = 0,
        num_workers: int = 0,
        backed: bool | Blocks = False,
    ) -> None:
        super().__init__(batch_size, seed, num_workers)
        check_keys(
            {
                "layer": layer,
                "batch_key": batch_key,
                "label_key": label_key,
                "size_factor_key": size_factor_key,
                "protein_obsm_key": protein_obsm_key,
            },
            {"categorical_keys": categorical_keys, "continuous_keys": continuous_keys},
        )
        on_disk = opened(adata, layer, backed)
        self.stored: Stored | None = None
        of_mudata: str | None = None
        if on_disk is None:
            self.adata, of_mudata = read(adata)
        else:
            self.adata, self.stored = on_disk
            self.blocks = backed if isinstance(backed, Blocks) else Blocks()
        self.proteins = ProteinTable.read(self.adata, protein_obsm_key or of_mudata, protein_mask)
        self.layer = layer
        self.keys: dict[str, Any] = {
            "batch_key": batch_key,
            "label_key": label_key,
            "categorical_keys": tuple(categorical_keys),
            "continuous_keys": tuple(continuous_keys),
            "size_factor_key": size_factor_key,
        }
        check_names(self.adata)
        genes = masked_genes(self.adata, gene_mask)
        if self.stored is None:
            check_counts(self.adata, layer)
        else:
            self.stored.check(genes)
        self.split = split_rows(self.adata.n_obs, validation_size, validation_indices, seed)
        self.schema: dict[str, Any] = {
            "genes": list(self.adata.var_names[genes]),
            "levels": self._levels(),
            "continuous": list(continuous_keys),
            "proteins": [] if self.proteins is None else self.proteins.names,
            "training cells": digest(self.adata.obs_names[self.split.training.numpy()]),
        }
        self.n_obs = len(self.split.training)
        self.data = self._tensors(self.schema)
        self.schema["panels"] = self._panels()

    # Sizes ----------------------------------------------------------------------------------------------------------

    @property
    def n_genes(self) -> int:
        """Number of genes modelled."""
        return len(self.schema["genes"])

    @functools.cached_property
    def sizes(self) -> Sizes:
        """What a model must know of these data before it is made."""
        levels = self.schema["levels"]
        cells, background = self._protein_sizes(len(levels["batch"]))
        return Sizes(
            n_obs=self.n_obs,
            n_genes=self.n_genes,
            n_batches=len(levels["batch"]),
            n_labels=len(levels["label"]),
            n_categories=tuple(len(n) for name, n in levels.items() if name.startswith("categorical ")),
            n_continuous=len(self.schema["continuous"]),
            log_library=self._log_library(len(levels["batch"])),
            n_proteins=len(self.schema["proteins"]),
            protein_cells=cells,
            protein_background=background,
        )

    def _protein_sizes(self, n_batches: int) -> tuple[Any, Any]:
        y, measured, code = (self.data.fields[name] for name in ("y", "measured", "batch"))
        if y is None:
            return (), ()
        rows = self.split.training if len(self.split.training) else self.split.validation
        if len(self.split.training):
            check_training(self.schema["proteins"], y[rows], None if measured is None else measured[rows])
        codes = torch.zeros(len(rows), dtype=torch.long) if code is None else code[rows]
        return background_start(y[rows], None if measured is None else measured[rows], codes, n_batches)

    def _panels(self) -> dict[str, list[str]]:
        """The proteins that each batch measured, in any of its cells."""
        y, measured, code = (self.data.fields[name] for name in ("y", "measured", "batch"))
        if y is None:
            return {}
        seen = torch.ones_like(y, dtype=torch.bool) if measured is None else measured
        codes = torch.zeros(len(y), dtype=torch.long) if code is None else code
        return {
            batch: [name for name, any_ in zip(self.schema["proteins"], seen[codes == b].any(0), strict=True) if any_]
            for b, batch in enumerate(self.schema["levels"]["batch"])
        }

    def _log_library(self, n_batches: int) -> tuple[tuple[float, float], ...]:
        # Adopted data have no training rows; the model's own moments then come with its weights.
        rows = self.split.training if len(self.split.training) else self.split.validation
        log_total = self.data.counts.totals[rows].clamp(min=1).log()
        code = self.data.fields["batch"]
        of_batch = torch.zeros(len(rows), dtype=torch.long) if code is None else code[rows]
        moments = []
        for b in range(n_batches):
            # A batch whose cells were all held out borrows the moments of the rest.
            mine = log_total[of_batch == b] if (of_batch == b).any() else log_total
            moments.append((float(mine.mean()), float(mine.var(correction=0))))
        return tuple(moments)

    # Reading the AnnData --------------------------------------------------------------------------------------------

    def _category_names(self) -> list[str]:
        return [f"categorical {key}" for key in self.keys["categorical_keys"]]

    def _named_columns(self) -> dict[str, tuple[str, str | None]]:
        """Schema name -> (argument, column of obs)."""
        named = {"batch": ("batch_key", self.keys["batch_key"]), "label": ("label_key", self.keys["label_key"])}
        for name, key in zip(self._category_names(), self.keys["categorical_keys"], strict=True):
            named[name] = ("categorical_keys", key)
        return named

    def _levels(self) -> dict[str, list[str]]:
        levels = {}
        for name, (argument, key) in self._named_columns().items():
            levels[name] = ["all"] if key is None else obs_columns.categories(self.adata.obs, argument, key)
        return levels

    def _tensors(self, schema: dict[str, Any]) -> CellTensors:
        obs, fields = self.adata.obs, dict[str, Tensor | None]()
        named = self._named_columns()
        for name, levels in schema["levels"].items():
            if len(levels) == 1:
                fields[name] = None
            else:
                argument, key = named[name]
                fields[name] = torch.from_numpy(obs_columns.codes(obs, argument, str(key), levels))
        names = [name for name in schema["levels"] if name.startswith("categorical ")]
        zeros = torch.zeros(self.adata.n_obs, dtype=torch.long)
        stacked = [zeros if (code := fields.pop(name)) is None else code for name in names]
        fields["categorical"] = torch.stack(stacked, 1) if names else None
        continuous, size_factor = self.keys["continuous_keys"], self.keys["size_factor_key"]
        fields["continuous"] = _numbers(obs, "continuous_keys", continuous) if continuous else None
        fields["size_factor"] = _numbers(obs, "size_factor_key", [size_factor]) if size_factor else None
        if fields["size_factor"] is not None and (fields["size_factor"] <= 0).any():
            raise ValueError(f"size_factor_key={size_factor!r} has values of 0 or below: library sizes are positive")
        table = self.proteins
        if schema["proteins"] and table is None:
            table = ProteinTable.missing(schema["proteins"], self.adata.n_obs)
        if table is not None and schema["proteins"]:
            batches = schema["levels"]["batch"]
            panels = schema.get("panels")
            fields["y"], fields["measured"] = table.tensors(schema["proteins"], fields["batch"], batches, panels)
        else:
            fields["y"] = fields["measured"] = None
        position = self.adata.var_names.get_indexer(schema["genes"])
        whole = len(position) == self.adata.n_vars and (np.diff(position) == 1).all()
        return CellTensors(self._counts(None if whole else position), fields, self.split.index)

    def _counts(self, position: np.ndarray | None) -> CountMatrix | StoredMatrix:
        """The counts of the genes at these positions, or of all."""
        if self.stored is not None:
            return self.stored.matrix(position)
        matrix = matrix_of(self.adata, self.layer)
        return CountMatrix(matrix if position is None else matrix[:, position])

    def aligned(self, schema: dict[str, Any]) -> CellTensors:
        """All rows as a model of another ``schema`` must see them: its genes in its order, its levels, by name.

        Raises
        ------
        ValueError
            Where genes or covariates of the schema are missing here, or levels occur that it does not know.
        """
        missing = sorted(set(schema["genes"]) - set(self.adata.var_names))
        if missing:
            raise ValueError(
                f"{len(missing)} of the model's {len(schema['genes'])} genes are not in adata.var_names, such as "
                f"{missing[:3]}: these data are of another annotation, or were filtered; give them all its genes"
            )
        for name, levels in schema["levels"].items():
            if len(levels) > 1 and self._named_columns().get(name, ("", None))[1] is None:
                raise ValueError(
                    f"the model was trained with a {name} of levels {levels}, and this CellDataModule names no "
                    f"column for it: pass {ARGUMENTS[name.split()[0]]} to CellDataModule"
                )
        if schema["continuous"] != self.schema["continuous"]:
            raise ValueError(
                f"the model was trained with continuous_keys={schema['continuous']}, and this CellDataModule has "
                f"{self.schema['continuous']}"
            )
        return self._tensors(schema)


class CellTensors(RowTensors[CellBatch]):
    """The data as tensors: whole minibatches are indexed, never the AnnData.

    Parameters
    ----------
    counts
        (n, g).
    fields
        the other fields of `batch.CellBatch`, over all rows.
    index
        (n,) see there.
    """

    def batch(self, at: Tensor, x: Tensor) -> CellBatch:
        """The minibatch of the rows at these positions (n,), whose counts are x (n, g)."""
        at = at.to(self.index.device, non_blocking=True)
        fields = {name: None if field is None else field[at] for name, field in self.fields.items()}
        return CellBatch(x=x, row=at, index=self.index[at], **fields)


def _numbers(obs: Any, argument: str, keys: Sequence[str]) -> Tensor:
    return torch.from_numpy(obs_columns.numbers(obs, argument, keys))
