"""`CellDataModule`: batches are the AnnData's rows, however they are stored, and bad input is refused by name."""

import copy
import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from pyro_omics import CellDataModule

N, G = 40, 9
FULL = {
    "batch_key": "donor",
    "label_key": "type",
    "categorical_keys": ["sex", "kit"],
    "continuous_keys": ["age", "mito"],
    "size_factor_key": "depth",
}


def matrix(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.poisson(rng.gamma(0.5, 2.0, (1, G)) * rng.gamma(2.0, 1.0, (N, 1))).astype(np.float32)
    x[3] = 0
    x[:, 1] += 1 - (np.arange(N) == 3)
    return x


def cells(x=None, seed=1, **layers):
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "donor": pd.Categorical(rng.choice(["d2", "d10", "d1"], N), categories=["d2", "unused", "d10", "d1"]),
            "type": rng.choice(["T", "B"], N),
            "sex": rng.choice([1, 0], N),
            "kit": rng.choice(["v2", "v3", "v1"], N),
            "age": rng.integers(20, 80, N),
            "mito": rng.random(N),
            "depth": rng.random(N) * 1e4 + 1,
            "one": "same",
        },
        index=[f"cell{i}" for i in range(N)],
    )
    var = pd.DataFrame({"variable": np.arange(G) % 3 != 0}, index=[f"gene{i}" for i in range(G)])
    return ad.AnnData(matrix() if x is None else x, obs=obs, var=var, layers=layers)


def same_batches(one, other):
    for a, b in zip(one, other, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


def epoch_of(dm, epoch):
    loader = dm.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return list(loader)


# Storage --------------------------------------------------------------------------------------------------------------


def unsorted(x):
    """CSR with its columns backwards and its first stored value split into two entries: legal, but not canonical."""
    csr = sp.csr_matrix(x)
    data, indices, indptr = [], [], [0]
    for i in range(csr.shape[0]):
        at = slice(csr.indptr[i], csr.indptr[i + 1])
        indices += csr.indices[at][::-1].tolist()
        data += csr.data[at][::-1].tolist()
        indptr.append(len(data))
    big = int(np.argmax(data))
    row = int(np.searchsorted(indptr, big, side="right"))
    data[big] -= 1
    data.insert(big, 1)
    indices.insert(big, indices[big])
    indptr[row:] = [end + 1 for end in indptr[row:]]
    return sp.csr_matrix((np.array(data, x.dtype), np.array(indices), np.array(indptr)), shape=x.shape)


STORED = {
    "csr": sp.csr_matrix,
    "csc": sp.csc_matrix,
    "csr array": sp.csr_array,
    "csc array": sp.csc_array,
    "fortran": np.asfortranarray,
    "int64": lambda x: x.astype(np.int64),
    "uint16": lambda x: x.astype(np.uint16),
    "float64": lambda x: x.astype(np.float64),
    "csr int32": lambda x: sp.csr_matrix(x.astype(np.int32)),
    "csc int64": lambda x: sp.csc_matrix(x.astype(np.int64)),
    "unsorted": unsorted,
}


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("gene_mask", [None, "variable"])
def test_storage_does_not_matter(stored, gene_mask):
    options = {**FULL, "gene_mask": gene_mask, "batch_size": 7}
    dense = epoch_of(CellDataModule(cells(), **options), 0)
    other = epoch_of(CellDataModule(cells(STORED[stored](matrix())), **options), 0)
    for mine, theirs in zip(other, dense, strict=True):
        same_batches(mine, theirs)


def test_layer_and_view():
    rows = [5, 2, 39]
    truth = CellDataModule(cells(), **FULL).data[rows]
    layered = cells(np.log1p(matrix()), umi=sp.csc_matrix(matrix()))
    same_batches(CellDataModule(layered, "umi", **FULL).data[rows], truth)
    twice = ad.concat([cells(), cells()], index_unique="-", merge="same")
    same_batches(CellDataModule(twice[:N], **FULL).data[rows], truth)


def write(adata, path):
    if path.suffix == ".h5ad":
        return adata.write_h5ad(path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Writing zarr v2 data will no longer be the default")  # anndata 0.12
        return adata.write_zarr(path)


@pytest.mark.parametrize("x", [np.asarray, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_paths(tmp_path, suffix, x):
    path = tmp_path / f"cells{suffix}"
    write(cells(x(matrix())), path)
    truth = CellDataModule(cells(), **FULL)
    for given in (path, str(path)):
        dm = CellDataModule(given, **FULL)
        assert dm.schema == truth.schema
        assert dm.sizes == truth.sizes
        same_batches(dm.data[range(N)], truth.data[range(N)])


# Batches --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batch_is_the_rows_of_the_anndata(num_workers):
    adata = cells(sp.csc_matrix(matrix()))
    dm = CellDataModule(adata, **FULL, batch_size=8, seed=3, num_workers=num_workers)
    schema, obs = dm.schema, adata.obs
    assert schema.batches == ("d2", "d10", "d1")  # the column's own order, without what does not occur
    seen = 0
    for batch in (*dm.train_dataloader(), *dm.val_dataloader(), *dm.predict_dataloader()):
        row = batch.row.numpy()
        seen += len(row)
        assert batch.x.dtype == torch.float32
        assert np.array_equal(batch.x, matrix()[row])
        assert torch.equal(batch.index, dm.split.index[batch.row])
        assert schema.categorical == ("sex", "kit")
        for codes, levels, key in [
            (batch.batch, schema.batches, "donor"),
            (batch.label, schema.labels, "type"),
            (batch.categorical[:, 0], schema.categories[0], "sex"),
            (batch.categorical[:, 1], schema.categories[1], "kit"),
        ]:
            assert [levels[code] for code in codes] == obs[key].iloc[row].astype(str).tolist()
        np.testing.assert_allclose(batch.continuous, obs[["age", "mito"]].to_numpy()[row], rtol=1e-6)
        np.testing.assert_allclose(batch.size_factor, obs[["depth"]].to_numpy()[row], rtol=1e-6)
    assert seen == 2 * N


def test_rows_in_any_order_and_twice():
    dm = CellDataModule(cells(sp.csr_matrix(matrix())))
    row = np.random.default_rng(0).integers(0, N, 100)
    batch = dm.data[row]
    assert np.array_equal(batch.x, matrix()[row])
    assert np.array_equal(batch.row, row)
    assert set(batch[3:]) == {None}
    assert np.array_equal(dm.data[[3]].x, np.zeros((1, G)))


def test_batches_in_order():
    dm = CellDataModule(cells())
    rows = np.array([4, 9, 0, 12, 3])
    assert [b.row.tolist() for b in dm.data.batches(rows, 2)] == [[4, 9], [0, 12], [3]]


def test_example_batch_is_of_training_rows():
    batch = CellDataModule(cells(), validation_indices=[0, 2]).example_batch()
    assert batch.row.tolist() == [1, 3]
    assert batch.index.tolist() == [0, 1]


@pytest.mark.parametrize(
    "column",
    [
        np.array([True, False] * (N // 2)),
        np.array([0.1, 2.5] * (N // 2), dtype=np.float32),
        np.array([0.1, 2.5] * (N // 2)),
        pd.to_datetime(["2024-01-02", "2023-05-06"] * (N // 2)),
        pd.array(["x", "y"] * (N // 2), dtype="string"),
        pd.array([7, 9] * (N // 2), dtype="Int64"),
        pd.Categorical([7, 9] * (N // 2)),
        np.array([10, 9] * (N // 2)),
    ],
    ids=lambda column: str(column.dtype),
)
def test_batch_column_of_any_type(column):
    adata = cells()
    adata.obs["run"] = column
    dm = CellDataModule(adata, batch_key="run")
    code = dm.data[range(N)].batch
    assert dm.sizes.n_batches == 2
    assert code[0] != code[1]
    assert torch.equal(code, code[:2].repeat(N // 2))


def test_numbers_are_ordered_as_numbers():
    adata = cells()
    adata.obs["run"] = [10, 9, 100, 9] * (N // 4)
    assert CellDataModule(adata, batch_key="run").schema.batches == ("9", "10", "100")


# Split and order ------------------------------------------------------------------------------------------------------


def test_split_is_seeded_disjoint_and_complete():
    splits = [CellDataModule(cells(), validation_size=0.25, seed=seed) for seed in (0, 0, 1)]
    held_out = [dm.rows("validation").tolist() for dm in splits]
    assert held_out[0] == held_out[1] != held_out[2]
    for dm in splits:
        training, validation = dm.rows("training"), dm.rows("validation")
        assert len(validation) == 10
        assert dm.n_obs == len(training) == 30
        assert sorted([*training, *validation]) == dm.rows().tolist() == list(range(N))
        assert (np.diff(training) > 0).all()
        assert (np.diff(validation) > 0).all()


def test_validation_indices_are_honoured():
    dm = CellDataModule(cells(), validation_indices=[30, 4, 7], validation_size=0.5)
    assert dm.rows("validation").tolist() == [4, 7, 30]
    assert dm.n_obs == 37
    assert [row for batch in dm.val_dataloader() for row in batch.row.tolist()] == [4, 7, 30]


def test_training_rows_are_numbered_from_zero_and_held_out_ones_after():
    dm = CellDataModule(cells(), validation_size=0.25)
    assert dm.data[dm.rows("training")].index.tolist() == list(range(30))
    assert dm.data[dm.rows("validation")].index.tolist() == list(range(30, N))


def test_no_row_held_out():
    for options in ({"validation_size": 0}, {"validation_indices": []}):
        dm = CellDataModule(cells(), **options)
        assert dm.n_obs == N
        assert not list(dm.val_dataloader())
        with pytest.raises(ValueError, match=r"held.out.*validation_size"):
            dm.test_dataloader()


def test_an_epoch_has_every_training_row_once_in_an_order_of_its_own():
    dm = CellDataModule(cells(), batch_size=7, seed=5)
    order = [torch.cat([batch.row for batch in epoch_of(dm, epoch)]).tolist() for epoch in range(3)]
    for rows in order:
        assert sorted(rows) == dm.rows("training").tolist()
        assert rows != sorted(rows)
    assert order[0] != order[1] != order[2] != order[0]
    again = CellDataModule(cells(), batch_size=36, seed=5)
    assert epoch_of(again, 1)[0].row.tolist() == order[1]
    same_rows = CellDataModule(cells(), batch_size=36, seed=6, validation_indices=dm.rows("validation"))
    assert epoch_of(same_rows, 1)[0].row.tolist() != order[1]


def test_other_loaders_keep_the_order():
    dm = CellDataModule(cells(), batch_size=7)
    for loader, split in [(dm.val_dataloader(), "validation"), (dm.test_dataloader(), "validation")]:
        assert torch.cat([batch.row for batch in loader]).tolist() == dm.rows(split).tolist()
    assert torch.cat([batch.row for batch in dm.predict_dataloader()]).tolist() == list(range(N))


# Sizes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["column", "array", "list"])
def test_gene_mask(given):
    mask = np.arange(G) % 3 != 0
    dm = CellDataModule(cells(), gene_mask={"column": "variable", "array": mask, "list": mask.tolist()}[given])
    assert dm.n_genes == mask.sum()
    assert dm.schema.genes == tuple(f"gene{i}" for i in np.flatnonzero(mask))
    assert np.array_equal(dm.data[range(N)].x, matrix()[:, mask])


def test_sizes():
    dm = CellDataModule(cells(), **FULL, gene_mask="variable", validation_size=0.25)
    s = dm.sizes
    assert (s.n_obs, s.n_genes, s.n_batches, s.n_labels) == (30, 6, 3, 2)
    assert (s.n_categories, s.n_continuous, s.n_latent) == ((2, 3), 2, None)
    plain = CellDataModule(cells()).sizes
    assert (plain.n_batches, plain.n_labels, plain.n_categories, plain.n_continuous) == (1, 1, (), 0)


def test_log_library_is_of_training_cells_and_modelled_genes():
    adata = cells(sp.csr_matrix(matrix()))
    dm = CellDataModule(adata, batch_key="donor", gene_mask="variable", validation_indices=range(10, 18))
    training = np.setdiff1d(np.arange(N), np.arange(10, 18))
    total = np.log(np.maximum(matrix()[training][:, adata.var["variable"]].sum(1, dtype=float), 1))
    donor = adata.obs["donor"].to_numpy()[training]
    truth = [(total[donor == d].mean(), total[donor == d].var()) for d in ("d2", "d10", "d1")]
    np.testing.assert_allclose(dm.sizes.log_library, truth, rtol=1e-10)


def test_log_library_of_a_batch_without_training_cells_is_that_of_the_rest():
    adata = cells()
    adata.obs["donor"] = ["a"] * 30 + ["b"] * 10
    (one, other) = CellDataModule(adata, batch_key="donor", validation_indices=range(30, 40)).sizes.log_library
    assert one == other


def test_all_zero_cells_are_accepted():
    x = matrix()
    x[::4] = 0
    dm = CellDataModule(cells(sp.csr_matrix(x)))
    assert np.array_equal(dm.data[range(N)].x, x)
    assert np.isfinite(dm.sizes.log_library).all()


# The AnnData is never changed -----------------------------------------------------------------------------------------


def raw_bytes(x):
    parts = (x.data, x.indices, x.indptr) if sp.issparse(x) else (x,)
    return [np.asarray(part).tobytes() for part in parts]


@pytest.mark.parametrize("stored", ["csr", "csc", "fortran", "int64", "unsorted"])
def test_the_anndata_is_never_changed(stored):
    x = STORED[stored](matrix())
    adata = cells(x, other=x.copy())
    adata.obsm["y"] = pd.DataFrame(matrix()[:, :3], index=adata.obs_names, columns=["A", "B", "C"]).replace(0, np.nan)
    before, x_before = adata.copy(), copy.deepcopy(adata.X)
    for options in ({"protein_obsm_key": "y"}, {"protein_obsm_key": "y", "layer": "other", "gene_mask": "variable"}):
        dm = CellDataModule(adata, **FULL, **options)
        _ = dm.sizes
        for batch in (*dm.train_dataloader(), dm.example_batch(), dm.aligned(dm.schema)[range(N)]):
            for field in batch:
                field.logical_not_() if field.dtype == torch.bool else field.add_(1)
    assert raw_bytes(adata.X) == raw_bytes(x_before) == raw_bytes(adata.layers["other"])
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)
    assert adata.uns == {}
    pd.testing.assert_frame_equal(adata.obsm["y"], before.obsm["y"])
    assert list(adata.layers) == ["other"]


# Other data for a trained model ---------------------------------------------------------------------------------------


def shuffled(adata, seed=0):
    rng = np.random.default_rng(seed)
    return adata[:, rng.permutation(adata.n_vars)].copy()


@pytest.mark.parametrize("gene_mask", [None, "variable"])
@pytest.mark.parametrize("x", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_aligned_puts_genes_in_the_models_order(x, gene_mask):
    dm = CellDataModule(cells(), **FULL, gene_mask=gene_mask)
    other = CellDataModule(shuffled(cells(x(matrix()))), **FULL)
    assert not np.array_equal(other.data[range(N)].x, matrix())
    same_batches(other.aligned(dm.schema)[range(N)], dm.data[range(N)])


def test_aligned_codes_levels_as_the_model_does():
    dm = CellDataModule(cells(), **FULL)
    mine = cells()
    mine.obs["donor"] = pd.Categorical(mine.obs["donor"].astype(str))  # alphabetical: other codes
    some = mine[mine.obs["donor"].isin(["d1", "d10"])].copy()
    batch = CellDataModule(some, **FULL).aligned(dm.schema)[range(some.n_obs)]
    assert [dm.schema.batches[c] for c in batch.batch] == some.obs["donor"].tolist()


def test_aligned_accepts_one_level_of_several():
    dm = CellDataModule(cells(), batch_key="donor")
    mine = cells()
    mine.obs["donor"] = "d1"
    other = CellDataModule(mine, batch_key="donor")  # without a word: the model may know it
    assert other.data[range(N)].batch is None
    assert (other.aligned(dm.schema)[range(N)].batch == dm.schema.batches.index("d1")).all()


def test_aligned_takes_categories_by_name_whatever_their_order():
    dm = CellDataModule(cells(), categorical_keys=["sex", "kit"])
    other = CellDataModule(cells(), categorical_keys=["kit", "sex"])
    assert dm.schema.differences(other.schema) == ["categorical", "categories"]  # so that a Posterior aligns them
    assert torch.equal(other.aligned(dm.schema)[range(N)].categorical, dm.data[range(N)].categorical)


def test_aligned_keeps_the_place_of_a_category_that_the_model_dropped():
    dm = CellDataModule(cells(), categorical_keys=["one", "kit"])
    other = CellDataModule(cells(), categorical_keys=["kit"])
    assert torch.equal(other.aligned(dm.schema)[range(N)].categorical, dm.data[range(N)].categorical)


def test_aligned_ignores_what_the_model_does_not_use():
    dm = CellDataModule(cells())
    more = CellDataModule(cells(), batch_key="donor", label_key="type", categorical_keys=["kit"])
    same_batches(more.aligned(dm.schema)[range(N)], dm.data[range(N)])


def test_aligned_refuses_missing_genes():
    dm = CellDataModule(cells())
    fewer = CellDataModule(cells()[:, 2:].copy())
    with pytest.raises(ValueError, match=r"2 of the model's 9 genes are not in adata.var_names.*gene0.*gene1"):
        fewer.aligned(dm.schema)


@pytest.mark.parametrize(("argument", "key"), [("batch_key", "donor"), ("label_key", "type")])
def test_aligned_refuses_unknown_levels(argument, key):
    dm = CellDataModule(cells(), **{argument: key})
    mine = cells()
    mine.obs[key] = mine.obs[key].astype(str).replace({"d1": "new", "T": "new"})
    with pytest.raises(
        ValueError, match=rf"{argument}='{key}' must have levels that .* trained with.*; got \['new'\]: rename"
    ):
        CellDataModule(mine, **{argument: key}).aligned(dm.schema)


@pytest.mark.parametrize("argument", ["batch_key", "label_key", "categorical_keys", "continuous_keys"])
def test_aligned_refuses_data_without_the_models_covariate(argument):
    dm = CellDataModule(cells(), **{argument: FULL[argument]})
    with pytest.raises(ValueError, match=r"the model was trained with.*CellDataModule") as error:
        CellDataModule(cells()).aligned(dm.schema)
    assert argument in str(error.value)


def test_aligned_refuses_an_unknown_level_of_a_category():
    dm = CellDataModule(cells(), categorical_keys=["kit"])
    mine = cells()
    mine.obs["kit"] = mine.obs["kit"].replace({"v1": "v4"})
    with pytest.raises(ValueError, match=r"categorical_keys='kit' must have levels .*; got \['v4'\]"):
        CellDataModule(mine, categorical_keys=["kit"]).aligned(dm.schema)


def test_adopted_rows_are_all_held_out():
    dm = CellDataModule(cells(), **FULL, gene_mask="variable")
    other = CellDataModule(shuffled(cells()), **FULL)
    other.adopt(dm.schema, dm.n_obs)
    assert other.schema == dm.schema
    assert other.n_obs == dm.n_obs == 36
    assert other.rows("training").size == 0
    assert other.rows("validation").tolist() == list(range(N))
    (batch,) = other.predict_dataloader()
    assert batch.index.tolist() == list(range(36, 36 + N))
    assert torch.equal(batch.x, dm.data[range(N)].x)


def test_adopting_what_is_refused_changes_nothing():
    dm = CellDataModule(cells())
    other = CellDataModule(cells()[:, 2:].copy())
    training = other.rows("training")
    with pytest.raises(ValueError, match="genes are not in"):
        other.adopt(dm.schema, dm.n_obs)
    assert other.rows("training").tolist() == training.tolist()
    assert other.n_genes == G - 2


# What is refused ------------------------------------------------------------------------------------------------------


def spoilt(value):
    x = matrix()
    x[5, 2] = value
    return x


BAD_VALUES = [
    (-3.0, r"negative values, the lowest -3"),
    (np.nan, r"1 NaN"),
    (np.inf, r"1 infinite"),
    (2.5, r"1 non-integer values, such as 2.5"),
    (2.0**25, r"3.35544e\+07.*2\^24"),
]


@pytest.mark.parametrize("stored", ["fortran", "csr", "csc"])
@pytest.mark.parametrize(("value", "seen"), BAD_VALUES)
def test_what_is_no_count_is_refused(value, seen, stored):
    with pytest.raises(ValueError, match=rf"adata.X does not hold counts: .*{seen}.*raw counts"):
        CellDataModule(cells(STORED[stored](spoilt(value))))


@pytest.mark.parametrize(("value", "seen"), BAD_VALUES)
def test_the_layer_that_looks_like_counts_is_named(value, seen):
    adata = cells(spoilt(value), scaled=matrix() / 3, umi=sp.csr_matrix(matrix()))
    with pytest.raises(ValueError, match=rf"{seen}.*looks like counts: layer='umi'"):
        CellDataModule(adata)
    with pytest.raises(ValueError, match=r"adata.layers\['scaled'\] does not hold counts.*layer='umi'"):
        CellDataModule(adata, layer="scaled")


def test_x_is_named_where_the_layer_is_wrong():
    with pytest.raises(ValueError, match=r"adata.layers\['log'\] does not hold counts.*layer=None \(adata.X\)"):
        CellDataModule(cells(log=np.log1p(matrix())), layer="log")


def test_log_transformed_counts_are_recognised_and_raw_is_suggested():
    adata = cells()
    adata.raw = adata.copy()
    adata.X = np.log1p(matrix())
    with pytest.raises(ValueError, match=r"looks log-transformed.*adata.raw looks like counts: .*adata.raw.to_adata"):
        CellDataModule(adata)
    CellDataModule(adata.raw.to_adata())


def test_normalised_counts_are_recognised():
    with pytest.raises(ValueError, match="looks normalised"):
        CellDataModule(cells(matrix() * 33.3))


@pytest.mark.parametrize(("rows", "columns", "seen"), [(0, G, "0 cells"), (N, 0, "0 genes")])
def test_nothing_to_fit(rows, columns, seen):
    with pytest.raises(ValueError, match=rf"adata.X has {seen} \(shape .*\): .*filter"):
        CellDataModule(cells()[:rows, :columns].copy())


def test_missing_layer():
    with pytest.raises(ValueError, match=r"layer must be a key of adata.layers, \['umi'\]; got 'counts'"):
        CellDataModule(cells(umi=matrix()), layer="counts")
    adata = cells(umi=matrix())
    adata.X = None
    with pytest.raises(ValueError, match=r"adata.X is empty: .*layer=.*'umi'"):
        CellDataModule(adata)


@pytest.mark.parametrize("argument", FULL)
def test_missing_column(argument):
    many = argument.endswith("keys")
    with pytest.raises(ValueError, match=rf"{argument} must be a column of adata.obs, \['donor', .*\]; got 'nowhere'"):
        CellDataModule(cells(), **{argument: ["nowhere"] if many else "nowhere"})


@pytest.mark.parametrize("argument", FULL)
def test_missing_values_in_a_column(argument):
    key = FULL[argument] if isinstance(FULL[argument], str) else FULL[argument][-1]
    adata = cells()
    adata.obs.loc[["cell7", "cell9"], key] = np.nan
    with pytest.raises(ValueError, match=rf"{argument}='{key}' has 2 missing .*the first at 'cell7'.*fill"):
        CellDataModule(adata, **{argument: [key] if argument.endswith("keys") else key})


def test_the_mend_of_missing_values_works():
    adata = cells()
    adata.obs.loc["cell7", "donor"] = np.nan
    adata.obs["donor"] = adata.obs["donor"].astype(object).fillna("unknown")
    assert "unknown" in CellDataModule(adata, batch_key="donor").schema.batches


@pytest.mark.parametrize("argument", ["batch_key", "label_key", "categorical_keys"])
def test_a_column_of_one_level_is_dropped_with_one_warning(argument):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dm = CellDataModule(cells(), **{argument: ["one"] if argument.endswith("keys") else "one"})
        _ = dm.sizes, list(dm.train_dataloader())
    (message,) = [str(w.message) for w in caught if w.category is UserWarning]
    assert message == f"{argument}='one' has one level only, 'same': it is dropped"
    assert (dm.sizes.n_batches, dm.sizes.n_labels) == (1, 1)
    batch = dm.example_batch()
    assert batch.batch is None
    assert batch.label is None


def test_a_column_with_a_level_per_cell_is_refused():
    adata = cells()
    adata.obs["barcode"] = adata.obs_names
    with pytest.raises(ValueError, match=r"batch_key='barcode' has 40 levels for 40 cells.*'cell0'.*pass the column"):
        CellDataModule(adata, batch_key="barcode")


def test_text_as_a_continuous_covariate_is_refused():
    with pytest.raises(
        ValueError, match=r"continuous_keys='type' must be numeric; got .*: pass it in categorical_keys"
    ):
        CellDataModule(cells(), continuous_keys=["type"])


def test_infinite_covariate_is_refused():
    adata = cells()
    adata.obs["mito"] = np.inf
    with pytest.raises(ValueError, match=r"continuous_keys='mito' must be finite; got 40 infinite"):
        CellDataModule(adata, continuous_keys=["mito"])


@pytest.mark.parametrize("value", [0.0, -2.0])
def test_size_factor_must_be_positive(value):
    adata = cells()
    adata.obs.loc["cell3", "depth"] = value
    with pytest.raises(
        ValueError, match=r"size_factor_key='depth' must be library sizes, above 0; got values of 0 or below"
    ):
        CellDataModule(adata, size_factor_key="depth")


@pytest.mark.parametrize("axis", ["obs", "var"])
def test_duplicate_names(axis):
    adata = cells()
    names = getattr(adata, f"{axis}_names").tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        setattr(adata, f"{axis}_names", [names[1], *names[1:]])
    mend = rf"adata.{axis}_names_make_unique\(\)"
    with pytest.raises(ValueError, match=rf"adata.{axis}_names must be unique.*; got '{names[1]}' twice: .*{mend}"):
        CellDataModule(adata)


@pytest.mark.parametrize("name", ["nowhere.h5ad", "nowhere.zarr", "nowhere"])
def test_path_that_does_not_exist(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=rf"adata='.*{name}' does not exist: pass the path of a .h5ad"):
        CellDataModule(tmp_path / name)


def test_path_that_is_no_anndata(tmp_path):
    (tmp_path / "cells.csv").write_text("a,b\n1,2\n")
    (tmp_path / "text.h5ad").write_text("a,b\n1,2\n")
    (tmp_path / "folder.zarr").mkdir()
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["numbers"] = np.arange(3)
    with pytest.raises(
        ValueError, match=r"adata must be .* .h5ad or .h5mu file or a .zarr store; got '.*cells.csv': .*write_h5ad"
    ):
        CellDataModule(tmp_path / "cells.csv")
    for name in ("text.h5ad", "folder.zarr", "other.h5ad"):
        with pytest.raises(ValueError, match=rf"adata='.*{name}' could not be read as an AnnData"):
            CellDataModule(tmp_path / name)


def test_what_is_no_anndata():
    with pytest.raises(TypeError, match=r"adata must be an AnnData, a MuData or the path .*; got a ndarray"):
        CellDataModule(matrix())


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([3, 40], r"validation_indices must lie in 0 .. 39; got 3 .. 40"),
        ([-1, 3], r"validation_indices must lie in 0 .. 39; got -1 .. 3"),
        ([3, 3], r"validation_indices must be distinct; got a row more than once"),
        ([True] * N, r"validation_indices must be integer positions.*; got bool.*np.flatnonzero"),
        ([1.0, 2.0], r"validation_indices must be integer positions.*float64"),
        (["cell1"], r"validation_indices must be integer positions"),
        (range(N), r"validation_indices must leave rows to train on; got all 40 rows"),
    ],
)
def test_wrong_validation_indices(indices, message):
    with pytest.raises(ValueError, match=message):
        CellDataModule(cells(), validation_indices=indices)


@pytest.mark.parametrize("size", [-0.1, 1.0, 3.0, float("nan")])
def test_wrong_validation_size(size):
    with pytest.raises(ValueError, match=rf"validation_size must be a share of the rows, in \[0, 1\); got {size}"):
        CellDataModule(cells(), validation_size=size)


def test_a_validation_size_that_holds_out_none_warns():
    with pytest.warns(UserWarning, match=r"validation_size=0.01 holds out none of 40 rows"):
        CellDataModule(cells(), validation_size=0.01)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ("nowhere", r"gene_mask must be a column of adata.var, \['variable'\]; got 'nowhere'"),
        ([True] * (G - 1), r"gene_mask must be 9 booleans.*shape \(8,\)"),
        ([0, 2, 5], r"gene_mask must be 9 booleans.*int64"),
        ([1] * G, r"gene_mask must be 9 booleans.*int64"),
        ([False] * G, r"gene_mask must select at least one gene"),
    ],
)
def test_wrong_gene_mask(mask, message):
    with pytest.raises(ValueError, match=message):
        CellDataModule(cells(), gene_mask=mask)


@pytest.mark.parametrize("batch_size", [0, -1, 64.0, float("nan"), None, "64", True])
def test_wrong_batch_size(batch_size):
    message = f"batch_size must be an integer of at least 1.* {batch_size!r}$"
    with pytest.raises(ValueError, match=message):
        CellDataModule(cells(), batch_size=batch_size)


def test_one_cell_is_enough_for_a_query():
    assert CellDataModule(cells()[:1].copy(), validation_size=0).n_obs == 1


def test_few_rows_may_have_a_level_each_and_many_may_not_nearly():
    adata = cells()
    two = adata[:2].copy()
    two.obs["kind"] = ["a", "b"]
    assert CellDataModule(two, label_key="kind", validation_size=0).sizes.n_labels == 2
    adata.obs["nearly"] = [f"c{max(i, 1)}" for i in range(adata.n_obs)]
    with pytest.raises(ValueError, match="nearly one each"):
        CellDataModule(adata, batch_key="nearly")


def test_texts_for_lists_and_lists_for_texts_are_refused():
    with pytest.raises(ValueError, match=r"categorical_keys must be a list.*\['kit'\]"):
        CellDataModule(cells(), categorical_keys="kit")
    with pytest.raises(ValueError, match="batch_key must be the name of one column"):
        CellDataModule(cells(), batch_key=["kit"])


def test_a_matrix_of_zeros_is_refused():
    adata = cells()
    adata.X = adata.X * 0
    with pytest.raises(ValueError, match="all values are zero"):
        CellDataModule(adata)
