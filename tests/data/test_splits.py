"""The order of training rows in loops of one's own and in Lightning's, and what Lightning takes for a sampler."""

import copy

import pytest
from helpers import counts
from torch.utils.data import SequentialSampler

import pyro_omics as po
from pyro_omics.data.splits import EpochSampler


def data(path=None, **options):
    options = {"batch_size": 16, "validation_size": 0.25, **options}
    if path is None:
        return po.CellDataModule(counts(60), **options)
    counts(60).write_h5ad(path / "cells.h5ad")
    return po.CellDataModule(path / "cells.h5ad", backed=True, **options)


def order(loader):
    return [row for batch in loader for row in batch.row.tolist()]


@pytest.mark.parametrize("backed", [False, True])
@pytest.mark.parametrize("n_workers", [0, 2])
def test_each_pass_of_a_loop_of_ones_own_is_the_next_epoch(backed, n_workers, tmp_path):
    dm = data(tmp_path if backed else None, num_workers=n_workers)
    loader = dm.train_dataloader()
    passes = [order(loader), order(loader), order(dm.train_dataloader()), order(dm.train_dataloader())]
    assert len({tuple(rows) for rows in passes}) == 4
    assert all(sorted(rows) == dm.rows("training").tolist() for rows in passes)
    by_epoch = dm.train_dataloader()
    for epoch, rows in enumerate(passes):
        by_epoch.sampler.set_epoch(epoch)
        assert order(by_epoch) == order(by_epoch) == rows
    (tmp_path / "again").mkdir()
    again = data(tmp_path / "again" if backed else None)
    assert [order(again.train_dataloader()) for _ in range(4)] == passes


def test_a_copy_goes_on_from_the_same_pass():
    dm = data()
    order(dm.train_dataloader())
    other = copy.deepcopy(dm)
    assert order(other.train_dataloader()) == order(dm.train_dataloader())


def test_held_out_rows_keep_their_order():
    dm = data()
    loader = dm.val_dataloader()
    assert order(loader) == order(loader) == dm.rows("validation").tolist()
    assert isinstance(loader.sampler, SequentialSampler) and isinstance(loader.sampler, EpochSampler)
    assert not isinstance(dm.train_dataloader().sampler, SequentialSampler)
