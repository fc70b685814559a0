"""`bayesianize`: parameters become latents with a prior, whose posterior is right where it is known."""

import copy
import itertools
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import pytorch_lightning as pl
import torch
from pyro.distributions.transforms import AffineTransform
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule
from pyro.optim.clipped_adam import ClippedAdam
from scipy import stats

import pyro_omics as po


class Regression(po.models.CountModel):
    """x_n ~ Normal(t_n w, 200), of the count table's first column t and second x."""

    def __init__(self, n_obs, n_genes):
        super().__init__(n_obs=n_obs)
        self.n_genes = n_genes
        self.line = PyroModule[torch.nn.Linear](1, 1, bias=False)

    def forward(self, batch):
        with self.plate(batch):
            mean = self.line(batch.x[:, :1]).squeeze(-1)
            pyro.sample("x", dist.Normal(mean, 200.0), obs=batch.x[:, 1])


def fitted(svi, dm, epochs):
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(svi, dm)
    return po.Posterior(svi, dm)


@pytest.fixture(scope="module")
def dm():
    adata, _ = po.simulate.cells(n_obs=80, n_genes=6, seed=0)
    return po.CellDataModule(adata, batch_size=40, validation_size=0.0)


def scvi(dm, **options):
    torch.manual_seed(0)
    return po.SCVI.from_data(dm, n_latent=2, n_hidden=4, **options)


@pytest.mark.parametrize("rest", [AutoNormal, AutoMultivariateNormal])
def test_the_posterior_of_a_regression_is_the_known_one(rest, dm):
    t, x = dm.data[dm.rows()].x[:, :2].unbind(-1)
    precision = 1 / 0.3**2 + float((t**2).sum()) / 200**2
    mean, sd = float((t * x).sum()) / 200**2 / precision, precision**-0.5
    torch.manual_seed(0)
    model = po.bayesianize(Regression.from_data(dm), "line", prior=dist.Normal(0.0, 0.3))
    svi = po.SVIModule(model, guide=partial(po.guides.Amortized, rest=rest), kl_warmup_epochs=0,
                       optimizer=partial(ClippedAdam, lr=0.05, lrd=0.99))  # fmt: skip
    w = fitted(svi, dm, 250).samples("line.weight", num_samples=2000).to_numpy().ravel()
    assert w.mean() == pytest.approx(mean, abs=0.3 * sd)
    assert w.std() == pytest.approx(sd, rel=0.3)


@pytest.mark.parametrize("names", [("decoder",), ("decoder", "likelihood"), ("likelihood.dispersion.log_theta",)])
@pytest.mark.parametrize("rest", [AutoNormal, partial(AutoLowRankMultivariateNormal, rank=2)])
def test_it_keeps_the_contract(names, rest, dm):
    po.testing.check_model(po.bayesianize(scvi(dm), *names), dm, guide=partial(po.guides.Amortized, rest=rest))


@pytest.mark.parametrize("prior", [po.priors.Horseshoe(), po.priors.Horseshoe(0.1, slab=1.0), po.priors.WeightNormal()])
def test_priors_of_weights(prior, dm, tmp_path):
    model = po.bayesianize(scvi(dm), "decoder.heads", prior=prior)
    po.testing.check_model(model, dm)
    again = po.load(po.SVIModule(model).save(tmp_path / "model"))
    assert type(again.model.constructor_edits[0]["prior"]) is type(prior)


def test_a_horseshoe_shrinks_what_does_not_matter_and_leaves_what_does():
    """Of 20 weights of a regression one is 3, and the others 0."""

    class Sparse(Regression):
        def __init__(self, n_obs, n_genes):
            super().__init__(n_obs, n_genes)
            self.line = PyroModule[torch.nn.Linear](20, 1, bias=False)

        def forward(self, batch):
            with self.plate(batch):
                pyro.sample("x", dist.Normal(self.line(batch.x[:, :20] - 2.0).squeeze(-1), 3.0),
                            obs=batch.x[:, 20] - 10.0)  # fmt: skip

    import anndata as ad

    rng = np.random.default_rng(0)
    t = rng.poisson(2.0, (150, 20))
    y = np.maximum(np.round(10 + 3 * (t[:, 4] - 2) + rng.normal(0, 3, 150)), 0)
    data = po.CellDataModule(ad.AnnData(np.column_stack([t, y]).astype(np.float32)), validation_size=0.0)
    found = {"horseshoe": np.zeros(20), "normal": np.zeros(20)}  # means of two fits
    priors = {"horseshoe": po.priors.Horseshoe(0.05), "normal": dist.Normal(0.0, 3.0)}
    for seed, (name, prior) in itertools.product(range(2), priors.items()):
        torch.manual_seed(seed)
        svi = po.SVIModule(po.bayesianize(Sparse.from_data(data), "line", prior=prior), kl_warmup_epochs=0,
                           optimizer=partial(ClippedAdam, lr=0.05, lrd=0.998))  # fmt: skip
        found[name] += (
            0.5 * np.abs(fitted(svi, data, 400).samples("line.weight", num_samples=200).mean("sample")).values[0]
        )
    null = np.delete(np.arange(20), 4)
    assert found["horseshoe"][4] > 2.0
    assert found["horseshoe"][null].mean() < 0.5 * found["normal"][null].mean()


def test_every_model_can_be_made_bayesian():
    adata, _ = po.simulate.citeseq(n_obs=60, n_genes=8, n_proteins=4, n_batches=2, seed=0)
    cite = po.CellDataModule(adata, batch_key="batch", protein_obsm_key="protein_counts")
    po.testing.check_model(po.bayesianize(po.TotalVI.from_data(cite, n_latent=2, n_hidden=4), "decoder"), cite)
    adata, _ = po.simulate.del_library(cycles=(4, 4, 3), seed=0)
    library = po.DELDataModule(adata)
    po.testing.check_model(po.bayesianize(po.DELCount.from_data(library, n_hidden=4), "target_rate"), library)
    hierarchical = po.bayesianize(po.HierarchicalDEL.from_data(library), "own", prior=dist.Normal(0.0, 1.0))
    po.testing.check_model(hierarchical, library, guide=po.guides.Amortized)
    with pytest.raises(ValueError, match=r"'own.logit_shape'\] are latent by bayesianize.*use guides.Amortized"):
        po.SVIModule(hierarchical)


def test_weights_start_where_the_parameters_were_and_the_model_is_left_alone(dm):
    model = scvi(dm)
    before = copy.deepcopy(model.state_dict())
    svi = po.SVIModule(po.bayesianize(model, "decoder"))
    assert set(model.state_dict()) == set(before)
    at = svi.guide.rest.median()
    for name, value in model.decoder.named_parameters():
        torch.testing.assert_close(at[f"decoder.{name}"], value.detach())
    told = partial(po.guides.Amortized, rest=partial(AutoNormal, init_loc_fn=pyro.infer.autoguide.init_to_mean))
    at = po.SVIModule(po.bayesianize(model, "decoder"), guide=told).guide.rest.median()
    assert not at["decoder.heads.rho.weight"].any()


def test_the_default_optimizer_widens_the_posterior_of_what_the_data_do_not_tell():
    adata, _ = po.simulate.cells(n_obs=2000, n_genes=6, seed=0)
    adata.X[:, 0] = 0
    adata.X[0, 0] = 1  # one count: of this gene's dispersion the data say next to nothing
    data = po.CellDataModule(adata, batch_size=200, validation_size=0.0)
    likelihood = po.likelihoods.NegativeBinomial(po.dispersions.PerGene(start=0.0))
    model = po.bayesianize(scvi(data, likelihood=likelihood), "likelihood", prior=dist.Normal(0.0, 1.0))
    optimizer = partial(model.default_optimizer(), lr=0.05, betas=(0.9, 0.99))  # a memory shorter than the training
    svi = po.SVIModule(model, optimizer=optimizer, kl_warmup_epochs=0)
    post = fitted(svi, data, 80)
    silent, *others = post.samples("likelihood.dispersion.log_theta", num_samples=500).to_numpy().std(0)
    assert silent == pytest.approx(1.0, abs=0.25)
    assert max(others) < 0.5


def test_what_was_made_latent_is_saved_and_drawn_again(dm, tmp_path):
    model = po.bayesianize(scvi(dm), "likelihood", prior=dist.Normal(1.0, 0.5))
    svi = po.SVIModule(po.bayesianize(model, "decoder", prior=dist.Laplace(0.0, 0.3)))
    again = po.load(svi.save(tmp_path / "model"))
    assert again.model.constructor_edits[1]["names"] == ["decoder"]
    fn = pyro.poutine.trace(again.model).get_trace(dm.data[[0, 1]]).nodes["decoder.heads.rho.weight"]["fn"]
    assert float(fn.base_dist.scale.unique()) == pytest.approx(0.3) and isinstance(fn.base_dist, dist.Laplace)
    draws = [po.Posterior(one, dm).samples("decoder.heads.rho.bias", num_samples=3) for one in (svi, again)]
    np.testing.assert_array_equal(*draws)
    assert draws[0].shape == (3, 6)


MIXTURE = dist.MixtureSameFamily(
    dist.Categorical(torch.tensor([0.25, 0.75])), dist.Normal(torch.zeros(2), torch.tensor([1.0, 0.05]))
)


@pytest.mark.parametrize(
    ("prior", "density"),
    [
        (MIXTURE, lambda w: 0.25 * stats.norm.pdf(w) + 0.75 * stats.norm.pdf(w, scale=0.05)),
        (dist.TransformedDistribution(dist.Laplace(0.0, 1.0), [AffineTransform(0.1, 0.3)]),
         lambda w: stats.laplace.pdf(w, 0.1, 0.3)),
        (dist.StudentT(3.0, 0.0, 0.5), lambda w: stats.t.pdf(w, 3, scale=0.5)),
    ],
)  # fmt: skip
def test_any_distribution_of_one_number_may_be_the_prior(prior, density, dm, tmp_path):
    """Mixtures (Blundell et al.) and transformed ones: their density, a fit, in another precision, saved and loaded."""
    model = po.bayesianize(scvi(dm), "decoder.heads", prior=prior)
    po.testing.check_model(model, dm)
    svi = po.SVIModule(model)
    again = po.load(svi.save(tmp_path / "model"))
    for one, precision in ((svi, 1e-5), (again, 1e-5), (copy.deepcopy(svi).double(), 1e-6)):
        dtype = next(one.parameters()).dtype
        batch = dm.example_batch()
        batch = batch._replace(x=batch.x.to(dtype))
        site = pyro.poutine.trace(one.model.eval()).get_trace(batch).nodes["decoder.heads.rho.weight"]
        assert site["value"].dtype == dtype
        expected = np.log(density(site["value"].numpy().astype(float))).sum()
        assert float(site["fn"].log_prob(site["value"])) == pytest.approx(expected, rel=precision)
    np.testing.assert_allclose(po.Posterior(svi, dm).elbo(), po.Posterior(again, dm).elbo(), rtol=1e-6)


@pytest.mark.parametrize(
    "prior", [dist.HalfNormal(1.0), dist.LogNormal(0.0, 1.0), dist.Gamma(1.0, 1.0), dist.Uniform(-0.01, 0.01)]
)
def test_weights_outside_of_the_priors_support_are_refused(prior, dm):
    name = type(prior).__name__
    with pytest.raises(ValueError, match=rf"prior={name} has the support.*'decoder\.\S+' has values.*dist.Laplace"):
        po.bayesianize(scvi(dm), "decoder", prior=prior)


def test_positive_weights_may_have_a_positive_prior(dm):
    model = Regression.from_data(dm)
    torch.nn.init.constant_(model.line.weight, 0.5)
    svi = po.SVIModule(po.bayesianize(model, "line", prior=dist.HalfNormal(1.0)))
    assert float(svi.guide.rest.median()["line.weight"]) == pytest.approx(0.5)
    torch.nn.init.zeros_(model.line.weight)  # where log is not finite
    with pytest.raises(ValueError, match=r"'line\.weight' has values outside of it, such as 0:"):
        po.bayesianize(model, "line", prior=dist.HalfNormal(1.0))


def test_queries_take_the_weights_that_were_drawn(dm):
    """Expression differs between draws at the same z, and its interval is wider than with fixed weights."""
    svi = po.SVIModule(po.bayesianize(scvi(dm), "decoder", prior=dist.Normal(0.0, 1.0)))
    with torch.no_grad():
        for name, p in svi.guide.rest.named_parameters():
            if "scales" in name:
                p.fill_(0.0)  # unconstrained: a large scale
    mean, lower, upper = po.Posterior(svi, dm).normalized_expression(num_samples=30, credible_interval=0.9)
    narrow = po.Posterior(po.SVIModule(scvi(dm)), dm).normalized_expression(num_samples=30, credible_interval=0.9)
    assert (upper - lower).to_numpy().mean() > 1.5 * (narrow.upper - narrow.lower).to_numpy().mean()
    assert mean.sum(axis=1).to_numpy() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: po.bayesianize(m), ValueError, "names must be one or more submodules or parameters; got none"),
        (
            lambda m: po.bayesianize(m, "nope"),
            ValueError,
            r"'nope' has no parameters in SCVI: the model has parameters in \['decoder'",
        ),
        (lambda m: po.bayesianize(m, "encoders.z"), ValueError, "is part of the guide"),
        (lambda m: po.bayesianize(m, "decoder", prior=1.0), TypeError, "prior must be a distribution"),
        (
            lambda m: po.bayesianize(m, "decoder", prior=torch.distributions.Normal(0.0, 1.0)),
            TypeError,
            "torch's: pass dist.N",
        ),
        (lambda m: po.bayesianize(m, "decoder", prior=dist.Normal(torch.zeros(2), 1.0)), ValueError, r"shape \(2,\)"),
        (lambda m: po.bayesianize(po.bayesianize(m, "decoder"), "decoder"), ValueError, "has no parameters"),
    ],
)
def test_what_cannot_be_made_latent_is_said(call, error, message, dm):
    with pytest.raises(error, match=message):
        call(scvi(dm))
