"""`po.fit`: a budget by the number of steps, and the weights of the best epoch."""

import pytest
import torch
from helpers import counts

import pyro_omics as po
from pyro_omics.inference.fitting import BestWeights, recommended_epochs

QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:The number of training batches")


@pytest.fixture(scope="module")
def dm():
    return po.CellDataModule(counts(60, 8, seed=1), batch_size=16, validation_size=0.2)


def test_the_budget_is_a_number_of_steps_and_at_least_five_epochs(dm):
    svi = po.SVIModule(po.SCVI.from_data(dm))
    assert recommended_epochs(svi, dm) == 167  # a quarter of 2,000 steps, three an epoch
    dm.batch_size = 1
    assert recommended_epochs(svi, dm) == 40
    dm.batch_size = 16
    svi.model.recommended_steps = 6
    assert recommended_epochs(svi, dm) == 5
    assert po.fit(svi, dm, **QUIET).current_epoch == 5
    assert po.fit(svi, dm, max_steps=4, **QUIET).global_step == 4


class Spoil(po.SVIModule):
    """Has the best ELBO in its second epoch."""

    def on_train_epoch_end(self):
        super().on_train_epoch_end()
        with torch.no_grad():
            self.model.likelihood.dispersion.log_theta.fill_(float(self.current_epoch))

    def validation_step(self, batch, batch_idx):
        self.log("val_elbo", -float((self.current_epoch - 1) ** 2), batch_size=len(batch.x))


def test_a_fit_has_the_weights_of_its_best_epoch(dm):
    svi = Spoil(po.SCVI.from_data(dm))
    best = BestWeights()
    trainer = po.fit(svi, dm, max_epochs=4, callbacks=[best], num_sanity_val_steps=0, **QUIET)
    assert best.epoch == 1 and trainer.current_epoch == 4
    # The validation of an epoch comes before its end, which sets log theta: to 0 in epoch 0, and to 3 in the last.
    assert (svi.model.likelihood.dispersion.log_theta.abs() < 0.5).all()
