"""One small fitted pair for each model, made once in a process; `conftest.py` loads these fixtures for all tests.

Take one of them where any fitted pair will do. No test may change it: take `po.load` of a saved one, or a copy, to
train on. A pair whose weights have changed fails the run at its end.
"""

from typing import NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import cells_with_proteins, counts, donors, protein_data, quiet_trainer, small, totalvi
from own_model import CountFactors

import pyro_omics as po


class FittedPair(NamedTuple):
    """A trained SVIModule and the DataModule that it was trained on."""

    svi: po.SVIModule
    dm: pl.LightningDataModule


def fit_and_watch(svi, dm, epochs):
    """Trains a pair, lends it to the tests, and checks at the end that none of them changed it."""
    torch.manual_seed(0)
    quiet_trainer(epochs).fit(svi, dm)
    before = {name: value.clone() for name, value in svi.state_dict().items()}
    yield FittedPair(svi, dm)
    after = svi.state_dict()
    changed = [name for name in before if name not in after or not torch.equal(after[name], before[name])]
    assert not changed and len(after) == len(before), f"a test changed {changed} of a shared {type(svi.model).__name__}"


@pytest.fixture(scope="session")
def donor_cells():
    """60 cells of three donors, 12 genes."""
    return po.CellDataModule(counts(donor=donors(60, "d1", "d2", "d3")), batch_key="donor", batch_size=16)


@pytest.fixture(scope="session")
def fitted_scvi(donor_cells):
    yield from fit_and_watch(po.SVIModule(small(donor_cells)), donor_cells, 2)


@pytest.fixture(scope="session")
def fitted_totalvi():
    dm = protein_data(cells_with_proteins())
    yield from fit_and_watch(po.SVIModule(totalvi(dm)), dm, 3)


@pytest.fixture(scope="session")
def labelled_cells():
    """60 cells, of which about half have the label of their type."""
    adata = counts(60, 20)
    truth = adata.obs["group"].map({"0": "B", "1": "T", "2": "NK"}).to_numpy()
    adata.obs["type"] = np.where(np.random.default_rng(0).random(60) < 0.5, truth, "Unknown")
    return po.CellDataModule(adata, label_key="type", batch_size=16)


@pytest.fixture(scope="session")
def fitted_scanvi(labelled_cells):
    torch.manual_seed(0)
    model = po.SCANVI.from_data(labelled_cells, n_latent=3, n_hidden=8)
    yield from fit_and_watch(po.SVIModule(model, kl_warmup_epochs=2), labelled_cells, 3)


@pytest.fixture(scope="session")
def compounds():
    """120 compounds of three cycles, sequenced deeply."""
    return po.DELDataModule(po.simulate.del_library(cycles=(4, 5, 6), depth=8.0, seed=2)[0])


@pytest.fixture(scope="session")
def fitted_hierarchical_del(compounds):
    torch.manual_seed(0)
    yield from fit_and_watch(po.SVIModule(po.HierarchicalDEL.from_data(compounds)), compounds, 15)


@pytest.fixture(scope="session")
def fitted_del_count(compounds):
    torch.manual_seed(0)
    model = po.DELCount.from_data(compounds, n_hidden=8, latent_depth=True)
    yield from fit_and_watch(po.SVIModule(model), compounds, 3)


@pytest.fixture(scope="session")
def fitted_own_model(donor_cells):
    """Of a model of a user's own, which has a global latent beside the rows' own."""
    torch.manual_seed(0)
    yield from fit_and_watch(po.SVIModule(CountFactors.from_data(donor_cells)), donor_cells, 2)


@pytest.fixture(
    params=["scvi", "totalvi", "scanvi", "hierarchical_del", "del_count", "own_model"], ids=lambda name: name
)
def fitted_pair(request):
    """Each of them in turn."""
    return request.getfixturevalue(f"fitted_{request.param}")
