"""Matrices in every container and type that AnnData takes: the same counts, or a refusal that names the matrix."""

import decimal

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from anndata.io import sparse_dataset, write_elem

import pyro_omics as po
from pyro_omics.data.matrices.containers import compressed, dense, in_memory

N, G = 20, 7
X = np.random.default_rng(0).poisson(1.0, (N, G)).astype(np.float32)
X[0, 0] = 3


class Lazy:
    """A dask array's protocol, without dask."""

    shape = X.shape

    def __init__(self, made):
        self.made = made

    def __dask_graph__(self):
        return {}

    def compute(self):
        return self.made


def csr(dtype=np.float32, indices=np.int32, indptr=np.int32):
    found = sp.csr_matrix(X)
    found.data, found.indices = found.data.astype(dtype), found.indices.astype(indices)
    found.indptr = found.indptr.astype(indptr)
    return found


def twice(dtype):
    """Each count as two entries, whose sum an 8-bit or boolean addition does not hold."""
    once = sp.coo_matrix(X)
    rows, columns = np.repeat(once.row, 2), np.repeat(once.col, 2)
    order = np.argsort(rows, kind="stable")
    indptr = np.append(0, np.cumsum(np.bincount(rows, minlength=N)))
    return sp.csr_matrix((np.full(len(rows), 1 if dtype is bool else 150, dtype), columns[order], indptr), (N, G))


def stale():
    """A matrix whose flag says, wrongly, that no entry comes twice."""
    found = twice(np.float32)
    found.has_canonical_format = True
    return found


WIDE = np.zeros((2 * N, 2 * G), np.float32)
WIDE[::2, ::2] = X
FORMS = {
    **{f"dense {dtype}": X.astype(dtype) for dtype in ("f2", ">f4", ">i4", "<u2", "u1", "i8", ">f8", np.longdouble)},
    "fortran": np.asfortranarray(X),
    "strided": WIDE[::2, ::2],
    "backwards": X[::-1][::-1],
    "masked nowhere": np.ma.masked_array(X, np.zeros(X.shape, bool)),
    "csc": sp.csc_matrix(X),
    "csr array": sp.csr_array(X),
    **{f"csr {dtype}": csr(dtype) for dtype in ("f2", ">f4", "u1", "i8", np.longdouble)},
    "csr of 64-bit pointers": csr(indptr=np.int64),
    "csr of big-endian indices": csr(indices=">i4"),
    "csr of unsigned indices": csr(indices=np.uint32),
}


def of_cells(adata, layer=None):
    return po.CellDataModule(adata, layer, validation_size=0).data[range(adata.n_obs)].x.numpy()


@pytest.mark.parametrize("form", FORMS)
def test_counts_in_every_form(form):
    matrix = FORMS[form]
    layered = AnnData(np.log1p(X))
    layered.layers["umi"] = matrix
    assert np.array_equal(of_cells(AnnData(matrix)), X)
    assert np.array_equal(of_cells(layered, "umi"), X)
    if form != "csr f2":  # SciPy cannot cut it
        rows = np.arange(N)[::2]
        assert np.array_equal(of_cells(AnnData(matrix)[rows]), X[rows])
    assert np.array_equal(dense(matrix), X)
    screen = AnnData(matrix, var=pd.DataFrame({"condition": ["target"] * G}, index=list("abcdefg")))
    screen.obs["A"], screen.obs["B"] = [f"A{i % 5}" for i in range(N)], [f"B{i // 5}" for i in range(N)]
    assert np.array_equal(po.DELDataModule(screen).data[range(N)].x.numpy(), X)


def test_booleans_are_counts_of_0_and_1():
    assert np.array_equal(of_cells(AnnData(X > 0)), (X > 0).astype(np.float32))


@pytest.mark.parametrize("matrix", [twice(np.uint8), twice(bool), stale()])
def test_entries_that_come_twice_are_summed(matrix):
    before = matrix.copy()
    assert np.array_equal(of_cells(AnnData(matrix)), (X > 0) * 2.0 * float(matrix.data.max()))
    assert np.array_equal(matrix.indices, before.indices) and np.array_equal(matrix.data, before.data)


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.coo_matrix, sp.lil_matrix, sp.bsr_array, sp.dok_matrix])
def test_lazy_arrays_are_computed(form):
    assert np.array_equal(dense(Lazy(form(X)), "adata.X"), X)


def test_lazy_arrays_that_cannot_be_computed_are_refused():
    class Failing(Lazy):
        def compute(self):
            raise TypeError("no way to join the chunks")

    with pytest.raises(ValueError, match=r"adata.X is a dask array that cannot be computed \(no way.*to_memory"):
        in_memory(Failing(X), "adata.X")
    with pytest.raises(ValueError, match=r"adata.X is a dask array of chunks that are no arrays.*to_memory"):
        in_memory(Lazy(np.array([sp.csr_matrix(X), None])), "adata.X")


def test_matrices_of_files_are_read(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as group:
        for name, matrix in (("dense", X), ("csr", sp.csr_matrix(X)), ("csc", sp.csc_matrix(X))):
            write_elem(group, name, matrix)
            node = group[name] if name == "dense" else sparse_dataset(group[name])
            assert np.array_equal(dense(node, "adata.X"), X)


def test_frames_of_any_type_of_number():
    frame = pd.DataFrame(X.astype(int))
    assert np.array_equal(
        dense(frame.astype("Int64").mask(frame == 2), "y"), np.where(X == 2, np.nan, X), equal_nan=True
    )
    assert np.array_equal(dense(frame.assign(**{"0": frame[0] > 0}), "y")[:, -1], X[:, 0] > 0)


def test_masked_counts_are_refused_also_in_views():
    adata = AnnData(np.ma.masked_array(X, X == 3))
    adata.layers["umi"] = adata.X
    for one, layer, name in ((adata, None, "adata.X"), (adata[: N // 2], "umi", r"adata.layers\['umi'\]")):
        with pytest.raises(
            ValueError, match=rf"{name} has \d+ masked entries, the first at \(0, 0\).*cannot be missing"
        ):
            po.CellDataModule(one, layer)
    assert np.array_equal(of_cells(adata[(X != 3).all(1)]), X[(X != 3).all(1)])


def test_counts_that_float16_rounds_are_refused():
    large = X.copy()
    large[0, 0] = 2050
    with pytest.raises(ValueError, match=r"adata.X has float16 values above 2048.*skips integers"):
        po.CellDataModule(AnnData(large.astype(np.float16)))
    assert in_memory(large.astype(np.float16), "energies", counts=False).dtype == np.float32
    large[0, 0] = np.inf
    with pytest.raises(ValueError, match=r"adata.X does not hold counts: it has 1 infinite"):
        po.CellDataModule(AnnData(large.astype(np.float16)))


@pytest.mark.parametrize(("dtype", "seen"), [("S3", r"\|S3"), ("c8", "complex64")])
def test_types_that_are_no_numbers(dtype, seen):
    with pytest.raises(ValueError, match=rf"adata.X does not hold counts: its values are of type {seen}"):
        po.CellDataModule(AnnData(X.astype(dtype)))


def objects(first):
    """The counts as Python's numbers, as a DataFrame with a column of text gives them, with another first one."""
    found = X.astype(int).astype(object)
    found[0, 0] = first
    return found


@pytest.mark.parametrize("first", [3, 3.0, np.int8(3), np.float32(3), decimal.Decimal(3), True])
def test_numbers_as_objects_are_counts(first):
    found, as_csr, total = objects(first), csr(object), X.sum() - 3 + int(first)
    as_csr.data[0] = first
    adata = AnnData(found, layers={"dense": found, "sparse": as_csr})
    adata.obsm["matrix"] = found
    adata.obsm["frame"] = pd.DataFrame(found, adata.obs_names)
    for layer in (None, "dense", "sparse"):
        assert po.CellDataModule(adata, layer=layer).data.counts.totals.sum() == total
    for key in adata.obsm:
        assert po.CellDataModule(adata, protein_obsm_key=key).data.fields["y"].sum() == total


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("3", r"must hold numbers; got '3', a str, at \(0, 0\): convert it, .astype\(float\)"),
        (1j, r"must hold numbers; got 1j, a complex"),
        ([3], r"must hold numbers; got \[3\], a list"),
        (10**400, r"must hold numbers; got one that is too large"),
        *[(value, "does not hold counts: it has 1 NaN") for value in (None, np.nan, pd.NA)],
        (1.5, "does not hold counts: it has 1 non-integer values, such as 1.5"),
        (-1, "does not hold counts: it has negative values, the lowest -1"),
        (2**70, "does not hold counts: its largest value is 1.18059e.21, above 2.24"),
    ],
)
def test_objects_that_are_no_counts(first, message):
    with pytest.raises(ValueError, match=rf"adata.X {message}"):
        po.CellDataModule(AnnData(objects(first)))
    adata = AnnData(X, obsm={"y": objects(first)})
    if "NaN" in message:  # of proteins: not measured
        assert po.CellDataModule(adata, protein_obsm_key="y").data.fields["measured"].sum() == N * G - 1
    else:
        with pytest.raises(ValueError, match=r"adata.obsm\['y'\] "):
            po.CellDataModule(adata, protein_obsm_key="y")


def test_other_containers_are_named():
    class Array:
        def __array__(self, dtype=None, copy=None):
            raise TypeError("implicit conversion is not allowed")

    for matrix in (Array(), object()):
        with pytest.raises(ValueError, match=r"adata.X must be a NumPy array, a SciPy matrix.*; got a .*: convert it"):
            in_memory(matrix, "adata.X")


# What compiled loops must not read ------------------------------------------------------------------------------------


BROKEN = [
    ("indptr", 5, 10**6, r"pointers \(indptr\) fall from 1000000 to \d+ in LINE 5"),
    ("indptr", 5, -1, r"pointers \(indptr\) fall from \d+ to -1 in LINE 4"),
    ("indptr", 0, 2, r"pointers \(indptr\) must start at 0; got 2"),
    ("indptr", -1, 2**31 - 1, r"pointers \(indptr\) must end at its \d+ values; got 2147483647, beyond .* LINE"),
    ("indptr", slice(None), 0, r"pointers \(indptr\) must end at its \d+ values; got 0"),
    ("indices", 9, 10**6, r"must be from 0 to \d+; got 1000000 in LINE \d"),
    ("indices", -1, -1, r"must be from 0 to \d+; got -1 in LINE (19|6)"),
]


@pytest.mark.parametrize(("form", "line"), [(sp.csr_matrix, "row"), (sp.csc_array, "column")])
@pytest.mark.parametrize(("part", "at", "value", "message"), BROKEN)
def test_broken_matrices_are_refused(form, line, part, at, value, message):
    """Before a loop follows the pointers: these ended the process, or gave other counts."""
    adata = AnnData(form(X))
    adata.layers["umi"] = form(X)
    for matrix in (adata.X, adata.layers["umi"]):
        getattr(matrix, part)[at] = value
    message = message.replace("LINE", line)
    for one, layer, name in ((adata, None, "adata.X"), (adata[:5], "umi", r"adata.layers\['umi'\]")):
        with pytest.raises(ValueError, match=rf"{name} cannot be read: .*{message}.*broken or cut short"):
            po.CellDataModule(one, layer)


def test_lengths_that_do_not_agree():
    good = sp.csr_matrix(X)
    for data, indices, indptr, message in (
        (good.data, good.indices, good.indptr[:-1], f"must have {N + 1} row pointers .*; got {N}"),
        (good.data[:-1], good.indices, good.indptr, "as many indices as values"),
        (good.data, good.indices, good.indptr.astype(float), "must be whole numbers; got float64"),
        (good.data, good.indices.astype(float), good.indptr, "must be whole numbers; got float64"),
    ):
        with pytest.raises(ValueError, match=f"adata.X cannot be read: .*{message}"):
            compressed((data, indices, indptr), (N, G), "adata.X")


def test_coordinates_out_of_range():
    matrix = sp.coo_matrix(X)
    matrix.row[3] = N
    with pytest.raises(ValueError, match=rf"adata.X cannot be read: its rows must be from 0 to {N - 1}; got {N}"):
        in_memory(Lazy(matrix), "adata.X")
