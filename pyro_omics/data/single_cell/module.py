"""`CellDataModule`: minibatches of cells from an AnnData."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from pyro_omics.batch import CellBatch
from pyro_omics.data.anndata_io import obs_columns
from pyro_omics.data.anndata_io.backed import BackedCounts, open_data
from pyro_omics.data.anndata_io.reading import masked_genes
from pyro_omics.data.blocks import Blocks
from pyro_omics.data.module import RowDataModule, RowTensors, digest
from pyro_omics.data.names import check_axis_names, check_one_name, list_of, same_but_for_blanks
from pyro_omics.data.single_cell.feature_types import check_feature_types
from pyro_omics.data.single_cell.proteins import ProteinTable, check_training_proteins, initial_background
from pyro_omics.data.splits import split_rows
from pyro_omics.schema import CellSchema
from pyro_omics.sizes import Sizes


class CellDataModule(RowDataModule):
    """DataModule of minibatches of cells from an AnnData, which is read once and never changed.

    Parameters
    ----------
    adata
        AnnData, MuData with the modalities "rna" and "prot" (or as `data.from_mudata` knows them, which takes others
        too), or the path of a .h5ad or .h5mu file or a .zarr store.
    layer
        the layer with the counts; None for X. Of a MuData's proteins too, if they have a layer of this name.
    batch_key
        column of obs: the batch.
    label_key
        column of obs: a label, by which dispersions can be shared.
    categorical_keys
        columns of obs: further categorical covariates.
    continuous_keys
        columns of obs: continuous covariates, which are not rescaled.
    size_factor_key
        column of obs: a known library size, in counts, for `library_sizes.SizeFactor`.
    gene_mask
        the genes to model: a boolean column of var (``"highly_variable"``), or booleans (n_vars,); a Series is matched
        by name.
    protein_obsm_key
        entry of obsm with protein counts, a DataFrame or a matrix (n, t), for `TotalVI`. NaN means not measured, as do
        zeros in all cells of a batch. Not needed for a MuData with a protein modality.
    protein_mask
        which protein counts were measured: booleans (n, t) or (n,) (a DataFrame or Series is matched by name), the name
        of an entry of obsm with such booleans, or the name of a boolean column of obs, for all proteins of a cell.
        Masked entries of the counts are not measured either.
    batch_size
        rows in a minibatch.
    validation_size
        share of the rows to hold out, drawn with ``seed``; 0 for none.
    validation_indices
        positions of the rows to hold out, instead of ``validation_size``.
    seed
        seed of the split and of the order of the training rows.
    num_workers
        number of worker processes of the loaders.
    backed
        True, or `data.Blocks` to set sizes, leaves the counts at a path on disk, for data larger than memory. They are
        read during training in blocks of neighbouring rows that are shuffled together (see `Blocks`), and checked once,
        in one pass over the file. The counts of a backed AnnData always stay on disk. Tables (obs, var, obsm) are in
        memory. The file is not written to; within this process, a .h5ad file cannot be written until the DataModule is
        deleted (``del dm``).

    Attributes
    ----------
    adata
        the AnnData; only its tables where the counts are on disk.
    n_obs
        number of training rows.
    n_genes
        number of modelled genes.
    sizes
        `sizes.Sizes`.
    schema
        `schema.CellSchema`: the names of genes and proteins, and the levels of each covariate.

    Raises
    ------
    ValueError, FileNotFoundError
        If the matrix does not hold counts, the data lack what an argument names, or columns of several feature types,
        as 10x's matrices have them, would be modelled as genes.
    """

    schema: CellSchema
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
        check_one_name(
            layer=layer,
            batch_key=batch_key,
            label_key=label_key,
            size_factor_key=size_factor_key,
            protein_obsm_key=protein_obsm_key,
        )
        self.adata, self.counts, mudata_proteins = open_data(adata, layer, backed)
        if isinstance(self.counts, BackedCounts):
            self.blocks = backed if isinstance(backed, Blocks) else Blocks()
        self.layer = layer
        genes = masked_genes(self.adata, gene_mask)
        check_feature_types(self.adata, genes)
        check_axis_names(self.adata)
        self.proteins = ProteinTable.read(self.adata, protein_obsm_key or mudata_proteins, protein_mask)
        categorical = tuple(list_of("categorical_keys", categorical_keys, self.adata.obs.columns))
        continuous = tuple(list_of("continuous_keys", continuous_keys, self.adata.obs.columns))
        self.keys: dict[str, Any] = {
            "batch_key": batch_key,
            "label_key": label_key,
            "categorical_keys": categorical,
            "continuous_keys": continuous,
            "size_factor_key": size_factor_key,
        }
        self.counts.check(genes)
        self.split = split_rows(self.adata.n_obs, validation_size, validation_indices, seed)
        self.n_obs = len(self.split.training)
        self.schema = CellSchema(
            training_digest=digest(self.adata.obs_names[self.split.training.numpy()]),
            genes=tuple(map(str, self.adata.var_names[genes])),
            batches=self._levels("batch_key", batch_key),
            labels=self._levels("label_key", label_key),
            categorical=categorical,
            categories=tuple(self._levels("categorical_keys", key) for key in categorical),
            continuous=continuous,
            proteins=() if self.proteins is None else tuple(self.proteins.names),
        )
        self.data = self._tensors(self.schema)
        self.schema = replace(self.schema, panels=self._panels())

    # Sizes ----------------------------------------------------------------------------------------------------------

    @property
    def n_genes(self) -> int:
        """Number of modelled genes."""
        return len(self.schema.genes)

    @functools.cached_property
    def sizes(self) -> Sizes:
        """Sizes and moments of the data that a model is made with.

        Warns
        -----
        UserWarning
            For a column with one level only. Data that are aligned to a trained model may have one level of many.
        """
        self._warn_of_single_levels()
        n_batches = len(self.schema.batches)
        cells, background = self._protein_sizes(n_batches)
        return self.schema.sizes(
            self.n_obs,
            log_library=self._log_library(n_batches),
            protein_cells=cells,
            protein_background=background,
        )

    def _warn_of_single_levels(self) -> None:
        levels = [("batch_key", self.keys["batch_key"], self.schema.batches)]
        levels.append(("label_key", self.keys["label_key"], self.schema.labels))
        named = zip(self.schema.categorical, self.schema.categories, strict=True)
        for argument, key, of_key in (*levels, *(("categorical_keys", *pair) for pair in named)):
            obs_columns.warn_of_one_level(argument, key, of_key)

    def _protein_sizes(self, n_batches: int) -> tuple[Any, Any]:
        y, measured, code = (self.data.fields[name] for name in ("y", "measured", "batch"))
        if y is None:
            return (), ()
        rows = self.split.training if len(self.split.training) else self.split.validation
        if len(self.split.training):
            check_training_proteins(list(self.schema.proteins), y[rows], None if measured is None else measured[rows])
        codes = torch.zeros(len(rows), dtype=torch.long) if code is None else code[rows]
        return initial_background(y[rows], None if measured is None else measured[rows], codes, n_batches)

    def _panels(self) -> tuple[tuple[str, ...], ...]:
        """The proteins that each batch measured, in any of its cells."""
        y, measured, code = (self.data.fields[name] for name in ("y", "measured", "batch"))
        if y is None:
            return ()
        seen = torch.ones_like(y, dtype=torch.bool) if measured is None else measured
        codes = torch.zeros(len(y), dtype=torch.long) if code is None else code
        return tuple(
            tuple(name for name, any_ in zip(self.schema.proteins, seen[codes == b].any(0), strict=True) if any_)
            for b in range(len(self.schema.batches))
        )

    def _log_library(self, n_batches: int) -> tuple[tuple[float, float], ...]:
        # Data aligned to a trained model have no training rows; its weights then replace these moments.
        rows = self.split.training if len(self.split.training) else self.split.validation
        log_total = self.data.counts.totals[rows].clamp(min=1).log()
        code = self.data.fields["batch"]
        of_batch = torch.zeros(len(rows), dtype=torch.long) if code is None else code[rows]
        moments = []
        for b in range(n_batches):
            # A batch whose cells are all held out gets the moments of all training cells.
            values = log_total[of_batch == b] if (of_batch == b).any() else log_total
            moments.append((float(values.mean()), float(values.var(correction=0))))
        return tuple(moments)

    # Reading the AnnData --------------------------------------------------------------------------------------------

    def _levels(self, argument: str, key: str | None) -> tuple[str, ...]:
        return ("all",) if key is None else tuple(obs_columns.categories(self.adata.obs, argument, key))

    def _tensors(self, schema: CellSchema) -> CellTensors:
        obs, fields = self.adata.obs, dict[str, Tensor | None]()
        fields["batch"] = self._codes("batch_key", self.keys["batch_key"], schema.batches)
        fields["label"] = self._codes("label_key", self.keys["label_key"], schema.labels)
        fields["categorical"] = self._categorical(schema)
        continuous, size_factor = self.keys["continuous_keys"], self.keys["size_factor_key"]
        fields["continuous"] = _numbers(obs, "continuous_keys", continuous) if continuous else None
        fields["size_factor"] = _numbers(obs, "size_factor_key", [size_factor]) if size_factor else None
        if fields["size_factor"] is not None and (fields["size_factor"] <= 0).any():
            raise ValueError(
                f"size_factor_key={size_factor!r} must be library sizes, above 0; got values of 0 or below"
            )
        fields["y"], fields["measured"] = self._protein_tensors(schema, fields["batch"])
        position = self.adata.var_names.astype(str).get_indexer(list(schema.genes))
        whole = len(position) == self.adata.n_vars and (np.diff(position) == 1).all()
        return CellTensors(self.counts.matrix(None if whole else position), fields, self.split.index)

    def _codes(self, argument: str, key: str | None, levels: tuple[str, ...]) -> Tensor | None:
        """Codes (n,) of a covariate's levels; None for a single level."""
        if len(levels) == 1:
            return None
        return torch.from_numpy(obs_columns.codes(self.adata.obs, argument, str(key), list(levels)))

    def _categorical(self, schema: CellSchema) -> Tensor | None:
        """Codes (n, c) of the further categorical covariates, 0 for a covariate with a single level."""
        named = zip(schema.categorical, schema.categories, strict=True)
        codes = [self._codes("categorical_keys", key, levels) for key, levels in named]
        zeros = torch.zeros(self.adata.n_obs, dtype=torch.long)
        return torch.stack([zeros if code is None else code for code in codes], 1) if codes else None

    def _protein_tensors(self, schema: CellSchema, codes: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        if not schema.proteins:
            return None, None
        table = self.proteins or ProteinTable.missing(schema.proteins, self.adata.n_obs)
        panels = dict(zip(schema.batches, schema.panels, strict=True)) if schema.panels else {}
        return table.tensors(list(schema.proteins), codes, schema.batches, panels)

    def aligned(self, schema: CellSchema) -> CellTensors:
        """All rows, with genes and levels matched by name to those of another ``schema``, in its order.

        Raises
        ------
        ValueError
            If genes or covariates of the schema are missing here, or levels occur that are not in the schema.
        """
        missing = sorted(set(schema.genes) - set(map(str, self.adata.var_names)))
        if missing:
            twins = same_but_for_blanks(missing, self.adata.var_names)
            seen = f" ({twins[0]!r} is {twins[1]!r} here, which differs in blanks)" if twins else ""
            raise ValueError(
                f"{len(missing)} of the model's {len(schema.genes)} genes are not in adata.var_names, such as "
                f"{missing[:3]}{seen}: these data have another annotation, or were filtered; pass data with all its "
                "genes"
            )
        self._check_covariate("batch", "batch_key", schema.batches, self.keys["batch_key"] is not None)
        self._check_covariate("label", "label_key", schema.labels, self.keys["label_key"] is not None)
        for key, levels in zip(schema.categorical, schema.categories, strict=True):
            self._check_covariate(
                f"categorical {key}", "categorical_keys", levels, key in self.keys["categorical_keys"]
            )
        if schema.continuous != self.schema.continuous:
            raise ValueError(
                f"continuous_keys must be those that the model was trained with, {list(schema.continuous)}; got "
                f"{list(self.schema.continuous)} in this CellDataModule"
            )
        return self._tensors(schema)

    def _check_covariate(self, name: str, argument: str, levels: tuple[str, ...], has_column: bool) -> None:
        if len(levels) > 1 and not has_column:
            raise ValueError(
                f"the model was trained with a {name} of levels {list(levels)}, and this CellDataModule has no column "
                f"for it: pass {argument} to CellDataModule"
            )


class CellTensors(RowTensors[CellBatch]):
    """Dataset of minibatches of cells.

    Parameters
    ----------
    counts
        count matrix (n, g).
    fields
        the other fields of `batch.CellBatch`, over all rows.
    index
        (n,) the rows' numbers, see `batch.CellBatch`.
    """

    def batch(self, at: Tensor, x: Tensor) -> CellBatch:
        """The minibatch of the rows at these positions (n,), whose counts are x (n, g)."""
        at = at.to(self.index.device, non_blocking=True)
        fields = {name: None if field is None else field[at] for name, field in self.fields.items()}
        return CellBatch(x=x, row=at, index=self.index[at], **fields)


def _numbers(obs: Any, argument: str, keys: Sequence[str]) -> Tensor:
    return torch.from_numpy(obs_columns.numbers(obs, argument, keys))
