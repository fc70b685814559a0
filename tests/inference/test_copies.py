"""Copies and pickles of everything give the same answers: nothing is compared by being the same object."""

import copy
import inspect
import io
import pickle
from functools import partial

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from helpers import cells_with_proteins, counts, protein_data, quiet_trainer, small, totalvi
from own_model import CountFactors
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoLowRankMultivariateNormal, AutoStructured
from torch.distributions import constraints

import pyro_omics as po
from pyro_omics.serialization.arguments import decode, encode
from pyro_omics.serialization.class_names import qualified_name
from pyro_omics.sites import is_positive, is_real


def through_torch(value):
    """`torch.save` and `torch.load`."""
    torch.save(value, stream := io.BytesIO())
    stream.seek(0)
    return torch.load(stream, weights_only=False)


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "torch": through_torch,
}
copies = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)


def answers(post, split="all"):
    """Draws of all sites, in closed form where there is one, and the ELBO."""
    found = {name: value.values for name, value in post.samples(num_samples=2, split=split).items()}
    if post.model.local_sites:
        found["latent"] = post.latent(split)
    return {**found, "elbo": post.elbo(split).to_numpy()}


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


def few_steps(guide):
    """A guide, which seeks what it has for new rows in three steps."""
    return partial(guide, n_steps=3) if "n_steps" in inspect.signature(guide).parameters else guide


@pytest.mark.parametrize("guide", po.guides.__all__)
def test_every_model_with_every_guide(fitted_pair, guide):
    """Copies of a trained pair answer as it does; it is as it was, and trains on without them."""
    (svi, dm), guide = fitted_pair, getattr(po.guides, guide)
    torch.manual_seed(0)
    model = decode(encode(svi.model), {qualified_name(CountFactors): CountFactors})
    if guide is po.guides.Conditional and not hasattr(model, "conditional"):
        with pytest.raises(TypeError, match="has no method conditional"):
            po.SVIModule(model, guide=guide)
        return
    svi = po.SVIModule(model, guide=few_steps(guide))
    quiet_trainer(1, limit_val_batches=0).fit(svi, dm)
    # GammaMeanField has no held-out rows.
    expected = answers(po.Posterior(svi, dm), "training")
    found = {name: copied(svi) for name, copied in COPIES.items()}
    assert_same(expected, answers(po.Posterior(svi, dm), "training"))
    quiet_trainer(1, limit_val_batches=0).fit(svi, dm)
    later = answers(po.Posterior(svi, dm), "training")
    assert any(not np.allclose(value, expected[name]) for name, value in later.items())
    for other in found.values():
        assert_same(expected, answers(po.Posterior(other, dm), "training"))


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
