"""A model knows the rows that it was trained on, in whatever data: permuted, in part, with others, on disk."""

import anndata as ad
import numpy as np
import pytest
import torch
from helpers import counts, quiet_trainer, small

import pyro_omics as po
from pyro_omics.data.matrices.row_codes import codes_of, column_weights, weighted_sums
from pyro_omics.schema import Schema

N = 60


@pytest.fixture(scope="module")
def adata():
    return counts(N)


@pytest.fixture(scope="module")
def dm(adata):
    return po.CellDataModule(adata, batch_size=16, validation_size=0.2)


def fit(dm, svi=None):
    svi = po.SVIModule(small(dm)) if svi is None else svi
    quiet_trainer(1).fit(svi, dm)
    return svi


@pytest.fixture(scope="module")
def svi(dm):
    return fit(dm)


def others(n=40):
    """New cells, whose names are those of the training cells."""
    return counts(n, seed=3)


def joined(adata):
    with pytest.warns(UserWarning, match="names are not unique"):
        return ad.concat([adata, others()])


def enlarged(adata):
    both = joined(adata)
    both.obs_names_make_unique()  # the first of two keeps its name
    return both


GENES = np.random.default_rng(1).permutation(12)
DATA = {
    "the same": lambda adata: adata,
    "permuted": lambda adata: adata[np.random.default_rng(0).permutation(N)].copy(),
    "part": lambda adata: adata[20:60].copy(),
    "view": lambda adata: adata[20:60],
    "enlarged": enlarged,
    "more genes, in another order": lambda adata: ad.concat(
        [adata[:, GENES], ad.AnnData(np.ones((N, 1), np.float32), adata.obs, ad.AnnData(np.ones((1, 1))).var)], axis=1
    ),
}


def truly_trained(adata, dm, other):
    """By name, since only rows of the fit's data have both name and counts of one."""
    trained = set(adata.obs_names[dm.rows("training")])
    x = adata.to_df()
    same = other.to_df()[x.columns]
    return np.array(
        [name in trained and np.array_equal(same.loc[name], x.loc[name]) for name in map(str, other.obs_names)]
    )


@pytest.mark.parametrize("make", DATA.values(), ids=DATA)
@pytest.mark.parametrize("backed", [False, True], ids=["memory", "disk"])
def test_rows_that_were_trained_on_are_found(adata, dm, svi, make, backed, tmp_path):
    data = make(adata)
    if backed:
        data.copy().write_h5ad(tmp_path / "data.h5ad")
    source = {"adata": tmp_path / "data.h5ad", "backed": True} if backed else {"adata": data}
    other = po.CellDataModule(**source, validation_size=0.5, seed=7)
    truth = truly_trained(adata, dm, data)
    assert 0 < truth.sum() <= len(dm.rows("training"))
    assert np.array_equal(svi.trained_on(other), truth)
    held_out = other.rows("validation")
    said = rf"trained on {truth[held_out].sum()} of the {len(held_out)} rows that this DataModule holds out"
    with pytest.warns(UserWarning, match=said):
        po.Posterior(svi, other)
    mended = po.CellDataModule(**source, validation_indices=np.flatnonzero(~svi.trained_on(other)))
    po.Posterior(svi, mended)  # warnings are errors
    po.Posterior(svi, po.CellDataModule(**source, validation_size=0))


def test_new_rows_are_not_said_though_they_have_the_same_names(dm, svi):
    other = po.CellDataModule(others(50), validation_size=0.2)
    assert not svi.trained_on(other).any()
    po.Posterior(svi, other)
    po.Posterior(svi, dm)


def test_new_rows_on_disk_are_not_read(svi, tmp_path, monkeypatch):
    new = others()
    new.obs_names = [f"new{i}" for i in range(new.n_obs)]
    new[:, GENES].copy().write_h5ad(tmp_path / "new.h5ad")
    other = po.CellDataModule(tmp_path / "new.h5ad", backed=True, validation_size=0.5)
    monkeypatch.setattr("pyro_omics.data.matrices.disk.StoredMatrix.read", None)
    po.Posterior(svi, other)


def test_names_that_occur_twice_are_refused(adata):
    with pytest.raises(ValueError, match="must be unique"):
        po.CellDataModule(joined(adata))


def test_a_trainer_says_so_before_the_scores(adata, dm, svi):
    other = po.CellDataModule(adata, validation_size=0.2, seed=1)
    said = r"trained on \d+ of the 12 .*flatnonzero\(~svi.trained_on\(dm\)\)"
    for run in (quiet_trainer().validate, quiet_trainer().test):
        with pytest.warns(UserWarning, match=said):
            run(svi, other, verbose=False)
    quiet_trainer().predict(svi, other)  # no score
    again = fit(dm)
    with pytest.warns(UserWarning, match=said):
        fit(other, again)
    expected = np.union1d(dm.rows("training"), other.rows("training"))
    assert np.array_equal(np.flatnonzero(again.trained_on(dm)), expected)


def test_saved_fits_know_their_rows(adata, dm, svi, tmp_path):
    trainer = quiet_trainer(1)
    trainer.fit(svi_of := po.SVIModule(small(dm)), dm)
    trainer.save_checkpoint(tmp_path / "fit.ckpt")
    truth = svi_of.trained_on(dm)
    permuted = po.CellDataModule(DATA["permuted"](adata), validation_size=0.2)
    for saved in (
        po.load(svi.save(tmp_path / "model")),
        po.SVIModule.load_from_checkpoint(tmp_path / "fit.ckpt"),
    ):
        assert torch.equal(saved.row_codes, svi.row_codes) and saved.row_codes.element_size() == 8
        assert np.array_equal(saved.trained_on(dm), truth)
        with pytest.warns(UserWarning, match="trained on"):
            po.Posterior(saved, permuted)


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_a_checkpoint_over_other_data_says_so(adata, dm, tmp_path):
    trainer = quiet_trainer(1)
    trainer.fit(po.SVIModule(small(dm)), dm)
    trainer.save_checkpoint(tmp_path / "fit.ckpt")
    other = po.CellDataModule(adata, validation_size=0.2, seed=1)
    other.adopt(dm.schema, dm.n_obs, dm.sizes.description())  # as the command line does
    fresh = po.SVIModule(small(dm))
    with pytest.warns(UserWarning, match="trained on 48 of the 60 rows"):
        quiet_trainer().validate(fresh, other, ckpt_path=tmp_path / "fit.ckpt", verbose=False, weights_only=True)


def test_fits_of_earlier_versions_load(dm, svi, tmp_path):
    trainer = quiet_trainer(1)
    trainer.fit(po.SVIModule(small(dm)), dm)
    trainer.save_checkpoint(tmp_path / "fit.ckpt")
    checkpoint = torch.load(tmp_path / "fit.ckpt", weights_only=True)
    del checkpoint["pyro_omics"]["rows"]
    checkpoint["pyro_omics"]["schema"]["rows_digest"] = "0123456789abcdef"
    torch.save(checkpoint, tmp_path / "old.ckpt")
    folder = svi.save(tmp_path / "model")
    (folder / "rows.safetensors").unlink()
    for old in (po.load(folder), po.SVIModule.load_from_checkpoint(tmp_path / "old.ckpt")):
        po.Posterior(old, po.CellDataModule(counts(N), validation_size=0.2, seed=1))
        with pytest.raises(ValueError, match="rows that this model was trained on are not known"):
            old.trained_on(dm)
    assert Schema.from_dict({**dm.schema.to_dict(), "rows_digest": "0"}) == dm.schema


def test_compounds_are_known_by_name_and_counts():
    adata, _ = po.data.simulate.del_library(cycles=(6, 6))
    dm = po.DELDataModule(adata, validation_size=0.25)
    svi = fit(dm, po.SVIModule(po.DELCount.from_data(dm)))
    part = po.DELDataModule(adata[10:].copy(), validation_size=0.5)
    trained = np.isin(part.adata.obs_names, adata.obs_names[dm.rows("training")])
    assert np.array_equal(svi.trained_on(part), trained)


def test_codes_do_not_depend_on_the_order_of_sums():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2**18, (50, 500)).astype(float)
    exact = [sum(int(v) * int(w) for v, w in zip(row, column_weights(500), strict=True)) for row in x]
    assert max(exact) < 2**53
    assert weighted_sums(x).tolist() == exact
    assert len(set(codes_of(weighted_sums(x)))) == 50
