"""Starts from the data: where models begin, once, and how to leave them where they were made."""

import copy

import pytest
import torch
from helpers import counts, quiet_trainer

import pyro_omics as po
from pyro_omics.parts.starts import log_frequencies


@pytest.fixture(scope="module")
def dm():
    return po.CellDataModule(counts(80, 10, seed=3), batch_size=40, validation_size=0.25)


def started(dm, model, **options):
    """The module as it is before the first step."""
    svi = po.SVIModule(model, **options)
    trainer = quiet_trainer(1, limit_train_batches=0)
    trainer.fit(svi, dm)
    return svi


def test_frequencies_are_those_of_the_training_cells(dm):
    total_g = torch.as_tensor(dm.adata.X[dm.rows("training")].sum(0)).double().flatten() + 0.5
    assert torch.allclose(log_frequencies(dm).double(), (total_g / total_g.sum()).log())


def test_a_decoder_starts_at_the_frequencies_and_dispersions_at_one(dm):
    svi = started(dm, po.SCVI.from_data(dm))
    assert torch.equal(svi.model.decoder.heads["rho"].bias, log_frequencies(dm))
    assert (svi.model.likelihood.dispersion.log_theta == 1).all()
    assert not svi.fitted  # a start is no fit


def test_a_start_of_ones_own_and_the_fields_are_kept(dm):
    given = po.likelihoods.NegativeBinomial(po.dispersions.PerGene(start=0.3))
    assert (started(dm, po.SCVI.from_data(dm, likelihood=given)).model.likelihood.dispersion.log_theta == 0.3).all()
    model = po.SCVI.from_data(dm)
    before = copy.deepcopy(model.state_dict())
    after = started(dm, model, warm_start=False).model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_a_second_fit_goes_on_from_the_first(dm, tmp_path):
    svi = po.SVIModule(po.SCVI.from_data(dm))
    quiet_trainer(2).fit(svi, dm)
    trained = svi.model.decoder.heads["rho"].bias.detach().clone()
    assert not torch.equal(trained, log_frequencies(dm))
    for again in (svi, po.load(svi.save(tmp_path / "fit")), po.SVIModule(copy.deepcopy(svi.model))):
        quiet_trainer(1, limit_train_batches=0).fit(again, dm)
        assert torch.equal(again.model.decoder.heads["rho"].bias, trained)


def test_proteins_start_at_their_share_and_level_of_foreground():
    adata, _ = po.simulate.citeseq(n_obs=300, n_genes=12, n_proteins=4, seed=1)
    dm = po.CellDataModule(adata, protein_obsm_key="protein_counts")
    model = po.TotalVI.from_data(dm)
    start = model.start_proteins(dm)
    svi = started(dm, model)
    # The mixture's mean over its two components is that of the counts, but for the spread within each.
    background_t = model.background.start_loc.exp()[0]
    likelihood = model.protein_likelihood
    expected_t = sum(likelihood.expected_counts(background_t, start))
    observed_t = torch.as_tensor(dm.data[dm.rows("training")].y.mean(0))
    assert ((expected_t / observed_t).log().abs() < 0.4).all()
    heads = {name: head.bias for branch in svi.model.protein_decoder.decoders for name, head in branch.heads.items()}
    assert all(torch.equal(heads[name], value) for name, value in start.items())


def test_the_prior_of_the_weights_is_in_the_gradient_and_not_in_the_elbo(dm):
    model = po.SCVI.from_data(dm, weight_scale=0.2)
    svi = po.SVIModule(model)
    weights = dict(model.weight_priors())
    assert {id(w) for w in weights} == {id(p) for n, p in model.decoder.named_parameters() if p.ndim == 2}
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    svi.on_before_optimizer_step(None)
    # The gradient of sum w^2 / (2 sd^2), divided by n_obs as the loss is.
    assert all(torch.allclose(w.grad, w / (0.2**2 * dm.n_obs)) for w in weights)
    assert not list(po.SCVI.from_data(dm, weight_scale=None).weight_priors())
    with pytest.raises(ValueError, match="weight_scale must be a standard deviation"):
        po.SCVI.from_data(dm, weight_scale=0.0)
