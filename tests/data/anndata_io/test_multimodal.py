"""MuData: the same cells and proteins from memory, .h5mu and .zarr, read or left on disk; what is refused, by name."""

import warnings

import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData

import pyro_omics as po
from pyro_omics.data.matrices.disk import StoredMatrix

N, G, NAMES = 40, 9, ["CD3", "CD4", "CD8"]
RNG = np.random.default_rng(0)
X = RNG.poisson(1.0, (N, G)).astype(np.float32)
Y = RNG.poisson(6.0, (N, 3)).astype(np.float32)
CELLS = [f"c{i}" for i in range(N)]
FORMS = ["memory", ".h5mu", ".h5mu backed", ".zarr", ".zarr backed", "backed MuData", "upper case", "misnamed"]


@pytest.fixture(autouse=True)
def _mudata_as_it_will_be():
    with mudata.set_options(pull_on_update=False):
        yield


def multimodal(rna="rna", protein="prot", make=np.asarray, cells=CELLS, **layers):
    one, other = AnnData(make(X)), AnnData(make(Y))
    one.obs_names, other.obs_names, other.var_names = CELLS, cells, NAMES
    one.obs["donor"] = ["d1", "d2"] * (N // 2)
    for adata in (one, other):
        for name, layer in layers.items():
            adata.layers[name] = layer(adata.X)
    mdata = mudata.MuData({rna: one, protein: other})
    if list(cells) == CELLS:
        mdata.obs["site"] = ["s1", "s2", "s3", "s4"] * (N // 4)
    return mdata


def given(form, mdata, folder):
    """The arguments of a CellDataModule."""
    if form == "memory":
        return {"adata": mdata}
    names = {"misnamed": "cells.h5ad", "upper case": "CELLS.H5MU"}
    path = folder / names.get(form, "cells.zarr" if ".zarr" in form else "cells.h5mu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anndata's own writer of zarr
        mdata.write_zarr(path) if ".zarr" in form else mdata.write(path)
    if form == "backed MuData":
        return {"adata": mudata.read_h5mu(path, backed="r")}
    return {"adata": path, "backed": "backed" in form}


@pytest.mark.parametrize("make", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_minibatches(tmp_path, form, make):
    plain = AnnData(X, obs=pd.DataFrame({"donor": ["d1", "d2"] * (N // 2)}, index=CELLS))
    plain.obsm["y"] = pd.DataFrame(Y, index=CELLS, columns=NAMES)
    truth = po.CellDataModule(plain, batch_key="donor", protein_obsm_key="y")
    dm = po.CellDataModule(**given(form, multimodal(make=make), tmp_path), batch_key="donor")
    assert isinstance(dm.data.counts, StoredMatrix) == ("backed" in form)
    assert dm.schema == truth.schema and dm.sizes == truth.sizes
    one, other = dm.data[range(N)], truth.data[range(N)]
    assert torch.equal(one.x, other.x) and torch.equal(one.y, other.y) and one.measured is None
    for minibatch in dm.train_dataloader():
        assert torch.equal(minibatch.x, other.x[minibatch.row])


@pytest.mark.parametrize("form", FORMS)
def test_columns_of_the_mudata_are_those_of_its_cells(tmp_path, form):
    dm = po.CellDataModule(**given(form, multimodal(), tmp_path), batch_key="site")
    assert dm.schema.batches == ("s1", "s2", "s3", "s4")
    assert dm.data[[0, 1, 5]].batch.tolist() == [0, 1, 1]


@pytest.mark.parametrize("form", FORMS)
def test_a_layer_is_that_of_both_modalities(tmp_path, form):
    """As muon keeps them: counts in a layer, and transformed values in X."""
    mdata = multimodal(counts=np.copy)
    for adata in mdata.mod.values():
        adata.X = np.log1p(adata.X)
    batch = po.CellDataModule(**given(form, mdata, tmp_path), layer="counts").data[range(N)]
    assert np.array_equal(batch.x, X) and np.array_equal(batch.y, Y)


@pytest.mark.parametrize("form", ["memory", ".h5mu backed", ".zarr"])
def test_proteins_without_the_layer_are_in_x(tmp_path, form):
    mdata = multimodal()
    mdata.mod["rna"].layers["counts"] = X
    mdata.mod["rna"].X = np.log1p(X)
    batch = po.CellDataModule(**given(form, mdata, tmp_path), layer="counts").data[range(N)]
    assert np.array_equal(batch.x, X) and np.array_equal(batch.y, Y)


def test_proteins_that_are_no_counts_are_refused_with_a_mend_that_works():
    mdata = multimodal()
    mdata.mod["prot"].layers["counts"] = Y
    mdata.mod["prot"].X = np.log1p(Y)
    with pytest.raises(ValueError, match=r"mdata.mod\['prot'\].X does not hold counts.*log-transformed") as error:
        po.CellDataModule(mdata)
    mend = str(error.value).partition("looks like counts: ")[2]
    dm = eval(mend, {"CellDataModule": po.CellDataModule, "data": po.data, "mdata": mdata})
    assert np.array_equal(dm.data[range(N)].y, Y)
    with pytest.raises(ValueError, match=r"protein_layer must be a layer of 'prot', \['counts'\]; got 'raw'"):
        po.data.from_mudata(mdata, protein_layer="raw")


@pytest.mark.parametrize("protein", ["protein", "prot", "adt", "ADT", "Proteins", "cite", "Antibody Capture"])
@pytest.mark.parametrize("rna", ["rna", "GEX", "Gene Expression", "gene_expression"])
def test_usual_names_of_modalities(rna, protein):
    assert po.CellDataModule(multimodal(rna, protein)).schema.proteins == tuple(NAMES)


def test_the_advice_for_other_names_works():
    mdata = multimodal(protein="epitopes")
    with pytest.raises(ValueError, match="TotalVI needs protein counts") as error:
        po.TotalVI.from_data(po.CellDataModule(mdata))
    advice = "CellDataModule(data.from_mudata(mdata, protein=...), protein_obsm_key='protein_counts')"
    assert advice in str(error.value)
    mend = advice.replace("...", "'epitopes'")
    dm = eval(mend, {"CellDataModule": po.CellDataModule, "data": po.data, "mdata": mdata})
    assert po.TotalVI.from_data(dm).n_proteins == 3


def test_names_that_differ_in_case_are_asked_about():
    rna, one = multimodal().mod.values()
    other = one.copy()
    other.var_names = [f"{name}_" for name in NAMES]
    mdata = mudata.MuData({"rna": rna, "adt": one, "ADT": other})
    with pytest.raises(ValueError, match=r"the MuData has the modalities \['adt', 'ADT'\]: pass one"):
        po.CellDataModule(mdata)


def test_masked_proteins_were_not_measured():
    mask = Y == 6
    mdata = multimodal()
    mdata.mod["prot"].X = np.ma.masked_array(np.where(mask, 9999, Y), mask)
    for one in (mdata, mdata[: N // 2]):
        batch, at = po.CellDataModule(one).data[range(one.n_obs)], slice(one.n_obs)
        assert np.array_equal(batch.measured, ~mask[at]) and np.array_equal(batch.y, np.where(mask, 0, Y)[at])
    mdata.mod["rna"].X = np.ma.masked_array(X, X == 1)
    for one in (mdata, mdata[: N // 2]):
        with pytest.raises(ValueError, match=r"adata.X has \d+ masked entries"):
            po.CellDataModule(one)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore")
def test_modalities_that_share_genes_are_refused(tmp_path, form):
    one, other = (AnnData(X[:, :3], obs=pd.DataFrame(index=[f"{s}{i}" for i in range(N)])) for s in "ab")
    mdata = mudata.MuData({"rna": one, "prot": other}, axis=1)
    with pytest.raises(ValueError, match=r"must be a MuData whose modalities share their cells \(axis=0\); got axis=1"):
        po.CellDataModule(**given(form, mdata, tmp_path))


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([f"d{i}" for i in range(N)], "'prot' must have cells of the RNA, such as 'c0'; got none of them, but 'd0'"),
        (
            [f"{name} " for name in CELLS],
            "'prot' must have the cells' names; got 'c0 ' for 'c0', which differ in blanks",
        ),
        ([*CELLS[:-1], "c39\u00a0"], "'prot' must have the cells' names; got 'c39.*' for 'c39'"),
    ],
)
def test_cells_of_other_names_are_refused(cells, message):
    with pytest.raises(ValueError, match=f"the modality {message}"):
        po.CellDataModule(multimodal(cells=cells))


@pytest.mark.parametrize("backed", [False, True])
def test_broken_matrices_of_a_file_are_refused(tmp_path, backed):
    for modality, name in (("rna", "adata.X"), ("prot", r"mdata.mod\['prot'\].X")):
        path = given(".h5mu", multimodal(make=sp.csr_matrix), tmp_path)["adata"]
        with h5py.File(path, "r+") as file:
            file[f"mod/{modality}/X/indptr"][5] = 10**6
        with pytest.raises(ValueError, match=rf"cells.h5mu|{name}") as error:
            po.CellDataModule(path, backed=backed)
        assert "fall from 1000000" in str(error.value) and "cells.h5mu" in str(error.value)
