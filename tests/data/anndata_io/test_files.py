"""Files and stores: old versions and odd types are read alike in memory and on disk; broken ones are refused."""

import os
import shutil
import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

import pyro_omics as po

N, G = 100, 30
X = np.random.default_rng(0).poisson(0.7, (N, G)).astype(np.float32)
BACKED = pytest.mark.parametrize("backed", [False, True])
SUFFIX = pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])


def written(path, matrix=None, **layers):
    adata = ad.AnnData(sp.csr_matrix(X) if matrix is None else matrix)
    for name, layer in layers.items():
        adata.layers[name] = layer
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anndata's own writer of zarr
        adata.write_zarr(path) if path.suffix == ".zarr" else adata.write_h5ad(path)
    return path


def opened(path):
    return zarr.open_group(str(path), mode="r+") if path.suffix == ".zarr" else h5py.File(path, "r+")


def x_of(dm):
    return dm.data[range(N)].x.numpy()


# Old versions, other types, other suffixes ----------------------------------------------------------------------------


def old(path, form):
    """An AnnData as version 0.5 wrote it: tables are arrays of records, and categories are in uns."""
    group = zarr.open_group(str(path), mode="w", zarr_format=2) if path.suffix == ".zarr" else h5py.File(path, "w")
    put = (lambda name, data: group.create_array(name, data=data)) if path.suffix == ".zarr" else group.create_dataset
    if form == "dense":
        put("X", data=X)
    else:
        matrix = sp.csr_matrix(X) if form == "csr" else sp.csc_matrix(X)
        node = group.create_group("X")
        for part in ("data", "indices", "indptr"):
            put(f"X/{part}", data=getattr(matrix, part))
        node.attrs["h5sparse_format"], node.attrs["h5sparse_shape"] = form, [N, G]
    rows = [(f"c{i}".encode(), i % 2) for i in range(N)]
    put("obs", data=np.array(rows, dtype=[("index", "S8"), ("run", "i1")]))
    put("var", data=np.array([(f"g{i}".encode(),) for i in range(G)], dtype=[("index", "S8")]))
    group.create_group("uns")
    put("uns/run_categories", data=np.array([b"left", b"right"]))
    if path.suffix != ".zarr":
        group.close()
    return path


@BACKED
@SUFFIX
@pytest.mark.parametrize("form", ["dense", "csr"])
@pytest.mark.filterwarnings("ignore")
def test_old_files(tmp_path, form, suffix, backed):
    dm = po.CellDataModule(old(tmp_path / f"old{suffix}", form), batch_key="run", backed=backed)
    assert np.array_equal(x_of(dm), X)
    assert dm.schema.batches == ("left", "right") and dm.schema.genes[1] == "g1"
    assert dm.data[range(4)].batch.tolist() == [0, 1, 0, 1]


@pytest.mark.filterwarnings("ignore")
def test_old_files_stored_by_columns_are_not_left_on_disk(tmp_path):
    path = old(tmp_path / "old.h5ad", "csc")
    assert np.array_equal(x_of(po.CellDataModule(path)), X)
    with pytest.raises(ValueError, match="must be stored by rows"):
        po.CellDataModule(path, backed=True)


@BACKED
@pytest.mark.parametrize("dtype", ["f2", ">f4", ">i2", "u8", "f8"])
@pytest.mark.parametrize("form", ["dense", "csr"])
def test_numbers_of_every_type(tmp_path, form, dtype, backed):
    path = written(tmp_path / "cells.h5ad", X if form == "dense" else None, umi=sp.csr_matrix(X))
    with opened(path) as file:
        for name in ("X",) if form == "dense" else ("X/data", "layers/umi/data"):
            attributes, values = dict(file[name].attrs), file[name][:].astype(dtype)
            del file[name]
            file[name] = values
            file[name].attrs.update(attributes)
    assert np.array_equal(x_of(po.CellDataModule(path, backed=backed)), X)
    assert np.array_equal(x_of(po.CellDataModule(path, "umi", backed=backed)), X)


@BACKED
def test_upper_case_suffixes(tmp_path, backed):
    for name in ("CELLS.H5AD", "Cells.Zarr"):
        path = written(tmp_path / f"lower{name[5:].lower()}")
        shutil.move(path, tmp_path / name)
        assert np.array_equal(x_of(po.CellDataModule(tmp_path / name, backed=backed)), X)


@BACKED
def test_sparse_arrays(tmp_path, backed):
    path = written(tmp_path / "cells.h5ad", sp.csr_array(X))
    with ad.settings.override(use_sparse_array_on_read=True):
        assert np.array_equal(x_of(po.CellDataModule(path, backed=backed)), X)


# Broken files ---------------------------------------------------------------------------------------------------------


def put(part, at, value):
    def edit(group):
        values = group[f"X/{part}"][:]
        values[at] = value
        group[f"X/{part}"][:] = values

    return edit


def cut(*parts):
    def edit(group):
        for part in parts:
            values = group[f"X/{part}"][:]
            del group[f"X/{part}"]
            group[f"X/{part}"] = values[:-1]

    return edit


def by_columns(group):
    group["X"].attrs["encoding-type"] = "csc_matrix"


def narrower(group):
    group["X"].attrs["shape"] = [N, G - 2]


def fewer(group):
    group["X"].attrs["shape"] = [N - 1, G]


def without_indices(group):
    del group["X/indices"]


EVERYWHERE = {
    "pointer beyond": (put("indptr", 50, 10**6), r"fall from 1000000 to \d+ in row 50"),
    "pointer falls": (put("indptr", 50, 3), r"fall from \d+ to 3 in row 49"),
    "pointer below 0": (put("indptr", 1, -5), "fall from 0 to -5 in row 0"),
    "first pointer": (put("indptr", 0, 5), "must start at 0; got 5 in row 0"),
    "last pointer": (put("indptr", -1, 2**31 - 1), r"must end at its \d+ values; got 2147483647, beyond"),
    "no pointers": (put("indptr", slice(None), 0), r"must end at its \d+ values; got 0"),
    "column beyond": (put("indices", 7, 2**31 - 1), rf"must be from 0 to {G - 1}; got 2147483647 in row 0"),
    "column below 0": (put("indices", -1, -(2**31)), rf"must be from 0 to {G - 1}; got -2147483648 in row {N - 1}"),
    "column next to the last": (put("indices", 7, G), rf"must be from 0 to {G - 1}; got {G} in row 0"),
}
IN_H5AD = {
    "few pointers": (cut("indptr"), rf"must have {N + 1} row pointers .* got {N}"),
    "few values": (cut("data"), "as many indices as values"),
    "few columns": (cut("indices"), "as many indices as values"),
    "cut short": (cut("data", "indices"), r"must end at its \d+ values"),
    "columns for rows": (by_columns, rf"must have {G + 1} column pointers .* got {N + 1}"),
    "narrower": (narrower, r"must have as many rows as `X` has columns|must have a row for each|from 0 to 27"),
    "fewer rows": (fewer, r"must have as many rows as `X` has rows|must have 100 row pointers"),
    "no indices": (without_indices, "indices"),
}
CASES = [(suffix, name) for suffix in (".h5ad", ".zarr") for name in EVERYWHERE] + [(".h5ad", name) for name in IN_H5AD]


@BACKED
@pytest.mark.parametrize(("suffix", "case"), CASES)
def test_broken_files_are_refused_by_name(tmp_path, suffix, case, backed):
    edit, message = {**EVERYWHERE, **IN_H5AD}[case]
    path = written(tmp_path / f"broken{suffix}")
    group = opened(path)
    edit(group)
    if suffix == ".h5ad":
        group.close()
    with pytest.raises(ValueError, match=message) as error:
        po.CellDataModule(path, backed=backed)
    assert f"broken{suffix}" in str(error.value)
    if case in EVERYWHERE:
        assert "adata.X" in str(error.value)


def test_a_backed_anndata_is_checked_too(tmp_path):
    path = written(tmp_path / "cells.h5ad")
    with opened(path) as file:
        put("indices", 500, 99)(file)
    with pytest.raises(ValueError, match=rf"adata.X of '.*cells.h5ad' cannot be read: .*to {G - 1}; got 99 in row \d+"):
        po.CellDataModule(ad.read_h5ad(path, backed="r"))


@BACKED
def test_the_layer_that_is_used_is_checked(tmp_path, backed):
    path = written(tmp_path / "cells.h5ad", umi=sp.csr_matrix(X))
    with opened(path) as file:
        file["layers/umi/indptr"][50] = 3
    with pytest.raises(ValueError, match=r"adata.layers\['umi'\]") as error:
        po.CellDataModule(path, "umi", backed=backed)
    assert "cells.h5ad" in str(error.value)
    assert np.array_equal(x_of(po.CellDataModule(path, backed=backed)), X)


@BACKED
def test_a_sparse_table_of_obsm_is_checked(tmp_path, backed):
    adata = ad.AnnData(sp.csr_matrix(X), obsm={"y": sp.csr_matrix(X[:, :4])})
    adata.write_h5ad(tmp_path / "cells.h5ad")
    with opened(tmp_path / "cells.h5ad") as file:
        file["obsm/y/indptr"][50] = 10**6
    with pytest.raises(ValueError, match=r"cells.h5ad'.*adata.obsm\['y'\] cannot be read: .* in row 50"):
        po.CellDataModule(tmp_path / "cells.h5ad", protein_obsm_key="y", backed=backed)


def chunk_of(path, part):
    """The first file of a chunk of X."""
    found = [os.path.join(folder, name) for folder, _, names in os.walk(path / "X" / part) for name in names]
    return next(name for name in sorted(found) if not name.endswith(("json", ".zarray", ".zattrs")))


@BACKED
@pytest.mark.parametrize("part", ["data", "indices", "indptr"])
def test_chunks_of_a_store_that_are_gone_or_cut(tmp_path, part, backed):
    """Zarr reads zeros where a chunk is gone."""
    path = written(tmp_path / "cells.zarr")
    chunk = chunk_of(path, part)
    with open(chunk, "r+b") as file:
        file.truncate(os.path.getsize(chunk) // 2)
    for message in ("cells.zarr", r"lack \d+ of \d+ chunks|must end at its"):
        with pytest.raises(ValueError, match=message) as error:
            po.CellDataModule(path, backed=backed)
        assert "cells.zarr" in str(error.value)
        if os.path.exists(chunk):
            os.remove(chunk)


def test_one_column_of_a_store_may_lack_its_indices(tmp_path):
    path = written(tmp_path / "cells.zarr", sp.csr_matrix(X[:, :1] + 1))
    assert np.array_equal(x_of(po.CellDataModule(path, backed=True)), X[:, :1] + 1)


@BACKED
def test_a_chunk_that_cannot_be_unpacked(tmp_path, backed):
    path = tmp_path / "cells.h5ad"
    ad.AnnData(sp.csr_matrix(X)).write_h5ad(path, compression="gzip")
    with h5py.File(path, "r") as file:
        at = file["X/data"].id.get_chunk_info(0).byte_offset
    with open(path, "r+b") as file:
        file.seek(at + 10)
        file.write(b"\xff" * 50)
    with pytest.raises(ValueError, match=r"cells.h5ad"):
        po.CellDataModule(path, backed=backed)


@BACKED
def test_other_rows_than_those_of_obs(tmp_path, backed):
    path = written(tmp_path / "cells.h5ad", X)
    with opened(path) as file:
        attributes = dict(file["X"].attrs)
        del file["X"]
        file["X"] = X[:-1]
        file["X"].attrs.update(attributes)
    with pytest.raises(ValueError, match=r"cells.h5ad.*(as many rows as `X` has rows|a row for each of the 100 rows)"):
        po.CellDataModule(path, backed=backed)


@pytest.mark.parametrize("gone", ["obs", "var"])
def test_a_file_without_tables(tmp_path, gone):
    path = written(tmp_path / "cells.h5ad")
    with opened(path) as file:
        del file[gone]
    with pytest.raises(ValueError, match=f"cells.h5ad' could not be read as an AnnData .it has no {gone}"):
        po.CellDataModule(path, backed=True)


def test_columns_are_checked_again_when_rows_are_read(tmp_path):
    path = written(tmp_path / "cells.h5ad")
    dm = po.CellDataModule(path, backed=True)
    dm.data.counts.source.indices._open = None
    os.replace(written(tmp_path / "other.h5ad"), path)
    with opened(path) as file:
        put("indices", 3, G)(file)
    with pytest.raises(ValueError, match=rf"its columns must be from 0 to {G - 1}; got {G} in row 0"):
        dm.data[range(N)]
    assert isinstance(dm.adata.obs, pd.DataFrame)
