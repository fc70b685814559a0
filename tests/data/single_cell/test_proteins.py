"""Protein tables: what is refused, by name, and MuData as input."""

from types import SimpleNamespace

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from helpers import counts, donors, quiet_trainer

import pyro_omics as po
from pyro_omics.data.single_cell.proteins import ProteinTable

N, G = 48, 10
NAMES = ["A", "B", "C"]


def table(n=N, seed=0):
    rng = np.random.default_rng(seed)
    mean = np.where(rng.random((n, 3)) < 0.4, 40.0, 4.0)
    return pd.DataFrame(rng.poisson(mean), index=[f"cell{i}" for i in range(n)], columns=NAMES).astype(float)


def cells(y=None, **obs):
    adata = counts(N, G, donor=donors(N, "d1", "d2"), **obs)
    adata.obsm["y"] = table() if y is None else y
    return adata


def changed(row, column, value):
    y = table()
    y.iloc[row, column] = value
    return y


def data(adata, **options):
    return po.CellDataModule(adata, **{"protein_obsm_key": "y", **options})


@pytest.mark.parametrize("stored", ["frame", "array", "csr", "csc", "int", "nullable", "sparse frame"])
def test_stored_in_any_way(stored):
    y = table()
    store = {
        "frame": lambda: y,
        "array": lambda: y.to_numpy(),
        "csr": lambda: sp.csr_matrix(y.to_numpy()),
        "csc": lambda: sp.csc_matrix(y.to_numpy()),
        "int": lambda: y.astype(int),
        "nullable": lambda: y.astype("Int64"),
        "sparse frame": lambda: y.astype(pd.SparseDtype(float, 0.0)),
    }
    dm = data(cells(store[stored]()))
    batch = dm.data[[5, 2]]
    assert np.array_equal(batch.y, y.to_numpy()[[5, 2]])
    assert batch.measured is None
    assert list(dm.schema.proteins) == (NAMES if "frame" in stored or stored in ("int", "nullable") else
                                     ["protein0", "protein1", "protein2"])  # fmt: skip


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (
            changed(3, 1, -2),
            r"adata.obsm\['y'\] \(protein_.*\) does not hold counts: 1 values are negative, such as -2 of 'B' in row 3",
        ),
        (changed(7, 0, 2.5), r"1 values are non-integer, such as 2.5 of 'A' in row 7.*raw counts"),
        (changed(0, 2, np.inf), r"1 values are infinite, such as inf of 'C' in row 0"),
        (changed(0, 2, 2.0**25), r"values are above 2\^24"),
        (table().assign(D="high").astype({"D": object}), r"the column 'D' must hold numbers; got 'high', a str"),
        (table().assign(D=pd.Timestamp(0)), r"must hold numbers; got datetime.* in the column 'D'"),
        (
            table()[["A", "B", "A"]],
            r"the columns of adata.obsm\['y'\] \(protein_obsm_key\) must be unique; got 'A' twice: rename",
        ),
        (table()[[]], r"must have a column for each protein; got none"),
        (table().assign(B=7.0), r"the proteins \['B'\] have the same count .*zero variance.*leave them out"),
        (table().assign(B=0.0), r"the proteins \['B'\] have the same count .*zero variance"),
        (table().assign(B=np.nan), r"the proteins \['B'\] were measured in no training cell"),
        (table() * np.nan, r"no training cell has any protein measured: use SCVI"),
        (table().to_numpy().astype(str), r"adata.obsm\['y'\] must hold numbers; got <U\d+"),
    ],
)
def test_wrong_counts_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        po.TotalVI.from_data(data(cells(y)))


def test_rows_in_another_order_are_refused():
    adata = cells()
    adata.obsm["y"].index = adata.obs_names[::-1]
    with pytest.raises(ValueError, match=r"rows in another order than adata.obs_names.*\.loc\[adata.obs_names\]"):
        data(adata)


def test_rows_are_compared_where_anndata_does_not():
    names = cells().obs_names
    adata = SimpleNamespace(obs_names=names, obsm={"y": table().iloc[::-1]})
    with pytest.raises(
        ValueError, match=r"rows in the order of adata.obs_names; got 'cell47' in row 0 and not 'cell0'"
    ):
        ProteinTable.read(adata, "y", None)
    adata.obsm["y"] = table().rename(index="other{}".format)
    with pytest.raises(ValueError, match=r"must have adata.obs_names as row names, such as 'cell0'; got 'othercell0'"):
        ProteinTable.read(adata, "y", None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protein_obsm_key": "z"}, r"protein_obsm_key must be a key of adata.obsm, \['y'\]; got 'z'"),
        ({"protein_obsm_key": ["y"]}, r"protein_obsm_key must be the name of one column or layer; got \['y'\]"),
        (
            {"protein_mask": "none"},
            r"protein_mask must be a key of adata.obsm, \['y'\], or a column of adata.obs, .*; got 'none'",
        ),
        ({"protein_mask": "group"}, r"protein_mask must be booleans .*True where measured; got object"),
        ({"protein_mask": np.ones((N, 2), bool)}, r"protein_mask must be booleans .* \(48, 3\) .* of shape \(48, 2\)"),
        ({"protein_mask": np.zeros(N, bool)}, r"no training cell has any protein measured"),
        ({"protein_mask": "y", "protein_obsm_key": None}, r"protein_mask needs protein counts"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        po.TotalVI.from_data(data(cells(), **options))


def test_measured_in_held_out_cells_alone_is_refused():
    y = table()
    y.loc[y.index[5:], "C"] = np.nan
    with pytest.raises(ValueError, match=r"\['C'\] were measured in no training cell"):
        po.TotalVI.from_data(data(cells(y), validation_indices=range(5)))


def test_every_batch_without_proteins_is_refused():
    with pytest.warns(UserWarning, match="are zero"), pytest.raises(ValueError, match="no training cell has any"):
        po.TotalVI.from_data(data(cells(table() * 0), batch_key="donor"))


def test_background_of_few_or_odd_cells():
    """Tiny batches, and batches of a single value, start somewhere finite."""
    y = table()
    y.iloc[::2, 1] = 3.0
    adata = cells(y)
    adata.obs["donor"] = ["d1", "d2"] * (N // 2 - 1) + ["d1", "tiny"]
    dm = data(adata, batch_key="donor", validation_size=0)
    start = np.array(dm.sizes.protein_background)
    assert start.shape == (3, 3, 2) and np.isfinite(start).all() and (start[..., 1] >= 0.1).all()
    assert start[0, 1, 0] == pytest.approx(np.log(4.0))


# MuData ---------------------------------------------------------------------------------------------------------------


def multimodal(order=None, missing=0, rna="rna", protein="prot"):
    adata = cells()
    y = table().iloc[missing:]
    y = y if order is None else y.sample(frac=1, random_state=order)
    prot = AnnData(sp.csr_matrix(y.to_numpy()), obs=pd.DataFrame(index=y.index), var=pd.DataFrame(index=NAMES))
    del adata.obsm["y"]
    mdata = mudata.MuData({rna: adata, protein: prot})
    mdata.obs["site"] = ["s1", "s2"] * (N // 2)
    return mdata


@pytest.fixture(autouse=True)
def _mudata_as_it_will_be():
    with mudata.set_options(pull_on_update=False):
        yield


def test_mudata_is_matched_by_name(tmp_path):
    plain = data(cells(), batch_key="donor")
    mdata = multimodal(order=1)
    mdata.write(tmp_path / "cells.h5mu")
    for source in (mdata, tmp_path / "cells.h5mu"):
        dm = po.CellDataModule(source, batch_key="donor")
        assert list(dm.schema.proteins) == NAMES
        assert dm.sizes == plain.sizes
        one, other = dm.data[range(N)], plain.data[range(N)]
        assert np.array_equal(one.y, other.y) and np.array_equal(one.x, other.x)
    assert po.CellDataModule(mdata, batch_key="site").schema.batches == ("s1", "s2")


def test_cells_that_a_modality_lacks_were_not_measured():
    dm = po.CellDataModule(multimodal(order=2, missing=6))
    assert dm.data.fields["measured"][:6].any() == False  # noqa: E712
    assert dm.data.fields["measured"][6:].all()


def test_modalities_of_other_names():
    mdata = multimodal(rna="transcripts", protein="epitopes")
    with pytest.raises(
        ValueError, match=r"rna must be a modality .*, \['transcripts', 'epitopes'\]; got 'rna'.*rna=..."
    ):
        po.CellDataModule(mdata)
    adata = po.data.from_mudata(mdata, rna="transcripts", protein="epitopes")
    pd.testing.assert_frame_equal(adata.obsm["protein_counts"], table(), check_dtype=False)
    assert po.CellDataModule(adata, protein_obsm_key="protein_counts").sizes.n_proteins == 3
    assert "protein_counts" not in po.data.from_mudata(mdata, rna="transcripts").obsm
    with pytest.raises(ValueError, match=r"protein must be a modality of the MuData, \[.*\]; got 'prot'"):
        po.data.from_mudata(mdata, rna="transcripts", protein="prot")


def test_mudata_from_counts_to_its_obsm():
    mdata = multimodal()
    dm = po.CellDataModule(mdata, batch_key="donor")
    svi = po.SVIModule(po.TotalVI.from_data(dm, n_latent=2, n_hidden=8))
    quiet_trainer(1).fit(svi, dm)
    po.Posterior(svi, dm).annotate(mdata)
    assert mdata.obsm["X_totalvi"].shape == (N, 2)
