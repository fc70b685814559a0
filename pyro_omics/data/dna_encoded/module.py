"""`DELDataModule`: minibatches of compounds from the counts of a DNA-encoded library."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch import Tensor

from pyro_omics.batch import DELBatch
from pyro_omics.data.anndata_io import obs_columns
from pyro_omics.data.anndata_io.loaded import LoadedCounts, element
from pyro_omics.data.anndata_io.reading import read
from pyro_omics.data.dna_encoded.building_blocks import check_duplicates, codes_of, levels_of, synthon_columns
from pyro_omics.data.matrices.containers import in_memory
from pyro_omics.data.matrices.memory import CountMatrix
from pyro_omics.data.module import RowDataModule, RowTensors, digest
from pyro_omics.data.names import check_axis_names, check_one_name, list_of, plain
from pyro_omics.data.splits import split_rows
from pyro_omics.schema import DELSchema
from pyro_omics.sizes import DELSizes

TABLES = (".csv", ".tsv", ".txt", ".gz", ".bz2", ".xz", ".csv.zip", ".tsv.zip", ".txt.zip", ".parquet")
KINDS = ("target", "control", "pre")
MAX_DEPTH_FOLD = 1.5  # a larger difference in depth means another screen, not another sample of compounds


class DELDataModule(RowDataModule):
    """DataModule of minibatches of compounds from an AnnData with a row for each compound and a column per selection.

    Parameters
    ----------
    adata
        AnnData, or the path of one (.h5ad, .zarr) or of a count table, which `read_del` reads. X has the counts (of
        unique molecules if these are known), obs the building block of each cycle, and var a column "condition".
    layer
        the layer with the counts; None for X.
    synthon_keys
        columns of obs: the building block of each cycle; None for "A", "B", "C" and so on, up to the last that exists.
    target, control, pre
        values of ``var["condition"]``: selections with the target, selections with the matrix alone, and samples from
        before the selection. The last two may be absent. Selections with other conditions are left out.
    selections
        names of the selections to use (var_names); None for all.
    feature_key
        entry of obsm: features of the compounds, such as "fingerprint", (n, d).
    pose_key
        entry of obsm: features of docked poses, (n, p, d).
    yield_keys
        columns of obs, one for each cycle: the yield, in (0, 1), of the reaction with the compound's building block.
    batch_size
        compounds in a minibatch; None for an eighth of the training compounds, at least 64 and at most 1024, so that
        an epoch of a small library has more than one step.
    validation_size
        share of the compounds to hold out, drawn with ``seed``; by default none, since the enrichment of every compound
        is of interest.
    validation_indices
        positions of the compounds to hold out, instead of ``validation_size``.
    seed
        seed of the split and of the order of the training rows.
    num_workers
        number of worker processes of the loaders.

    Attributes
    ----------
    n_obs
        number of training rows.
    sizes
        `sizes.DELSizes`.
    schema
        `schema.DELSchema`: the names of the selections, and the building blocks of each cycle.

    Raises
    ------
    ValueError, FileNotFoundError
        If X does not hold counts, or the data lack what an argument names.

    Warns
    -----
    UserWarning
        If there is only one target selection, since noise between replicates then cannot be told from enrichment. If
        there is no control, and selections of other conditions are left out. If the data are aligned to a trained model
        whose selections were sequenced to another depth.
    """

    schema: DELSchema
    sizes_type = DELSizes

    def __init__(
        self,
        adata: AnnData | str | Path,
        layer: str | None = None,
        synthon_keys: Sequence[str] | None = None,
        target: str = "target",
        control: str = "control",
        pre: str = "pre-selection",
        selections: Sequence[str] | None = None,
        feature_key: str | None = None,
        pose_key: str | None = None,
        yield_keys: Sequence[str] | None = None,
        batch_size: int | None = None,
        validation_size: float = 0.0,
        validation_indices: Sequence[int] | None = None,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(1024 if batch_size is None else batch_size, seed, num_workers)
        check_one_name(layer=layer, feature_key=feature_key, pose_key=pose_key, target=target, control=control, pre=pre)
        yield_keys = None if yield_keys is None else list_of("yield_keys", yield_keys, repeats=True)
        self.adata, self.layer = _read(adata), layer
        self.keys: dict[str, Any] = {"feature_key": feature_key, "pose_key": pose_key, "yield_keys": yield_keys}
        self.counts = LoadedCounts(self.adata, layer, rows="compounds", columns="selections")
        self.counts.check()
        check_axis_names(self.adata)
        self.cycles = synthon_columns(self.adata, synthon_keys)
        self.conditions = dict(zip(KINDS, (target, control, pre), strict=True))
        named = _selections_by_kind(self.adata, (target, control, pre), selections)
        self.split = split_rows(self.adata.n_obs, validation_size, validation_indices, seed)
        self.schema = DELSchema(
            training_digest=digest(self.adata.obs_names[self.split.training.numpy()]),
            targets=tuple(named["target"]),
            controls=tuple(named["control"]),
            pre_selections=tuple(named["pre"]),
            cycles=self.cycles,
            synthons=tuple(tuple(levels_of(self.adata.obs, cycle)) for cycle in self.cycles),
            known_yields=yield_keys is not None,
        )
        self.n_obs = len(self.split.training)
        if batch_size is None:
            self.batch_size = min(1024, max(64, math.ceil(self.n_obs / 8)))
        self.data = self._tensors(self.schema)
        mean_counts = self.data.totals(self.split.rows("all")) / self.adata.n_obs
        self.schema = replace(self.schema, mean_counts=tuple(mean_counts.tolist()))
        check_duplicates(self.adata, self.cycles, self.data.fields["synthons"])
        self._check_selections()

    def _check_selections(self) -> None:
        totals = self.data.totals(self.split.rows("all"))
        names = list(self.schema.selections)
        if empty := [name for name, total in zip(names, totals, strict=True) if total == 0]:
            raise ValueError(
                f"the selections {empty} have no counts at all: they failed or were not sequenced; leave them out, "
                f"selections={[name for name in names if name not in empty]}"
            )
        if len(self.schema.targets) == 1:
            warnings.warn(
                f"there is one target selection, {names[0]!r}: noise between replicates cannot be told from "
                "enrichment. If counts are then taken as Poisson, intervals are too narrow and hit lists too long",
                UserWarning,
                stacklevel=3,
            )

    @functools.cached_property
    def sizes(self) -> DELSizes:
        """Sizes and depths of the data that a model is made with."""
        rows = self.split.training if len(self.split.training) else self.split.validation
        features, poses = self.data.fields["features"], self.data.fields["poses"]
        return self.schema.sizes(
            self.n_obs,
            self._depth(rows),
            n_features=0 if features is None else features.shape[-1],
            pose_shape=() if poses is None else tuple(poses.shape[1:]),
        )

    def _depth(self, rows: Tensor) -> tuple[float, ...]:
        """Mean reads of a compound in each selection: from ``var["depth"]``, or else the mean count over ``rows``."""
        names = list(self.schema.selections)
        if "depth" in self.adata.var:
            depth = self.adata.var["depth"].astype(float).loc[names].to_numpy()
            if not (np.isfinite(depth) & (depth > 0)).all():
                raise ValueError(f'adata.var["depth"] must be numbers of reads above 0; got {depth.tolist()}')
            return tuple(depth / self.adata.n_obs)
        return tuple((self.data.totals(rows) / len(rows)).tolist())

    def _tensors(self, schema: DELSchema) -> CompoundTensors:
        obs = self.adata.obs
        named = zip(schema.cycles, schema.synthons, strict=True)
        codes = [codes_of(obs, cycle, list(levels)) for cycle, levels in named]
        fields: dict[str, Any] = {"synthons": torch.from_numpy(np.stack(codes, 1)), "yields": None}
        fields["features"] = self._feature("feature_key", 2)
        fields["poses"] = self._feature("pose_key", 3)
        if self.keys["yield_keys"] is not None:
            fields["yields"] = _yields(obs, self.keys["yield_keys"], schema.cycles)
        widths = [len(names) for names in (schema.targets, schema.controls, schema.pre_selections)]
        position = self.adata.var_names.get_indexer(list(schema.selections))
        return CompoundTensors(self.counts.matrix(position), widths, fields, self.split.index)

    def _check_depth(self, schema: DELSchema, data: CompoundTensors) -> None:
        """Warn if a selection has another depth than it had in the data that a model was trained on."""
        fold = data.totals(self.split.rows("all")).numpy() / self.adata.n_obs / np.asarray(schema.mean_counts)
        worst = int(np.abs(np.log(np.maximum(fold, 1e-9))).argmax())
        if not 1 / MAX_DEPTH_FOLD < fold[worst] < MAX_DEPTH_FOLD:
            warnings.warn(
                f"the selection {schema.selections[worst]!r} has {fold[worst]:.2g} times the counts per compound "
                "that it had where the model was trained, which the model takes for binding: fit it to this screen",
                UserWarning,
                stacklevel=4,
            )

    def _feature(self, argument: str, ndim: int) -> Any:
        key = self.keys[argument]
        if key is None:
            return None
        if key not in self.adata.obsm:
            raise ValueError(f"{argument} must be a key of adata.obsm, {list(self.adata.obsm)}; got {key!r}")
        name = f"adata.obsm[{key!r}] ({argument})"
        values = in_memory(element(self.adata, lambda adata: adata.obsm[key], name), name, counts=False)
        if sp.issparse(values):
            return CountMatrix(values)
        if values.dtype.kind not in "iuf":
            raise ValueError(f"{name} must hold numbers; got {values.dtype}")
        if values.ndim != ndim:
            raise ValueError(f"{argument}={key!r} must have {ndim} dimensions; got the shape {values.shape}")
        if not np.isfinite(values).all():
            n = int((~np.isfinite(values)).sum())
            raise ValueError(f"{argument}={key!r} must be finite; got {n} values that are not")
        if values.dtype.kind == "u" and values.dtype.itemsize > 1:
            values = values.astype(np.float32)  # torch does not index wider unsigned integers
        return torch.from_numpy(np.ascontiguousarray(values))

    def aligned(self, schema: DELSchema) -> CompoundTensors:
        """All compounds, with selections and building blocks matched by name to those of another ``schema``.

        Raises
        ------
        ValueError
            If selections or cycles of the schema are missing here, or building blocks occur that are not in the schema.

        Warns
        -----
        UserWarning
            If a selection was sequenced to another depth than in the model's data.
        """
        if missing := [name for name in schema.selections if name not in self.adata.var_names]:
            raise ValueError(
                f"adata.var_names must have the model's selections {missing}; got {list(self.adata.var_names)}"
            )
        if schema.cycles != self.schema.cycles:
            raise ValueError(
                f"synthon_keys must be the model's cycles, {list(schema.cycles)}; got {list(self.schema.cycles)}: pass "
                f"synthon_keys={list(schema.cycles)}"
            )
        if schema.known_yields and self.keys["yield_keys"] is None:
            raise ValueError("the model was trained with known yields, and these data have none: pass yield_keys")
        data = self._tensors(schema)
        self._check_depth(schema, data)
        return data


class CompoundTensors(RowTensors[DELBatch]):
    """Dataset of minibatches of compounds.

    Parameters
    ----------
    counts
        count matrix (n, selections): targets, then controls, then pre-selections.
    widths
        number of targets, of controls and of pre-selections.
    fields
        the other fields of `batch.DELBatch`, over all rows.
    index
        (n,) the rows' numbers, see `batch.CellBatch`.
    """

    def __init__(self, counts: CountMatrix, widths: list[int], fields: dict[str, Any], index: Tensor) -> None:
        super().__init__(counts, fields, index)
        self.widths = widths

    def batch(self, at: Tensor, x: Tensor) -> DELBatch:
        """The minibatch of the rows at these positions (n,), whose counts are x (n, selections)."""
        on_device = at.to(self.index.device, non_blocking=True)
        fields = {name: None if field is None else _rows(field, at, on_device) for name, field in self.fields.items()}
        columns = zip(("x", "control", "pre"), x.split(self.widths, -1), strict=True)
        counts = {name: part if part.shape[-1] else None for name, part in columns}
        return DELBatch(row=on_device, index=self.index[on_device], **counts, **fields)  # type: ignore[arg-type]

    def totals(self, rows: Tensor) -> Tensor:
        """Sum of each selection over ``rows``, in double precision."""
        return self.counts.column_sums(rows)


def _rows(field: Any, at: Tensor, on_device: Tensor) -> Tensor:
    """The rows of a field; their positions are given on the host, ``at``, and on the data's device."""
    if not isinstance(field, Tensor):
        return field.rows(at)
    return field[on_device] if field.dtype == torch.long else field[on_device].float()


def _read(adata: Any) -> AnnData:
    if isinstance(adata, str | Path) and str(adata).lower().endswith(TABLES):
        from pyro_omics.data.dna_encoded.tables.reading import read_del

        return read_del(adata)
    return read(adata)[0]


def _selections_by_kind(
    adata: AnnData, conditions: tuple[str, str, str], selections: Sequence[str] | None
) -> dict[str, list[str]]:
    """Names of the selections of each kind, "target", "control" and "pre"."""
    if "condition" not in adata.var:
        raise ValueError(
            'adata.var must have a column "condition": set adata.var["condition"] = ["target", "control", ...] for the '
            f"selections {list(adata.var_names)[:10]}"
        )
    if adata.var["condition"].ndim > 1:
        raise ValueError('adata.var must have one column "condition"; got several: drop all but one')
    lacking = adata.var["condition"].isna() | (adata.var["condition"].astype(str).str.strip() == "")
    if unlabelled := list(adata.var_names[lacking]):
        raise ValueError(f'adata.var["condition"] must not be missing; got NaN for the selections {unlabelled}')
    chosen = list(adata.var_names) if selections is None else list_of("selections", selections, adata.var_names)
    if unknown := [name for name in chosen if name not in adata.var_names]:
        raise ValueError(f"selections must be among adata.var_names, {list(adata.var_names)}; got {unknown}")
    condition = adata.var["condition"].astype(str).loc[chosen]
    _check_alike(condition, conditions)
    found = dict(zip(KINDS, ([*condition.index[condition == name]] for name in conditions), strict=True))
    others = sorted(set(condition) - set(conditions))
    if others and not found["control"]:
        warnings.warn(
            f"no selection has the condition control={conditions[1]!r}, and the selections of {others} are left out: "
            f"if they are controls, pass control={others[0]!r}",
            UserWarning,
            stacklevel=4,
        )
    if not found["target"]:
        raise ValueError(
            f"target must be a condition in adata.var['condition'], {sorted(set(condition))}; got {conditions[0]!r}: "
            "pass the one to analyse"
        )
    return found


def _check_alike(condition: pd.Series, conditions: tuple[str, str, str]) -> None:
    """Raise a ValueError for a condition that is one of the ``conditions`` but for blanks and case."""
    meant = {plain(str(one)).lower(): one for one in conditions}
    for name, one in condition.items():
        if one not in conditions and (other := meant.get(plain(one).lower())) is not None:
            raise ValueError(
                f"adata.var['condition'] must be written alike; got {one!r} for the selection {name!r}, which differs "
                f"from {other!r} in blanks or case: write {other!r}"
            )


def _yields(obs: pd.DataFrame, keys: Sequence[str], cycles: Sequence[str]) -> Tensor:
    if len(keys) != len(cycles):
        raise ValueError(f"yield_keys must have a column for each of the cycles {list(cycles)}; got {list(keys)}")
    values = obs_columns.numbers(obs, "yield_keys", keys)
    if not ((values > 0) & (values < 1)).all():
        raise ValueError(
            f"yield_keys={list(keys)} must be yields in (0, 1); got {values.min():g} .. {values.max():g}: divide "
            "percentages by 100"
        )
    return torch.from_numpy(values)
