"""Counts that stay on disk: the same minibatches, models and posteriors as from memory, read in blocks."""

import hashlib
import itertools
import warnings
from collections import Counter
from functools import partial
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import scipy.sparse as sp
import torch
import zarr
from helpers import counts, donors, fitted, quiet_trainer, small
from torch import distributed

import pyro_omics as po
from pyro_omics.data import Blocks, CellDataModule
from pyro_omics.data.matrices import disk
from pyro_omics.data.matrices.memory import CountMatrix, DenseOnDevice, RowsOnDevice
from pyro_omics.data.splits import EpochSampler

N, G = 230, 12
KEYS = {"batch_key": "donor", "continuous_keys": ["age"], "batch_size": 16, "validation_size": 0.2}
SMALL = Blocks(8, 4)  # two minibatches of 16 in a buffer


def cells(x=sp.csr_matrix, **layers):
    rng = np.random.default_rng(1)
    adata = counts(N, G, donor=donors(N, "d1", "d2", "d3"), age=rng.random(N))
    adata.var["variable"] = np.arange(G) % 3 != 0
    adata.obsm["y"] = pd.DataFrame(rng.poisson(5.0, (N, 2)), index=adata.obs_names, columns=["CD3", "CD4"])
    for name, layer in layers.items():
        adata.layers[name] = layer(adata.X)
    adata.X = x(adata.X)
    return adata


def write(adata, path):
    if path.suffix == ".h5ad":
        adata.write_h5ad(path)
        return path
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Writing zarr v2 data will no longer be the default")  # anndata 0.12
        adata.write_zarr(path)
    return path


def given(form, adata, folder):
    """The arguments of a CellDataModule that leaves the counts on disk."""
    if form == "backed h5ad":
        return {"adata": ad.read_h5ad(write(adata, folder / "cells.h5ad"), backed="r"), "backed": SMALL}
    if form == "zarr dataset":
        group = zarr.open_group(str(write(adata, folder / "cells.zarr")), mode="r")
        lazy = ad.AnnData(ad.io.sparse_dataset(group["X"]), obs=adata.obs, var=adata.var, obsm=dict(adata.obsm))
        return {"adata": lazy, "backed": SMALL}
    return {"adata": str(write(adata, folder / f"cells.{form}")), "backed": SMALL}


FORMS = ["h5ad", "zarr", "backed h5ad", "zarr dataset"]


@pytest.fixture
def path(tmp_path):
    return write(cells(), tmp_path / "cells.h5ad")


def same_batches(one, other):
    for a, b in zip(one, other, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            assert a.dtype == b.dtype
            assert torch.equal(a, b)


def epoch_of(dm, epoch):
    loader = dm.train_dataloader()
    loader.sampler.set_epoch(epoch)
    batches = list(loader)
    assert len(batches) == len(loader)
    return batches


def order_of(dm, epoch):
    return torch.cat([batch.row for batch in epoch_of(dm, epoch)]).tolist()


# Minibatches in memory ------------------------------------------------------------------------------------------------


def with_stored_zeros(x):
    csr = sp.csr_matrix(x)
    csr.data[::5] = 0
    return csr


@pytest.mark.parametrize("x", [np.asarray, sp.csr_matrix, sp.csc_matrix, with_stored_zeros])
def test_rows_are_those_of_the_matrix(x):
    matrix = x(cells(np.asarray).X)
    before = matrix.copy()
    counts = CountMatrix(matrix)
    index = torch.tensor([5, 0, 0, 229, 17])
    rows = counts.rows(index)
    truth = torch.from_numpy(np.asarray(before.todense() if sp.issparse(before) else before)).float()
    assert torch.equal(rows, truth[index])
    assert torch.equal(counts.totals, truth.double().sum(1))
    assert torch.equal(counts.column_sums(index[1:3]), 2 * truth[0].double())
    assert (before != matrix).sum() == 0


@pytest.mark.parametrize("on_device", [DenseOnDevice, RowsOnDevice])
def test_counts_on_a_device_are_the_same(on_device):
    counts = CountMatrix(cells().X)
    there = on_device(counts, torch.device("cpu"))
    for index in (torch.tensor([5, 0, 0, 229, 17]), torch.arange(0), torch.arange(N)):
        assert torch.equal(there.rows(index), counts.rows(index))


def test_data_go_to_a_device_whole_dense_or_compressed_as_they_fit():
    data = CellDataModule(cells(), protein_obsm_key="y", batch_key="donor", gene_mask="variable").data
    cpu = torch.device("cpu")
    others = sum(field.nbytes for field in data.fields.values() if field is not None) + data.index.nbytes
    dense, compressed = 4 * N * data.counts.shape[1], data.counts.n_bytes
    assert isinstance(data.to_device(cpu, others + max(dense, compressed)).counts, DenseOnDevice)
    assert data.to_device(cpu, others + min(dense, compressed) - 1) is None
    empty = CellDataModule(cells(with_stored_zeros)).data
    empty.counts = CountMatrix(sp.csr_matrix(np.eye(N, G, dtype=np.float32)))
    assert isinstance(empty.to_device(cpu, empty.index.nbytes + empty.counts.n_bytes).counts, RowsOnDevice)
    rows = [4, 2, 200]
    same_batches(data.to_device(cpu, 10**9)[rows], data[rows])
    same_batches(empty.to_device(cpu, empty.index.nbytes + empty.counts.n_bytes)[rows], empty[rows])


def test_data_are_moved_once_and_take_half_of_what_is_free(monkeypatch):
    dm, cpu = CellDataModule(cells()), torch.device("cpu")
    room = 4 * N * G + dm.data.index.nbytes
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2 * room, 0))
    there = dm._data_on_gpu(cpu)
    assert isinstance(there.counts, DenseOnDevice)
    assert dm._data_on_gpu(cpu) is there
    dm.adopt(dm.schema, dm.n_obs)
    assert dm._data_on_gpu(cpu) is not there
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 0))
    assert CellDataModule(cells())._data_on_gpu(cpu) is None


# Minibatches from disk ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gene_mask", [None, "variable"])
@pytest.mark.parametrize("form", FORMS)
def test_minibatches_are_those_of_memory(tmp_path, form, gene_mask):
    options = {**KEYS, "gene_mask": gene_mask, "protein_obsm_key": "y"}
    memory = CellDataModule(cells(), **options)
    dm = CellDataModule(**given(form, cells(), tmp_path), **options)
    assert dm.schema == memory.schema
    assert dm.sizes == memory.sizes
    assert dm.data.counts.digest == memory.data.counts.digest
    assert torch.equal(dm.data.counts.totals, memory.data.counts.totals)
    for batch in epoch_of(dm, 0):
        same_batches(batch, memory.data[batch.row])
    for mine, theirs in [
        (dm.val_dataloader(), memory.val_dataloader()),
        (dm.test_dataloader(), memory.test_dataloader()),
        (dm.predict_dataloader(), memory.predict_dataloader()),
        ([dm.example_batch()], [memory.example_batch()]),
        (dm.data.batches(dm.rows(), 50), memory.data.batches(dm.rows(), 50)),
        ([dm.data[[7, 200, 7]]], [memory.data[[7, 200, 7]]]),
    ]:
        for one, other in zip(mine, theirs, strict=True):
            same_batches(one, other)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
@pytest.mark.parametrize("x", [np.asarray, with_stored_zeros, partial(sp.csr_matrix, dtype=np.int64)])
def test_dense_integer_and_padded_counts(tmp_path, suffix, x):
    memory = CellDataModule(cells(x), **KEYS)
    dm = CellDataModule(write(cells(x), tmp_path / f"cells.{suffix}"), backed=True, **KEYS)
    for batch in epoch_of(dm, 0):
        same_batches(batch, memory.data[batch.row])
    assert dm.sizes == memory.sizes


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_a_layer_stays_on_disk(tmp_path, suffix):
    adata = cells(lambda x: np.log1p(x), umi=sp.csr_matrix)
    dm = CellDataModule(write(adata, tmp_path / f"cells.{suffix}"), "umi", backed=True, **KEYS)
    same_batches(dm.data[range(N)], CellDataModule(cells(), **KEYS).data[range(N)])
    assert not dm.adata.layers and dm.adata.X is None


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_workers_give_the_same_minibatches(tmp_path, form):
    options = given(form, cells(), tmp_path)
    alone = CellDataModule(**options, **KEYS)
    loader = CellDataModule(**options, **KEYS, num_workers=2).train_dataloader()
    for epoch in (0, 1):
        loader.sampler.set_epoch(epoch)
        for one, other in zip(loader, epoch_of(alone, epoch), strict=True):
            same_batches(one, other)


def test_workers_of_data_in_memory_give_the_same_minibatches():
    for one, other in zip(
        epoch_of(CellDataModule(cells(), **KEYS), 1),
        epoch_of(CellDataModule(cells(), **KEYS, num_workers=2), 1),
        strict=True,
    ):
        same_batches(one, other)


def test_an_epoch_may_be_left_before_its_end(path):
    dm = CellDataModule(path, backed=SMALL, **KEYS)
    first = next(iter(dm.train_dataloader()))
    same_batches(first, epoch_of(dm, 0)[0])


# Order ----------------------------------------------------------------------------------------------------------------


def test_every_row_comes_once_in_an_order_of_seed_and_epoch(path):
    dm = CellDataModule(path, backed=SMALL, **KEYS)
    orders = [order_of(dm, epoch) for epoch in range(3)]
    for rows in orders:
        assert sorted(rows) == dm.rows("training").tolist()
    assert orders[0] != orders[1] != orders[2] != orders[0]
    again = CellDataModule(path, backed=SMALL, **KEYS)
    assert order_of(again, 1) == orders[1]
    held_out = dm.rows("validation")
    other = CellDataModule(path, backed=SMALL, **{**KEYS, "seed": 1, "validation_indices": held_out})
    assert sorted(order_of(other, 1)) == sorted(orders[1]) and order_of(other, 1) != orders[1]


@pytest.mark.parametrize(("n", "batch_size", "size", "number"), [(200, 10, 8, 5), (203, 16, 7, 3), (50, 60, 4, 4)])
def test_a_buffer_is_of_blocks_of_neighbours(n, batch_size, size, number):
    blocks = Blocks(size, number)
    m = batch_size * max(1, round(size * number / batch_size))
    order = blocks.order(n, batch_size, np.random.default_rng(0))
    assert sorted(order) == list(range(n))
    buffers = [order[start : start + m] // size for start in range(0, n, m)]
    lengths = Counter((np.arange(n) // size).tolist())
    for buffer in buffers:
        cut = [block for block, found in Counter(buffer.tolist()).items() if found < lengths[block]]
        assert len(cut) <= 2  # at its beginning and end
    assert max(len(set(buffer)) for buffer in buffers) <= m / size + 2


def test_shares_of_a_block_in_a_minibatch_are_hypergeometric():
    n, batch_size, blocks = 800, 20, Blocks(10, 20)
    m, number = 200, []
    together = np.zeros(2)
    for epoch in range(400):
        order = blocks.order(n, batch_size, np.random.default_rng([0, epoch]))
        minibatches = order.reshape(-1, batch_size)
        number.append((minibatches[:10] // 10 == minibatches[0, 0] // 10).sum(1)[1])
        block = (order[:m] // 10).reshape(-1, batch_size)
        together += [sum(c * (c - 1) for row in block for c in Counter(row.tolist()).values()), m * 9]
    # Of the 9 other rows of a block, or 10, in a minibatch of 20 of 200 rows: (B - 1) / (m - 1) with another's.
    assert together[0] / together[1] == pytest.approx(19 / 199, rel=0.03)
    # The second minibatch of a row's buffer has 20 of the 199 others, of which 9 are of its block.
    assert np.mean(number) == pytest.approx(9 * 20 / 199, abs=4 * np.sqrt(0.75 / 400))
    assert np.var(number) == pytest.approx(20 * 9 / 199 * (190 / 199) * (179 / 198), rel=0.3)


def test_a_rows_place_in_the_epoch_is_uniform():
    place = [np.argsort(Blocks(10, 4).order(400, 10, np.random.default_rng([1, e])))[[0, 7, 399]] for e in range(500)]
    for column in np.array(place).T:
        found = np.histogram(column, 10, (0, 400))[0]
        assert ((found - 50) ** 2 / 50).sum() < 27.9  # chi-square, 9 degrees, p = 0.001


def test_processes_share_out_each_minibatch(monkeypatch):
    rows = torch.arange(100, 203)
    orders = EpochSampler(rows, 20, 3, True).order()
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 4)
    for blocks in (None, Blocks(4, 5)):
        for shuffle in (True, False):
            parts = []
            for rank in range(4):
                monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
                sampler = EpochSampler(rows, 5, 3, shuffle, blocks)
                parts.append(list(sampler))
                assert len(sampler) == len(parts[-1])
                if blocks is not None:
                    assert all(map(torch.equal, (b for group in sampler.buffers() for b in group), parts[-1]))
            together = torch.cat([torch.cat(part) for part in parts])
            assert together.unique().shape == together.shape
            # The last 3 rows do not go round 4 processes: in training they are left out. All take as many steps.
            assert [len(part) for part in parts] == [5] * 4
            assert len(together) == (100 if shuffle else 103)
            if blocks is None and shuffle:
                assert sorted(torch.cat([part[0] for part in parts]).tolist()) == sorted(orders[:20].tolist())


# Reading --------------------------------------------------------------------------------------------------------------


def test_reads_are_bounded_and_no_row_is_read_twice(path, monkeypatch):
    read, reads = disk.MatrixFile.read, []

    def noted(self, first, end):
        reads.append((first, end))
        return read(self, first, end)

    monkeypatch.setattr(disk.MatrixFile, "read", noted)
    monkeypatch.setattr(disk, "CHUNK", 300)
    monkeypatch.setattr(Blocks, "longest", 40)
    monkeypatch.setattr(disk, "GAP", 1)
    dm = CellDataModule(path, backed=SMALL, **{**KEYS, "validation_indices": [0, 5, 100]})
    assert reads[0][0] == 0 and reads[-1][1] == N
    assert all(end == first for (_, end), (first, _) in itertools.pairwise(reads))
    assert all(end - first <= 40 for first, end in reads)
    _ = dm.sizes
    assert reads[-1][1] == N  # no second pass for the totals
    reads.clear()
    assert len(order_of(dm, 0)) == N - 3
    assert sum(end - first for first, end in reads) == N - 3
    reads.clear()
    assert [len(batch.x) for batch in dm.data.batches(dm.rows(), 200)] == [200, 30]
    assert max(end - first for first, end in reads) == 40


def test_nothing_is_written(tmp_path):
    for suffix in ("h5ad", "zarr"):
        path = write(cells(), tmp_path / f"cells.{suffix}")
        files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        before = [(hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files]
        dm = CellDataModule(path, backed=SMALL, **KEYS)
        post = po.Posterior(fitted(dm, 1), dm)
        post.annotate(dm.adata)
        assert before == [(hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in files]
        assert len(files) == len([path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()])


# Models ---------------------------------------------------------------------------------------------------------------


def test_a_model_trained_from_disk_is_the_one_trained_from_memory(path, monkeypatch):
    disk_dm, memory = (CellDataModule(path, backed=backed, **KEYS) for backed in (SMALL, False))
    one = fitted(disk_dm)
    # The same order of rows, from memory.
    monkeypatch.setattr(EpochSampler, "order", partial_order(SMALL))
    other = fitted(memory)
    for mine, theirs in zip(one.elbo.parameters(), other.elbo.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    post, truth = po.Posterior(one, disk_dm), po.Posterior(other, memory)
    assert np.array_equal(post.latent(), truth.latent())
    assert post.elbo("validation").equals(truth.elbo("validation"))
    assert post.normalized_expression(num_samples=2, split="validation").equals(
        truth.normalized_expression(num_samples=2, split="validation")
    )


def partial_order(blocks):
    def order(self):
        if not self.shuffle:
            return self.rows
        rng = np.random.default_rng([self.seed, self.epoch])
        return self.rows[torch.from_numpy(blocks.order(len(self.rows), self.batch_size, rng))]

    return order


class SaveHalf(pl.Callback):
    """Checkpoints in the first epoch: at its end, as ModelCheckpoint does, after its last step, or after its first."""

    def __init__(self, when, path):
        self.when, self.path = when, path

    def on_train_batch_end(self, trainer, svi, outputs, batch, batch_idx):
        if self.when == "step" and trainer.current_epoch == 0 and trainer.is_last_batch:
            trainer.save_checkpoint(self.path)
        if self.when == "middle" and trainer.global_step == 1:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer, svi):
        if self.when == "epoch" and trainer.current_epoch == 0:
            trainer.save_checkpoint(self.path)


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("backed", [SMALL, False])
def test_a_resumed_fit_sees_the_rows_of_the_fit(path, tmp_path, backed, num_workers):
    def fit(epochs, ckpt=None, callbacks=()):
        dm = CellDataModule(path, backed=backed, num_workers=num_workers, **KEYS)
        svi = po.SVIModule(small(dm), kl_warmup_epochs=0)
        rows = []
        step = svi.training_step
        svi.training_step = lambda batch, batch_idx: (rows.append(batch.row.tolist()), step(batch, batch_idx))[1]
        trainer = quiet_trainer(epochs, callbacks=list(callbacks))
        trainer.fit(svi, dm, ckpt_path=ckpt)
        return trainer, rows

    half, first = fit(1, callbacks=[SaveHalf(when, tmp_path / f"{when}.ckpt") for when in ("epoch", "step", "middle")])
    half.save_checkpoint(tmp_path / "fit.ckpt")
    _, whole = fit(2)
    for when in ("fit", "epoch", "step"):
        assert first + fit(2, tmp_path / f"{when}.ckpt")[1] == whole, when
    assert len(first) > 2
    assert first[:1] + fit(2, tmp_path / "middle.ckpt")[1] == whole


@pytest.mark.parametrize("form", ["h5ad", "zarr", "zarr dataset"])
def test_a_process_may_go_elsewhere(form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dm = CellDataModule(**given(form, cells(), Path(".")), **KEYS)
    before = dm.example_batch().x
    monkeypatch.chdir("/")
    assert before.sum() > 0
    assert torch.equal(dm.example_batch().x, before)


def test_a_store_that_is_gone_is_no_zeros(tmp_path):
    write(cells(), tmp_path / "cells.zarr")
    dm = CellDataModule(tmp_path / "cells.zarr", backed=True, **KEYS)
    (tmp_path / "cells.zarr").rename(tmp_path / "moved.zarr")
    with pytest.raises(RuntimeError, match=r"counts on disk have changed since .* make the DataModule again"):
        next(iter(dm.train_dataloader()))


def test_other_data_on_disk_are_aligned(path, tmp_path):
    dm = CellDataModule(cells(), gene_mask="variable", **KEYS)
    svi = fitted(dm, 1)
    backwards = write(cells()[:, ::-1].copy(), tmp_path / "backwards.h5ad")
    truth = po.Posterior(svi, CellDataModule(cells(), **KEYS)).latent()
    other = CellDataModule(backwards, backed=True, **KEYS)
    assert np.array_equal(po.Posterior(svi, other).latent(), truth)
    other.adopt(dm.schema, dm.n_obs)
    assert other.sizes.n_genes == dm.n_genes
    same_batches(
        other.data[range(N)]._replace(index=torch.arange(N)), dm.data[range(N)]._replace(index=torch.arange(N))
    )
    assert torch.equal(other.data.counts.totals, dm.data.counts.totals)


# Refused --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_bad_matrices_on_disk_are_refused(tmp_path, suffix):
    def refused(adata, match, layer=None):
        with pytest.raises(ValueError, match=match):
            CellDataModule(write(adata, tmp_path / f"cells.{suffix}"), layer, backed=True)

    log = lambda x: sp.csr_matrix(np.log1p(x))  # noqa: E731
    refused(cells(log), "adata.X does not hold counts: .* non-integer values.*log-transformed.*raw counts")
    refused(cells(log, umi=sp.csr_matrix), "This one looks like counts: layer='umi'")
    refused(cells(umi=log), r"adata.layers\['umi'\].*looks like counts: layer=None \(adata.X\)", "umi")
    refused(cells(sp.csc_matrix), r"adata.X must be stored by rows .*; got columns \(CSC\).*tocsr")
    refused(cells(umi=sp.csc_matrix), r"adata.layers\['umi'\] must be stored by rows .*; got columns", "umi")
    refused(cells(umi=sp.csr_matrix), r"layer must be a key of adata.layers, \['umi'\]; got 'spliced'", "spliced")
    refused(cells(lambda x: sp.csr_matrix(-x)), "negative values, the lowest -")
    refused(cells(lambda x: sp.csr_matrix(x * np.nan)), "NaN")
    refused(cells(lambda x: sp.csr_matrix(x * 0)), "all values are zero")
    without = cells()
    without.X = None
    refused(without, "adata.X is empty")
    raw = cells()
    raw.raw = raw.copy()
    raw.X = log(raw.X.toarray())
    refused(raw, "adata.raw looks like counts")


def test_what_cannot_be_backed_is_refused(path, tmp_path):
    with pytest.raises(ValueError, match=r"adata.X is in memory: pass the path"):
        CellDataModule(cells(), backed=True)
    with pytest.raises(ValueError, match=r"backed must be True, False or data\.Blocks"):
        CellDataModule(path, backed="r")
    with pytest.raises(ValueError, match="view of a backed AnnData"):
        CellDataModule(ad.read_h5ad(path, backed="r")[:10])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        CellDataModule(tmp_path / "none.h5ad", backed=True)
    (tmp_path / "bytes.h5ad").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="could not be read as an AnnData"):
        CellDataModule(tmp_path / "bytes.h5ad", backed=True)
    (tmp_path / "cells.h5mu").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"cells.h5mu' could not be read as an AnnData"):
        CellDataModule(tmp_path / "cells.h5mu", backed=True)
    for name in ("size", "number"):
        with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1.* 0$"):
            Blocks(**{name: 0})


def test_a_backed_anndata_stays_on_disk_and_its_tables_may_be_newer(path):
    adata = ad.read_h5ad(path, backed="r")
    adata.obs["run"] = donors(N, "r1", "r2")
    dm = CellDataModule(adata, batch_key="run")
    assert isinstance(dm.data.counts, disk.StoredMatrix) and dm.blocks == Blocks()
    assert dm.sizes.n_batches == 2
    adata.file.close()
    assert len(order_of(dm, 0)) == dm.n_obs
    with h5py.File(path, "r") as file:
        assert "run" not in file["obs"]
