"""`DELDataModule`: what its minibatches hold, and what it refuses before any training."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import scipy.sparse as sp
import torch

import pyro_omics as po


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"A": np.repeat(["a1", "a2", "a10"], 8), "B": np.tile(np.repeat(["x", "y"], 4), 3), "C": list("pqrs") * 6}
    )
    obs.index = obs["A"] + "-" + obs["B"] + "-" + obs["C"]
    conditions = ["control", "target", "pre-selection", "target", "competitor"]
    var = pd.DataFrame({"condition": conditions}, index=["c1", "t1", "p1", "t2", "k1"])
    return ad.AnnData(sp.csr_matrix(rng.poisson(3.0, (24, 5)).astype(np.float32)), obs=obs, var=var)


def test_a_minibatch_holds_each_arm_by_its_condition(adata):
    dm = po.DELDataModule(adata)
    rows = np.array([5, 0, 17])
    batch = dm.data[rows]
    x = adata.X.toarray()[rows]
    np.testing.assert_array_equal(batch.x, x[:, [1, 3]])
    np.testing.assert_array_equal(batch.control, x[:, [0]])
    np.testing.assert_array_equal(batch.pre, x[:, [2]])
    assert batch.features is None and batch.poses is None and batch.yields is None
    assert dm.schema.cycles == ("A", "B", "C")
    for i, cycle in enumerate("ABC"):
        assert [dm.schema.synthons[i][code] for code in batch.synthons[:, i]] == list(adata.obs[cycle].iloc[rows])
    assert dm.schema.synthons[0] == ("a1", "a2", "a10")  # in natural order
    assert dm.sizes.n_synthons == (3, 2, 4)
    np.testing.assert_allclose(dm.sizes.depth, adata.X.toarray()[:, [1, 3]].mean(0), rtol=1e-6)
    np.testing.assert_allclose(dm.sizes.control_depth, adata.X.toarray()[:, [0]].mean(0), rtol=1e-6)


def test_features_poses_and_yields(adata):
    rng = np.random.default_rng(0)
    adata.obsm["fingerprint"] = sp.csr_matrix(rng.integers(0, 2, (24, 6)))
    adata.obsm["poses"] = rng.normal(size=(24, 2, 3))
    for cycle in "ABC":
        adata.obs[f"y{cycle}"] = rng.uniform(0.5, 0.9, 24)
    dm = po.DELDataModule(adata, feature_key="fingerprint", pose_key="poses", yield_keys=["yA", "yB", "yC"])
    batch = dm.data[[3, 1]]
    np.testing.assert_array_equal(batch.features, adata.obsm["fingerprint"].toarray()[[3, 1]])
    np.testing.assert_allclose(batch.poses, adata.obsm["poses"][[3, 1]], rtol=1e-6)
    np.testing.assert_allclose(batch.yields, adata.obs[["yA", "yB", "yC"]].iloc[[3, 1]], rtol=1e-6)
    assert (dm.sizes.n_features, dm.sizes.pose_shape, dm.sizes.known_yields) == (6, (2, 3), True)


def test_another_condition_may_be_the_target(adata):
    with pytest.warns(UserWarning, match="one target selection, 'k1'"):
        dm = po.DELDataModule(adata, target="competitor")
    np.testing.assert_array_equal(dm.data[dm.rows()].x, adata.X.toarray()[:, [4]])


def test_controls_of_another_name_are_not_left_out_silently(adata):
    adata.var["condition"] = adata.var["condition"].replace("control", "beads")
    with pytest.warns(UserWarning, match=r"\['beads', 'competitor'\] are left out.*control='beads'"):
        assert po.DELDataModule(adata).data[[0]].control is None
    assert po.DELDataModule(adata, control="beads").data[[0]].control is not None


def test_a_small_library_has_steps_enough_in_an_epoch(adata):
    library, _ = po.simulate.del_library(cycles=(10, 10, 10), seed=0)
    assert po.DELDataModule(library).batch_size == 125
    assert po.DELDataModule(adata).batch_size == 64
    assert po.DELDataModule(po.simulate.del_library(cycles=(21, 21, 21), seed=0)[0]).batch_size == 1024


def test_a_model_is_not_asked_about_a_screen_of_another_depth_silently():
    adata, _ = po.simulate.del_library(cycles=(6, 6, 6), seed=0)
    dm = po.DELDataModule(adata)
    svi = po.SVIModule(po.HierarchicalDEL.from_data(dm))
    svi.schema = dm.schema
    po.Posterior(svi, po.DELDataModule(adata[:100].copy()))
    deep = adata.copy()
    deep.X = deep.X * 5
    with pytest.warns(UserWarning, match=r"has 5 times the counts per compound.*fit it to this screen"):
        po.Posterior(svi, po.DELDataModule(deep))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0.0}, "depth must be above 0; got 0.0"),
        ({"n_target": 0}, "n_target must be above 0"),
        ({"dropout": 1.5}, "dropout must be a probability"),
    ],
)
def test_an_impossible_selection_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        po.simulate.del_library(cycles=(3, 3), **options)


def test_given_depths_are_taken(adata):
    adata.var["depth"] = [100.0, 240.0, 50.0, 480.0, 10.0]
    np.testing.assert_allclose(po.DELDataModule(adata).sizes.depth, [10.0, 20.0])


def test_held_out_rows_are_numbered_after_the_training_ones(adata):
    dm = po.DELDataModule(adata, validation_indices=[2, 20])
    assert dm.n_obs == 22
    assert dm.data[[2, 20]].index.tolist() == [22, 23]
    assert sorted(dm.data[dm.rows("training")].index.tolist()) == list(range(22))


def test_other_data_are_aligned_by_name(adata):
    svi = po.SVIModule(po.HierarchicalDEL.from_data(po.DELDataModule(adata)))
    svi.schema = po.DELDataModule(adata).schema
    part = adata[[20, 3, 9], ["t2", "p1", "t1", "c1", "k1"]].copy()
    other = po.DELDataModule(part)
    aligned = po.Posterior(svi, other).data[[0, 1, 2]]
    whole = po.DELDataModule(adata).data[[20, 3, 9]]
    for name in ("x", "control", "pre", "synthons"):
        assert torch.equal(getattr(aligned, name), getattr(whole, name)), name
    part.obs["A"] = ["a1", "new", "a2"]
    with pytest.raises(ValueError, match=r"the column 'A' must hold the model's 3 building blocks; got \['new'\]"):
        po.Posterior(svi, po.DELDataModule(part))
    with pytest.raises(ValueError, match=r"adata.var_names must have the model's selections \['t2'\]; got"):
        po.Posterior(svi, one_target(adata))


def test_the_schema_comes_back_with_a_saved_model(adata, tmp_path):
    dm = po.DELDataModule(adata)
    assert dm.schema.selections == ("t1", "t2", "c1", "p1")
    np.testing.assert_allclose(dm.schema.mean_counts, adata[:, ["t1", "t2", "c1", "p1"]].X.toarray().mean(0), rtol=1e-6)
    svi = po.SVIModule(po.HierarchicalDEL.from_data(dm))
    svi.schema = dm.schema
    found = po.load(svi.save(tmp_path / "model"))
    assert found.schema == dm.schema
    assert found.schema.differences(po.DELDataModule(adata[:16].copy()).schema, training_rows=True) == [
        "training_digest", "synthons", "mean_counts",
    ]  # fmt: skip


def one_target(adata):
    with pytest.warns(UserWarning, match="one target selection"):
        return po.DELDataModule(adata[:, ["t1", "k1", "c1", "p1"]].copy())


def spoil(adata, what):
    """An AnnData with one thing wrong."""
    matrix = adata.X.toarray()
    if what == "no condition":
        del adata.var["condition"]
    elif what == "missing condition":
        adata.var.loc["t1", "condition"] = np.nan
    elif what == "no target":
        adata.var["condition"] = "control"
    elif what == "zero control":
        matrix[:, 0] = 0
    elif what == "negative":
        matrix[3, 1] = -2
    elif what == "fraction":
        matrix[3, 1] = 2.5
    elif what == "duplicate":
        adata.obs["C"] = "p"
    elif what == "no block":
        adata.obs["B"] = adata.obs["B"].astype(object).where(adata.obs.index != adata.obs.index[4], np.nan)
    elif what == "one cycle":
        adata.obs = adata.obs[["A"]].rename(columns={"A": "block"})
    adata.X = sp.csr_matrix(matrix)
    return adata


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("no condition", r'adata.var must have a column "condition": set adata.var'),
        ("missing condition", r"must not be missing; got NaN for the selections \['t1'\]"),
        ("no target", r"target must be a condition in .*, \['control'\]; got 'target'"),
        ("zero control", r"the selections \['c1'\] have no counts at all.*selections=\['t1', 't2', 'p1'\]"),
        ("negative", "negative values, the lowest -2"),
        ("fraction", "non-integer values, such as 2.5"),
        ("duplicate", "24 rows share their building blocks"),
        ("no block", "synthon_keys='B' has 1 missing values"),
        ("one cycle", "synthon_keys must be the building-block columns of two cycles or more"),
    ],
)
@pytest.mark.filterwarnings("ignore:there is one target selection")
def test_bad_input_is_refused(adata, what, message):
    with pytest.raises(ValueError, match=message):
        po.DELDataModule(spoil(adata, what))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"synthon_keys": "ABC"}, "synthon_keys must be a list of names; got the text 'ABC'"),
        ({"synthon_keys": ["A", "Z"]}, r"synthon_keys must be columns of adata.obs, .*; got \['Z'\]"),
        ({"selections": ["t1", "t9"]}, r"selections must be among adata.var_names, .*; got \['t9'\]"),
        ({"feature_key": "fp"}, "feature_key must be a key of adata.obsm, .*; got 'fp'"),
        ({"yield_keys": ["A"]}, "yield_keys must have a column for each of the cycles"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1.* 0$"),
        ({"validation_size": 1.5}, "validation_size must be a share"),
    ],
)
def test_wrong_arguments_are_refused(adata, options, message):
    with pytest.raises(ValueError, match=message):
        po.DELDataModule(adata, **options)


def test_yields_outside_their_range_are_refused(adata):
    adata.obs["y"] = 1.0
    with pytest.raises(ValueError, match=r"must be yields in \(0, 1\); got 1 .. 1"):
        po.DELDataModule(adata, yield_keys=["y", "y", "y"])


def test_a_model_is_refused_data_of_other_sizes(adata):
    model = po.HierarchicalDEL.from_data(po.DELDataModule(adata))
    trainer = pl.Trainer(max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    other = po.DELDataModule(adata[adata.obs["A"] != "a2"].copy())
    with pytest.raises(ValueError, match=r"made for n_synthons=\(3, 2, 4\), but the data have \(2, 2, 4\)"):
        trainer.fit(po.SVIModule(model), other)


def test_a_table_is_read_from_its_path(adata, tmp_path):
    frame = adata.obs.assign(**{f"target_{i}": adata.X.toarray()[:, i].astype(int) for i in (1, 3)})
    frame.to_csv(tmp_path / "counts.csv", index=False)
    dm = po.DELDataModule(tmp_path / "counts.csv")
    order = dm.adata.obs_names.get_indexer(adata.obs_names)
    np.testing.assert_array_equal(dm.data[order].x, adata.X.toarray()[:, [1, 3]])
