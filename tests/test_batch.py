"""Batches: rows of them, and their place and precision."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from helpers import counts, donors, quiet_trainer

import pyro_omics as po
from pyro_omics.batch import CellBatch, map_tensors, move_like, take_rows


@pytest.fixture
def batch():
    adata = counts(n=40, donor=donors(40, "a", "b"))
    return po.CellDataModule(adata, batch_key="donor").data[range(10)]


@pytest.mark.parametrize("rows", [torch.tensor([3, 0, 3]), torch.arange(10) % 2 == 1])
def test_rows_of_a_batch_are_those_of_each_tensor(batch, rows):
    part = take_rows(batch, rows)
    assert type(part) is CellBatch
    for name, field in batch._asdict().items():
        if field is None:
            assert getattr(part, name) is None
        else:
            assert torch.equal(getattr(part, name), field[rows])


def test_counts_take_the_precision_of_the_weights_and_codes_stay_integers(batch):
    moved = move_like(batch, torch.zeros(1, dtype=torch.float64))
    assert (moved.x.dtype, moved.batch.dtype, moved.index.dtype) == (torch.float64, torch.int64, torch.int64)
    assert torch.equal(moved.x.float(), batch.x)
    assert moved.label is None
    assert torch.equal(map_tensors(batch, torch.neg).x, -batch.x)


def log_prob_of(batch):
    """The log-probability of scVI's counts at a fixed z."""
    torch.manual_seed(0)
    model = po.SCVI(po.sizes.Sizes(n_obs=200, n_genes=400), n_latent=2).eval()
    with torch.no_grad():
        z = torch.linspace(-1, 1, 2 * len(batch.x)).reshape(-1, 2)
        rho, heads = model.decode(z, batch)
        return model.likelihood(model.library(batch) * rho, heads, batch).log_prob(batch.x), model.encoder_inputs(batch)


def test_a_batch_whose_counts_are_replaced_or_written_to_has_their_log_probability():
    dm = po.CellDataModule(counts(n=60, g=400))
    batch = dm.data[range(40)]
    log_prob_of(batch)
    other = torch.poisson(torch.full(batch.x.shape, 0.4))
    with po.kernels.reference():
        expected, inputs = log_prob_of(batch._replace(x=other.clone()))
    replaced, written = batch._replace(x=other), batch._replace(x=batch.x.clone())
    log_prob_of(written)
    written.x.data.copy_(other)
    for changed in (replaced, written):
        value, seen = log_prob_of(changed)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(seen, inputs)


def test_a_batch_survives_lightning_s_move_a_copy_and_a_file(batch, tmp_path):
    moved = pl.utilities.move_data_to_device(batch, torch.device("cpu"))
    torch.save(tuple(batch), tmp_path / "batch.pt")
    loaded = CellBatch(*torch.load(tmp_path / "batch.pt", weights_only=True))
    for again in (moved, copy.deepcopy(batch), loaded):
        for mine, theirs in zip(again, batch, strict=True):
            assert torch.equal(mine, theirs) if theirs is not None else mine is None


def test_training_sees_plain_batches():
    seen = []

    class Look(pl.Callback):
        def on_train_batch_start(self, trainer, svi, batch, number):
            seen.append(batch)

    dm = po.CellDataModule(counts(n=40), batch_size=20, validation_size=0.0)
    quiet_trainer(1, callbacks=[Look()]).fit(po.SVIModule(po.SCVI.from_data(dm, n_latent=2, n_hidden=8)), dm)
    assert [type(batch) for batch in seen] == [CellBatch, CellBatch]
    for batch in seen:
        assert torch.equal(batch.x, dm.data[batch.row].x)
