"""Weights go only into a model and a guide that were made as those that were saved; else the arguments are named."""

from functools import partial

import pytest
import torch
from helpers import counts, donors, quiet_trainer, small
from own_model import CountFactors
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal

import pyro_omics as po


@pytest.fixture(scope="module")
def dm():
    return po.CellDataModule(counts(donor=donors(60, "d1", "d2")), batch_key="donor", batch_size=16)


def save(svi, dm, folder):
    """A saved folder and a checkpoint of a pair."""
    trainer = quiet_trainer(1)
    trainer.fit(svi, dm)
    trainer.save_checkpoint(folder / "a.ckpt", weights_only=False)
    return svi.save(folder / "saved"), folder / "a.ckpt"


@pytest.fixture(scope="module")
def saved(dm, tmp_path_factory):
    return save(po.SVIModule(small(dm)), dm, tmp_path_factory.mktemp("saved"))


LOADS = [po.load, po.SVIModule.load_from_checkpoint]
OTHER_MODELS = {
    "size": (lambda: {"n_latent": 5}, "n_latent=3; got n_latent=5:"),
    "likelihood": (
        lambda: {"likelihood": po.likelihoods.Poisson()},
        r"likelihood=ZeroInflatedNegativeBinomial\(dispersion=PerGene\); got likelihood=Poisson:",
    ),
    "dispersion": (
        lambda: {"likelihood": po.likelihoods.ZeroInflatedNegativeBinomial(po.dispersions.PerGene("batch"))},
        r"likelihood=Zero.*PerGene\); got likelihood=ZeroInflatedNegativeBinomial\(dispersion=PerGene\(by='batch'\)\):",
    ),
    "prior": (
        lambda: {"prior": po.priors.VampPrior(4)},
        r"prior=StandardNormal.*; got prior=VampPrior\(n_components=4",
    ),
    # The weights of these fit, and would mean something else.
    "prior without weights": (
        lambda: {"prior": po.priors.LogisticNormal()},
        r"prior=StandardNormal.*; got prior=LogisticNormal",
    ),
    "dropout": (lambda: {"dropout": 0.5}, "dropout=0.1; got dropout=0.5:"),
}


@pytest.mark.parametrize("name", OTHER_MODELS)
def test_another_model_is_refused_by_argument(dm, saved, name):
    options, message = OTHER_MODELS[name]
    for load, path in zip(LOADS, saved, strict=True):
        with pytest.raises(ValueError, match=f"the model must be made as .* with {message}.* leave out model="):
            load(path, model=small(dm, **options()))


def test_a_resumed_fit_is_of_the_same_pair(dm, saved):
    svi = po.SVIModule(small(dm, likelihood=po.likelihoods.Poisson()), warm_start=False)
    before = {name: value.clone() for name, value in svi.state_dict().items()}
    for ask in (quiet_trainer(2).fit, quiet_trainer(2).validate):
        with pytest.raises(ValueError, match=r"saved in the checkpoint, with likelihood=.*; got likelihood=Poisson"):
            ask(svi, datamodule=dm, ckpt_path=saved[1])
    assert all(torch.equal(value, before[name]) for name, value in svi.state_dict().items())


@pytest.mark.parametrize("guide", [po.guides.PerObservation, po.guides.AmortizedFlow, po.guides.AmortizedStudentT])
def test_another_guide_is_refused_by_name(saved, guide):
    for load, path in zip(LOADS, saved, strict=True):
        with pytest.raises(ValueError, match=f"Amortized.*; got {guide.__name__}: leave out guide="):
            load(path, guide=guide)
        with pytest.raises(ValueError, match=f"the guide must be made as .* with Amortized; got {guide.__name__}"):
            load(path, guide=partial(guide))


def test_another_class_of_model_is_refused_by_name(dm, saved):
    compounds = po.DELDataModule(po.simulate.del_library(cycles=(3, 3, 3))[0])
    for load, path in zip(LOADS, saved, strict=True):
        with pytest.raises(ValueError, match=r"model must be the class that was saved, SCVI, .* got DELCount"):
            load(path, model=po.DELCount.from_data(compounds))
        with pytest.raises(ValueError, match=r"model must be the class that was saved, SCVI, .* got TotalVI"):
            load(path, model=po.TotalVI)


def test_arguments_of_a_guide_and_of_a_model_of_ones_own_are_named(dm, tmp_path):
    make = partial(CountFactors.from_data, dm, n_latent=3)
    guide = partial(po.guides.Amortized, rest=AutoMultivariateNormal)
    for load, path in zip(LOADS, save(po.SVIModule(make(), guide=guide), dm, tmp_path), strict=True):
        for rest in (AutoDelta, partial(AutoNormal, init_scale=0.2)):
            with pytest.raises(ValueError, match="rest=AutoMultivariateNormal; got rest=Auto"):
                load(path, model=make(), guide=partial(po.guides.Amortized, rest=rest))
        with pytest.raises(ValueError, match="n_latent=3; got n_latent=2"):
            load(path, model=make(n_latent=2), guide=guide)
        assert type(load(path, model=make(), guide=guide).guide.rest) is AutoMultivariateNormal


def test_latent_weights_are_named(dm, saved):
    for load, path in zip(LOADS, saved, strict=True):
        with pytest.raises(ValueError, match=r"edits=None; got edits=\[bayesianize\(names=\['decoder'\]"):
            load(path, model=po.bayesianize(small(dm), "decoder"))


def test_defaults_may_be_said_or_not(dm, saved):
    for load, path in zip(LOADS, saved, strict=True):
        said = {
            "prior": po.priors.StandardNormal(),
            "likelihood": po.likelihoods.ZeroInflatedNegativeBinomial(po.dispersions.PerGene()),
            "library": po.library_sizes.Observed(),
            "norm": po.layers.BatchNorm,
            "dropout": 0.1,
        }
        assert load(path, model=small(dm, **said)).schema == dm.schema


def test_a_model_made_for_other_rows_takes_weights_that_fit(dm, saved):
    """The number of rows and the moments of their counts are starting values, unless the guide has a table of rows."""
    other = po.CellDataModule(dm.adata[:50].copy(), batch_key="donor", batch_size=16)
    found = po.load(saved[0], model=small(other))
    assert found.n_obs == other.n_obs != dm.n_obs


def test_a_table_of_rows_is_for_its_rows(dm, tmp_path):
    folder, _ = save(po.SVIModule(small(dm), guide=po.guides.PerObservation), dm, tmp_path)
    other = po.CellDataModule(dm.adata[:50].copy(), batch_key="donor", batch_size=16)
    with pytest.raises(ValueError, match=f"n_obs={dm.n_obs}; got n_obs={other.n_obs}"):
        po.load(folder, model=small(other))


def test_weights_alone_are_asked_for_by_strict(dm, saved):
    found = po.SVIModule.load_from_checkpoint(saved[1], model=small(dm, dropout=0.5), strict=False)
    assert found.model.dropout == 0.5


def test_the_check_draws_nothing(dm, saved):
    after = []
    # The second is compared with a model that is made as the saved one.
    for model in (small(dm), small(dm, prior=po.priors.StandardNormal())):
        torch.manual_seed(1)
        po.load(saved[0], model=model)
        after.append(torch.rand(1))
    assert torch.equal(*after)
