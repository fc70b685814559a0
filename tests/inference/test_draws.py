"""Draws of several threads from one fit."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import counts, fitted, quiet_trainer, small

import pyro_omics as po


@pytest.mark.parametrize("name", ["scvi", "hierarchical_del"])
def test_threads_get_the_answers_of_one(name, request):
    svi, dm = request.getfixturevalue(f"fitted_{name}")
    svi.train()
    post = po.Posterior(svi, dm)

    def ask(seed):
        drawn = post.samples(num_samples=3, seed=seed)
        return [
            *(drawn[site].values for site in drawn),
            post.predictive(num_samples=2, seed=seed),
            post.elbo(seed=seed),
        ]

    expected = [ask(seed) for seed in range(6)]
    state = torch.get_rng_state()
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(ask, range(6)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in svi.modules())
    for one, two in zip(expected, found, strict=True):
        for ours, theirs in zip(one, two, strict=True):
            flat = [x.to_array() if hasattr(x, "to_array") else np.asarray(x) for x in (ours, theirs)]
            np.testing.assert_array_equal(*flat)


class Asked(pl.Callback):
    """Asks in each epoch: here, and in another thread."""

    def __init__(self, post):
        self.post, self.found = post, []

    def on_train_epoch_end(self, trainer, svi):
        self.post.latent()
        with ThreadPoolExecutor(1) as pool, pytest.raises(RuntimeError, match=r"trained in another thread: .*deepcopy"):
            pool.submit(self.post.latent).result()


def test_a_module_is_not_asked_in_another_thread_while_it_is_trained():
    dm = po.CellDataModule(counts(60), batch_size=16)
    torch.manual_seed(0)
    whole = fitted(dm, epochs=3)
    svi = po.SVIModule(small(dm))
    svi.fitted = True
    post = po.Posterior(svi, dm)
    quiet_trainer(3, callbacks=[Asked(post)]).fit(svi, dm)
    assert all(torch.equal(value, svi.state_dict()[name]) for name, value in whole.state_dict().items())
    with ThreadPoolExecutor(1) as pool:
        np.testing.assert_array_equal(pool.submit(post.latent).result(), post.latent())


def test_a_fit_and_answers_of_another_share_a_session(fitted_scvi):
    dm = po.CellDataModule(counts(200), batch_size=8)
    torch.manual_seed(0)
    alone = fitted(dm, epochs=2)
    post, answers = po.Posterior(*fitted_scvi), []
    expected, svi = post.elbo(), po.SVIModule(small(dm))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(lambda: [answers.append(post.elbo()) for _ in range(40)])
        quiet_trainer(2, num_sanity_val_steps=0).fit(svi, dm)
        asked.result()
    assert len(answers) == 40 and all(answer.equals(expected) for answer in answers)
    assert svi.state_dict().keys() == alone.state_dict().keys()
    tracked = [name for name in svi.state_dict() if name.endswith("num_batches_tracked")]
    assert tracked and all(svi.state_dict()[name] == alone.state_dict()[name] for name in tracked)
