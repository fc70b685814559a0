"""Draws of several threads from one fit."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

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
