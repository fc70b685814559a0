"""Copies and pickles of everything give the same answers: nothing is compared by being the same object."""

import copy
import pickle
from functools import partial

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from helpers import cells_with_proteins, counts, protein_data, quiet_trainer, small, totalvi
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoLowRankMultivariateNormal, AutoStructured
from torch.distributions import constraints

import pyro_omics as po
from pyro_omics.sites import is_positive, is_real

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda value: pickle.loads(pickle.dumps(value))}
copies = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)


def answers(post):
    """Draws of all sites, in closed form where there is one, and the ELBO."""
    found = {name: value.values for name, value in post.samples(num_samples=2).items()}
    if post.model.local_sites:
        found["latent"] = post.latent()
    return {**found, "elbo": post.elbo().to_numpy()}


def assert_same(one, two):
    assert one.keys() == two.keys()
    for name, value in one.items():
        np.testing.assert_allclose(value, two[name], rtol=1e-5, atol=1e-5, err_msg=name)


@copies
def test_a_copied_fit_answers_as_the_original(fitted_pair, copied):
    svi, dm = fitted_pair
    expected = answers(po.Posterior(svi, dm))
    other = copied(svi)
    assert other.fitted and other.model is not svi.model
    assert_same(expected, answers(po.Posterior(other, dm)))
    assert_same(expected, answers(copied(po.Posterior(svi, dm))))
    assert_same(expected, answers(po.Posterior(svi, copied(dm))))
    assert_same(expected, answers(po.Posterior(svi, dm)))  # the original is as it was


GUIDES = {
    "flow": po.guides.AmortizedFlow,
    "student": po.guides.AmortizedStudentT,
    "table": po.guides.PerObservation,
    "refined": partial(po.guides.SemiAmortized, n_steps=3),
    "gamma": po.guides.GammaMeanField,
}


@copies
@pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
def test_copied_guides(guide, copied):
    dm = po.CellDataModule(counts(40), batch_size=16, validation_size=0)
    svi = po.SVIModule(small(dm, library=po.library_sizes.Latent()), guide=guide)
    quiet_trainer(1).fit(svi, dm)
    assert_same(answers(po.Posterior(svi, dm)), answers(po.Posterior(copied(svi), dm)))


@copies
@pytest.mark.parametrize("rest", [AutoDiagonalNormal, AutoStructured, AutoLowRankMultivariateNormal, "gamma"])
def test_copied_guides_of_global_latents(rest, copied):
    rest = po.guides.GammaMeanField if rest == "gamma" else rest
    dm = protein_data(cells_with_proteins(), validation_size=0)
    svi = po.SVIModule(totalvi(dm), guide=partial(po.guides.Amortized, rest=rest))
    quiet_trainer(1).fit(svi, dm)
    assert_same(answers(po.Posterior(svi, dm)), answers(po.Posterior(copied(svi), dm)))


@copies
def test_a_copied_fit_trains_on(copied):
    dm = po.CellDataModule(counts(40), batch_size=16, validation_size=0)
    losses = []
    for change in (lambda value: value, copied):
        torch.manual_seed(0)
        svi = po.SVIModule(small(dm, prior=po.priors.VampPrior(3)), elbo=TraceMeanField_ELBO())
        quiet_trainer(1).fit(svi, dm)
        svi, data = change(svi), change(dm)
        torch.manual_seed(1)
        quiet_trainer(1).fit(svi, data)
        losses.append(po.Posterior(svi, data).elbo().mean())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@copies
@pytest.mark.parametrize(
    "part",
    [po.priors.MixtureOfGaussians(3), po.likelihoods.NegativeBinomial(po.dispersions.PerGene("batch")),
     po.elbos.RenyiELBO(0.5, 3), po.library_sizes.Latent(), po.priors.Horseshoe()],
    ids=lambda part: type(part).__name__,
)  # fmt: skip
def test_copied_parts_are_made_with_the_same_arguments(part, copied):
    from pyro_omics.serialization.arguments import encode

    assert encode(copied(part)) == encode(part)


@copies
def test_supports_are_known_in_copies(copied):
    real = [constraints.real, constraints.real_vector, dist.Normal(0, 1).expand([2]).to_event(1).support]
    positive = [constraints.positive, constraints.nonnegative, dist.Gamma(torch.ones(2), 1.0).to_event(1).support]
    other = [constraints.unit_interval, constraints.greater_than(1.0), constraints.simplex, constraints.boolean]
    for support in real:
        assert is_real(copied(support)) and not is_positive(copied(support))
    for support in positive:
        assert is_positive(copied(support)) and not is_real(copied(support))
    assert not any(is_real(copied(support)) or is_positive(copied(support)) for support in other)
