"""`Posterior` against truth: exact evidences and posteriors, decodings by hand, and rows by name."""

import copy
import inspect
import math
import pickle
import pydoc
from typing import ClassVar

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import counts, donors, fitted, quiet_trainer, small
from pyro.nn import PyroModule, pyro_method
from scipy import stats
from scipy.special import gammaln

import pyro_omics as po
from pyro_omics.posterior.query import correlation

N, G = 60, 12


def cells(n=N, seed=0):
    return counts(n, G, seed, donor=donors(n, "d1", "d2", "d3"))


def by_donor(adata, **options):
    return po.CellDataModule(adata, **{"batch_key": "donor", "batch_size": 16, **options})


@pytest.fixture(scope="module")
def adata(dm):
    return dm.adata


@pytest.fixture(scope="module")
def dm(donor_cells):
    return donor_cells


@pytest.fixture(scope="module")
def svi(fitted_scvi):
    return fitted_scvi.svi


@pytest.fixture(scope="module")
def post(svi, dm):
    return po.Posterior(svi, dm)


def whole(post):
    """All rows as one batch, as the posterior passes them to the model."""
    return next(po.Posterior(post.svi, post.dm, batch_size=10_000)._batches("all", 1, ""))


def replaced(adata, x=None, **obs):
    copy = adata.copy()
    if x is not None:
        copy.X = x
    for name, values in obs.items():
        copy.obs[name] = values
    return copy


# Models with a known evidence and posterior ---------------------------------------------------------------------------


class GammaPoisson(po.models.CountModel):
    """lam_n ~ Gamma(2, 1), x_ng ~ Poisson(lam_n b_g): posterior Gamma(2 + sum x, 1 + sum b)."""

    local_sites = ("lam",)

    def __init__(self, n_obs, n_genes):
        super().__init__(n_obs)
        self.n_genes = n_genes
        self.register_buffer("b", torch.linspace(0.5, 3.0, n_genes))

    def forward(self, batch):
        with self.plate(batch):
            lam = pyro.sample("lam", dist.Gamma(torch.full((1,), 2.0), 1.0).to_event(1))
            pyro.sample("x", dist.Poisson(lam * self.b).to_event(1), obs=batch.x)

    def evidence(self, x):
        b, total, base = self.b.double().numpy(), x.sum(1), 1 + float(self.b.sum())
        return (x * np.log(b) - gammaln(x + 1)).sum(1) + gammaln(2 + total) - (2 + total) * math.log(base)


class GammaGuide(PyroModule):
    """The exact posterior of `GammaPoisson`, or ``off`` times as many pseudo-counts."""

    def __init__(self, model, off=1.0):
        super().__init__()
        self._model, self.off = (model,), off

    def forward(self, batch):
        model = self._model[0]
        shape, rate = 2 + batch.x.sum(-1, keepdim=True), 1 + model.b.sum()
        with model.plate(batch):
            pyro.sample("lam", dist.Gamma(shape * self.off, rate * self.off).to_event(1))


class NormalMean(po.models.CountModel):
    """mu ~ Normal(0, 3), x_ng ~ Normal(mu, 5): the only latent is global."""

    def __init__(self, n_obs, n_genes):
        super().__init__(n_obs)
        self.n_genes = n_genes

    def forward(self, batch):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with self.plate(batch):
            pyro.sample("x", dist.Normal(mu, 5.0).expand([self.n_genes]).to_event(1), obs=batch.x)


class NormalGuide(PyroModule):
    """Normal(loc, scale) for mu."""

    def __init__(self, loc, scale):
        super().__init__()
        self.loc, self.scale = loc, scale

    def forward(self, batch):
        pyro.sample("mu", dist.Normal(self.loc, self.scale))


class Factors(po.models.CountModel):
    """x_ng ~ Poisson(l_n softmax(z_n W)_g): a local z and a global W."""

    local_sites = ("z",)

    def __init__(self, n_obs, n_genes, n_latent=2):
        super().__init__(n_obs)
        self.n_genes, self.n_latent = n_genes, n_latent
        self.prior = po.priors.StandardNormal(n_latent)
        self.seen = []  # (W (k, g), z, batch) of each run

    def forward(self, batch):
        W = pyro.sample("W", dist.Normal(torch.zeros(self.n_latent, self.n_genes), 1.0).to_event(2))
        with self.plate(batch):
            self.counts(W, batch)

    def counts(self, W, batch):
        z = pyro.sample("z", self.prior())
        self.seen.append((W, z, batch))
        rate = batch.x.sum(-1, keepdim=True) * torch.softmax(z @ W, -1)
        pyro.sample("x", dist.Poisson(rate + 1e-8).to_event(1), obs=batch.x)


class GenePlate(Factors):
    """`Factors` with W in a plate of its own, as Pyro programs often have it."""

    def forward(self, batch):
        with pyro.plate("genes", self.n_genes):
            W = pyro.sample("W", dist.Normal(torch.zeros(self.n_latent), 1.0).to_event(1))
        with self.plate(batch):
            self.counts(W.T, batch)


def own(cls, dm, guide=None, **posterior):
    torch.manual_seed(0)
    return po.Posterior(po.SVIModule(cls.from_data(dm), guide=guide), dm, **posterior)


def off_guide(off):
    return lambda model: GammaGuide(model, off)


@pytest.mark.parametrize("num_particles", [1, 7])
def test_log_likelihood_of_an_exact_guide_is_the_evidence(dm, adata, num_particles):
    post = own(GammaPoisson, dm, GammaGuide)
    found = post.log_likelihood(num_particles=num_particles)
    np.testing.assert_allclose(found, post.model.evidence(adata.X), rtol=2e-5)
    assert list(found.index) == list(adata.obs_names)


def test_elbo_of_an_exact_guide_is_the_evidence(dm, adata):
    post = own(GammaPoisson, dm, GammaGuide)
    np.testing.assert_allclose(post.elbo(), post.model.evidence(adata.X), rtol=2e-5)


def test_elbo_of_another_guide_is_the_evidence_less_the_kl(dm, adata):
    post = own(GammaPoisson, dm, off_guide(0.5))
    shape, rate = torch.as_tensor(2 + adata.X.sum(1)), 1 + post.model.b.sum()
    q, p = dist.Gamma(shape * 0.5, rate * 0.5), dist.Gamma(shape, rate)
    kl = torch.distributions.kl_divergence(q, p).numpy()
    found = post.elbo(num_samples=2000)
    gap = post.model.evidence(adata.X) - kl - found
    assert kl.min() > 0.05
    assert (found < post.model.evidence(adata.X)).all()
    assert abs(gap.mean()) < 0.01


def test_log_likelihood_rises_to_the_evidence_with_particles(dm, adata):
    post = own(GammaPoisson, dm, off_guide(0.5))
    evidence = post.model.evidence(adata.X).mean()
    few, more, many = (post.log_likelihood(num_particles=s).mean() for s in (1, 5, 500))
    assert few < more < many
    assert abs(many - evidence) < 0.01


def test_log_likelihood_divides_by_the_particles_drawn(dm):
    post = own(GammaPoisson, dm, off_guide(0.8), batch_size=100)
    # One minibatch: its first draws are the same, whatever follows them.
    one = post.log_likelihood(num_particles=1)
    five = post.log_likelihood(num_particles=5)
    weights = post._log_weights("all", 5, 0, "", with_global=False)
    np.testing.assert_allclose(weights[0], one)
    np.testing.assert_allclose(five, np.log(np.exp(weights).mean(0)), rtol=1e-6)


def test_rows_elbos_with_an_exact_global_posterior_sum_to_the_evidence(adata):
    dm = po.CellDataModule(adata, validation_size=0)
    x = adata.X.ravel()
    variance = 1 / (1 / 9 + len(x) / 25)
    guide = NormalGuide(float(variance * x.sum(dtype=np.float64) / 25), math.sqrt(variance))
    # Normal(0, 25 I + 9 1 1^T), by the matrix determinant lemma.
    n, s = len(x), x.sum(dtype=np.float64)
    quadratic = (x.astype(np.float64) ** 2).sum() / 25 - variance * (s / 25) ** 2
    log_det = n * math.log(25) + math.log(1 + n * 9 / 25)
    evidence = -0.5 * (n * math.log(2 * math.pi) + log_det + quadratic)
    for batch_size in (7, 512):
        total = own(NormalMean, dm, guide, batch_size=batch_size).elbo(num_samples=3).sum()
        assert total == pytest.approx(evidence, rel=1e-5)


def test_elbo_draws_a_global_once_for_all_minibatches(adata):
    dm = po.CellDataModule(adata)
    guide = NormalGuide(3.0, 0.5)
    one, many = (own(NormalMean, dm, guide, batch_size=size).elbo(num_samples=4, seed=3) for size in (512, 7))
    np.testing.assert_allclose(one, many, rtol=1e-6)
    mu = own(NormalMean, dm, guide).samples("mu", num_samples=4, seed=3).values
    local = stats.norm(mu[:, None, None], 5.0).logpdf(adata.X).sum(-1)
    share = (stats.norm(0, 3).logpdf(mu) - stats.norm(3, 0.5).logpdf(mu)) / dm.n_obs
    np.testing.assert_allclose(one, (local + share[:, None]).mean(0), rtol=1e-5)


def test_log_likelihood_leaves_the_global_terms_out(adata):
    dm = po.CellDataModule(adata)
    post = own(NormalMean, dm, NormalGuide(3.0, 0.5))
    mu = post.samples("mu", num_samples=4).values
    local = stats.norm(mu[:, None, None], 5.0).logpdf(adata.X).sum(-1)
    expected = np.logaddexp.reduce(local, 0) - math.log(4)
    np.testing.assert_allclose(post.log_likelihood(num_particles=4), expected, rtol=1e-5)


def test_elbo_agrees_with_what_training_logs(svi, dm, post):
    trainer = quiet_trainer()
    (logged,) = trainer.validate(svi, dm, verbose=False)
    held_out = [trainer.validate(svi, dm, verbose=False)[0]["val_elbo"] for _ in range(40)] + [logged["val_elbo"]]
    error = np.std(held_out) / math.sqrt(len(held_out))
    assert post.elbo("validation", num_samples=200).mean() == pytest.approx(np.mean(held_out), abs=4 * error + 1e-3)


# Latents --------------------------------------------------------------------------------------------------------------


def test_latent_is_the_encoders_location(post, svi, adata):
    svi.eval()
    with torch.no_grad():
        loc, scale = svi.model.encoders["z"](torch.log1p(torch.as_tensor(adata.X)))
    np.testing.assert_allclose(post.latent(), loc, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(post.latent_sd(), scale, rtol=1e-5)


def test_latent_does_not_depend_on_the_minibatches(svi, dm):
    seven, all_at_once = (po.Posterior(svi, dm, batch_size=size).latent() for size in (7, 512))
    np.testing.assert_allclose(seven, all_at_once, rtol=1e-5, atol=1e-6)


def test_splits_are_the_rows_of_the_data_module(post, dm):
    for split in ("training", "validation"):
        np.testing.assert_allclose(post.latent(split), post.latent()[dm.rows(split)], rtol=1e-5, atol=1e-6)
        assert list(post.elbo(split).index) == list(dm.adata.obs_names[dm.rows(split)])


def test_draws_agree_with_the_moments(post):
    draws = post.samples("z", num_samples=2000)
    mean, sd = post.latent(), post.latent_sd()
    error = np.abs(draws.mean("sample").values - mean) / (sd / math.sqrt(2000))
    assert error.max() < 5
    np.testing.assert_allclose(draws.std("sample").values, sd, rtol=0.1)
    assert draws.dims == ("sample", "obs", "z_dim_0")
    assert list(draws.obs.values) == list(post.dm.adata.obs_names)


@pytest.fixture(scope="module")
def on_simplex(dm):
    return po.Posterior(fitted(dm, epochs=1, prior=po.priors.LogisticNormal()), dm)


def test_logistic_normal_latents_are_proportions(on_simplex):
    proportions = on_simplex.latent()
    assert (proportions > 0).all()
    np.testing.assert_allclose(proportions.sum(1), 1, rtol=1e-5)
    draws = torch.softmax(torch.as_tensor(on_simplex.samples("z", num_samples=1000).values), -1)
    np.testing.assert_allclose(on_simplex.latent(num_samples=1000), draws.mean(0), atol=0.03)
    np.testing.assert_allclose(on_simplex.latent_sd(num_samples=1000), draws.std(0), atol=0.03)


def test_the_latent_of_a_positive_site_is_its_posterior_mean(dm, adata):
    post = own(GammaPoisson, dm, GammaGuide)
    shape, rate = 2 + adata.X.sum(1, keepdims=True), 1 + float(post.model.b.sum())
    np.testing.assert_allclose(post.latent(), shape / rate, rtol=1e-5)
    np.testing.assert_allclose(post.latent_sd(), np.sqrt(shape) / rate, rtol=1e-5)
    assert (own(GammaPoisson, dm).latent() > 0).all()


def test_a_model_without_local_sites_has_no_latent(dm):
    with pytest.raises(ValueError, match="no local sites"):
        own(NormalMean, dm, NormalGuide(0.0, 1.0)).latent()


# Global latents -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Factors, GenePlate])
def test_global_and_local_draws_are_labelled(dm, cls):
    draws = own(cls, dm, batch_size=7).samples(num_samples=3)
    assert draws["W"].dims[0] == "sample" and "obs" not in draws["W"].dims
    assert draws["z"].dims == ("sample", "obs", "z_dim_0") and draws["z"].shape == (3, N, 2)


@pytest.mark.parametrize("ask", ["elbo", "predictive"])
@pytest.mark.parametrize("cls", [Factors, GenePlate])
def test_a_draw_has_the_same_globals_in_all_minibatches(dm, cls, ask):
    # A minibatch of G rows: a plate over genes must not be taken for the one over rows.
    post, S = own(cls, dm, batch_size=G), 3
    post.model.seen.clear()
    getattr(post, ask)(num_samples=S, seed=6)
    W = torch.stack([W for W, _, _ in post.model.seen]).reshape(N // G, S, 2, G)
    assert (W == W[0]).all()
    assert (W[0, 0] != W[0, 1]).all()


@pytest.mark.parametrize("batch_size", [G, 25, 512])
@pytest.mark.parametrize("cls", [Factors, GenePlate])
def test_a_rows_elbo_has_its_own_terms_and_a_share_of_the_global_ones(dm, cls, batch_size):
    post = own(cls, dm, batch_size=batch_size)
    post.model.seen.clear()
    found = post.elbo(num_samples=3).to_numpy()
    expected, q = np.zeros(N), post.svi.guide.rest
    locs, scales = (t if cls is Factors else t.mT for t in (q.locs.W, q.scales.W))
    post.svi.eval()
    for W, z, batch in post.model.seen:
        rate = batch.x.sum(-1, keepdim=True) * torch.softmax(z @ W, -1) + 1e-8
        local = dist.Poisson(rate).log_prob(batch.x).sum(-1)
        local = local + (dist.Normal(0, 1).log_prob(z) - dist.Normal(*post.model.encode(batch)).log_prob(z)).sum(-1)
        share = (dist.Normal(0, 1).log_prob(W) - dist.Normal(locs, scales).log_prob(W)).sum() / post.svi.n_obs
        expected[batch.row] += (local + share).detach().numpy() / 3
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_sites_that_are_named_come_alone(dm):
    post = own(Factors, dm)
    assert post.samples("W", num_samples=2).dims == ("sample", "W_dim_0", "gene")
    assert tuple(post.samples("W", num_samples=2).gene.values) == post.schema.genes
    assert set(post.samples("W", "z", num_samples=2).data_vars) == {"W", "z"}
    assert set(post.samples(num_samples=2).data_vars) == {"W", "z"}


# Expression -----------------------------------------------------------------------------------------------------------


def decoded(post, batch, code, z):
    """rho of z, decoded under a batch code, without the posterior's machinery."""
    moved = batch if code is None else batch._replace(batch=torch.full_like(batch.index, code))
    post.svi.eval()
    with torch.no_grad():
        return post.model.decode(torch.as_tensor(z), moved)[0].numpy()


@pytest.mark.parametrize("under", [None, "d2", ["d1", "d3"], ["d1", "d2", "d3"]])
def test_expression_sums_to_the_library_size(post, under):
    total = post.normalized_expression(transform_batch=under, library_size=1e4, num_samples=3).sum(1)
    np.testing.assert_allclose(total, 1e4, rtol=1e-5)


def test_expression_at_the_cells_own_library_sums_to_its_counts(post, adata):
    total = post.normalized_expression(library_size=None).sum(1)
    np.testing.assert_allclose(total, adata.X.sum(1), rtol=1e-5)


def test_expression_is_labelled_in_the_data_s_order(post, adata):
    frame = post.normalized_expression(num_samples=2)
    assert list(frame.index) == list(adata.obs_names) and list(frame.columns) == list(adata.var_names)


def test_genes_select_columns_of_the_whole(post):
    frame = post.normalized_expression(num_samples=2)
    subset = post.normalized_expression(genes=["gene7", "gene2"], num_samples=2)
    pd.testing.assert_frame_equal(subset, frame[["gene7", "gene2"]])


@pytest.mark.parametrize(("under", "code"), [(None, None), ("d3", 2), ("d1", 0)])
def test_transform_batch_decodes_under_that_batch(post, under, code):
    z = post.samples("z", num_samples=4).values
    expected = np.mean([decoded(post, whole(post), code, draw) for draw in z], 0)
    np.testing.assert_allclose(post.normalized_expression(transform_batch=under, num_samples=4), expected, rtol=1e-4)


def test_several_batches_are_averaged_over_the_same_draws(post):
    one, other = (post.normalized_expression(transform_batch=name, num_samples=3) for name in ("d1", "d3"))
    both = post.normalized_expression(transform_batch=["d1", "d3"], num_samples=3)
    np.testing.assert_allclose(both, (one + other) / 2, rtol=1e-5)
    assert np.abs(one.to_numpy() - other.to_numpy()).max() > 1e-3


def test_a_credible_interval_holds_the_mean_and_widens(post):
    wide, narrow = (post.normalized_expression(num_samples=200, credible_interval=p) for p in (0.95, 0.5))
    assert (wide.lower <= wide.mean).all(None) and (wide.mean <= wide.upper).all(None)
    assert (wide.lower < narrow.lower).all(None) and (narrow.upper < wide.upper).all(None)
    plain = post.normalized_expression(num_samples=200)
    np.testing.assert_allclose(wide.mean, plain, rtol=1e-4)
    np.testing.assert_array_equal(wide.lower.index, plain.index)


def test_a_credible_interval_is_of_the_draws(post):
    z = post.samples("z", num_samples=50, seed=4).values
    rho = np.stack([decoded(post, whole(post), None, draw) for draw in z])
    summary = post.normalized_expression(num_samples=50, credible_interval=0.8, seed=4)
    np.testing.assert_allclose(summary.lower, np.quantile(rho, 0.1, axis=0), rtol=1e-3)
    np.testing.assert_allclose(summary.upper, np.quantile(rho, 0.9, axis=0), rtol=1e-3)


def test_the_models_queries_are_methods(post):
    """They are completed, documented, and have their options in their signature."""
    assert {"normalized_expression", "denoised_samples"} <= set(dir(post))
    parameters = inspect.signature(post.normalized_expression).parameters
    assert list(parameters) == ["transform_batch", "num_samples", "credible_interval", "split", "seed", "library_size",
                                "options"]  # fmt: skip
    assert (parameters["num_samples"].default, parameters["library_size"].default) == (10, 1.0)
    text = pydoc.render_doc(post.normalized_expression, renderer=pydoc.plaintext)
    assert "normalized_expression(transform_batch" in text and "the sum of each cell's expression" in text
    assert "e.g. 0.9" in text and "one of ``model.queries``" not in text
    expected = post.query("normalized_expression", "d2", 3, library_size=10.0)
    pd.testing.assert_frame_equal(post.normalized_expression("d2", 3, library_size=10.0), expected)


def test_a_name_that_is_no_query_is_answered_with_those_that_are(post):
    with pytest.raises(AttributeError, match=r"no 'normalised_expression'; .* \['normalized_expression', 'denoised_s"):
        post.normalised_expression()
    with pytest.raises(ValueError, match=r"queries, \['normalized_expression', 'denoised_samples'\]; got 'latent'"):
        post.query("latent")


class Doubled(GammaPoisson):
    """A model with a query of its own, which has no documentation."""

    queries: ClassVar = {"rates": "genes"}

    @pyro_method
    def rates(self, batch, latents, factor=1.0):
        return factor * latents["lam"] * self.b


def test_a_query_of_a_users_model_is_a_method(dm):
    post = own(Doubled, dm, GammaGuide)
    rates = post.rates(factor=2.0, num_samples=500)
    np.testing.assert_allclose(rates, 2 * post.latent() * post.model.b.numpy(), rtol=0.15)
    assert tuple(rates.columns) == post.schema.genes
    assert "factor" in inspect.signature(post.rates).parameters


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda post: pickle.loads(pickle.dumps(post))])
def test_copies_and_pickles_of_a_posterior_answer_alike(post, duplicate):
    other = duplicate(post)
    assert "normalized_expression" in dir(other)
    expected = post.normalized_expression(num_samples=2)
    pd.testing.assert_frame_equal(other.normalized_expression(num_samples=2), expected)


# Correlations ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_correlations_are_the_mean_of_those_of_each_draw(post, method):
    z = post.samples("z", num_samples=3).values
    expected = np.mean([pd.DataFrame(decoded(post, whole(post), None, draw)).corr(method) for draw in z], 0)
    found = post.correlations("normalized_expression", method, num_samples=3)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert tuple(found.index) == tuple(found.columns) == post.schema.genes


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_a_constant_column_has_no_correlation(method):
    values = np.random.default_rng(0).integers(0, 4, (30, 5)).astype(float)  # with ties
    values[:, 2] = 1.0
    found = correlation(values, method)
    np.testing.assert_allclose(found, pd.DataFrame(values).corr(method), rtol=1e-12)
    assert np.isnan(found[2]).all() and np.isfinite(np.delete(np.delete(found, 2, 0), 2, 1)).all()


# Predictive draws -----------------------------------------------------------------------------------------------------


def test_predictive_draws_are_counts_around_the_models_mean(dm, adata):
    post = own(GammaPoisson, dm, GammaGuide, batch_size=13)
    draws = post.predictive(num_samples=1000)
    assert draws.dtype.kind == "i" and draws.dims == ("sample", "obs", "gene")
    assert list(draws.obs.values) == list(adata.obs_names) and list(draws.gene.values) == list(adata.var_names)
    b = post.model.b.numpy()
    shape, rate = 2 + adata.X.sum(1, keepdims=True), 1 + b.sum()
    mean, variance = shape / rate * b, shape / rate * b + shape / rate**2 * b**2
    z_score = (draws.values.mean(0) - mean) / np.sqrt(variance / 1000)
    assert np.abs(z_score).max() < 5
    np.testing.assert_allclose(draws.values.var(0).mean(0), variance.mean(0), rtol=0.1)


def test_predictive_of_a_gene_subset_is_a_part_of_the_whole(post):
    all_genes = post.predictive(num_samples=2)
    subset = post.predictive(num_samples=2, genes=["gene5", "gene0"])
    np.testing.assert_array_equal(subset, all_genes.sel(gene=["gene5", "gene0"]))
    assert list(subset.gene.values) == ["gene5", "gene0"]


def test_predictive_leaves_the_counts_alone(post, adata):
    before = adata.X.copy()
    assert (post.predictive(num_samples=1).values[0] != before).any()
    np.testing.assert_array_equal(adata.X, before)


# New data -------------------------------------------------------------------------------------------------------------


def test_permuted_and_extra_genes_are_aligned_by_name(post, svi, adata):
    other = replaced(adata)
    extra = counts(N, 3, seed=5)
    extra.var_names = ["extra0", "extra1", "extra2"]
    wider = pd.concat([other.to_df(), pd.DataFrame(extra.X, other.obs_names, extra.var_names)], axis=1)
    shuffled = wider.iloc[:, np.random.default_rng(0).permutation(wider.shape[1])]
    new = type(adata)(shuffled.astype(np.float32), obs=adata.obs)
    found = po.Posterior(svi, by_donor(new))
    np.testing.assert_allclose(found.latent(), post.latent(), rtol=1e-5, atol=1e-6)
    frame = found.normalized_expression(num_samples=2)
    assert list(frame.columns) == list(adata.var_names)
    np.testing.assert_allclose(frame, post.normalized_expression(num_samples=2), rtol=1e-4)


def test_batches_of_new_data_are_known_by_name(post, svi, adata):
    last = adata[adata.obs["donor"] == "d3"].copy()
    # One level here, three in the model: it is the model's third all the same, and nothing is dropped.
    new = by_donor(last, validation_size=0)
    found = po.Posterior(svi, new).normalized_expression(num_samples=500)
    expected = post.normalized_expression(num_samples=500).loc[last.obs_names]
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_a_missing_gene_is_refused(svi, adata):
    with pytest.raises(ValueError, match=r"1 of the model's 12 genes .*'gene4'"):
        po.Posterior(svi, by_donor(adata[:, adata.var_names != "gene4"].copy()))


def test_an_unknown_batch_level_is_refused(svi, adata):
    other = replaced(adata, donor=donors(N, "d1", "d9"))
    with pytest.raises(ValueError, match=r"batch_key='donor'.*'d9'"):
        po.Posterior(svi, by_donor(other))


def test_a_missing_batch_key_is_refused(svi, adata):
    with pytest.raises(ValueError, match="batch_key"):
        po.Posterior(svi, po.CellDataModule(adata))


def test_an_untrained_model_of_other_genes_is_refused(adata):
    model = small(po.CellDataModule(adata))
    with pytest.raises(ValueError, match="12 genes and the data 5"):
        po.Posterior(po.SVIModule(model), po.CellDataModule(adata[:, :5].copy()))


def test_rows_of_new_data_are_held_out_rows(svi, adata):
    new = po.Posterior(svi, by_donor(cells(n=30, seed=9)))
    index = next(new._batches("all", 1, "")).index
    assert (index >= svi.n_obs).all()


def test_cells_without_counts_give_finite_answers(svi, adata):
    x = adata.X.copy()
    x[:3] = 0
    post = po.Posterior(svi, by_donor(replaced(adata, x)))
    assert np.isfinite(post.latent()).all()
    assert np.isfinite(post.elbo()).all() and np.isfinite(post.log_likelihood(num_particles=3)).all()
    assert np.isfinite(post.normalized_expression(num_samples=2)).all(None)
    assert (post.predictive(num_samples=2).values[:, :3] == 0).all()


# Annotating -----------------------------------------------------------------------------------------------------------


def test_annotate_aligns_rows_by_name(post, adata):
    order = np.random.default_rng(1).permutation(N)[:40]
    other = adata[order].copy()
    post.annotate(other)
    np.testing.assert_array_equal(other.obsm["X_scvi"], post.latent()[order])
    np.testing.assert_array_equal(other.obsm["X_scvi_sd"], post.latent_sd()[order])


def test_annotate_refuses_other_rows(post, adata):
    other = adata.copy()
    other.obs_names = ["stranger", *adata.obs_names[1:]]
    with pytest.raises(ValueError, match="'stranger'"):
        post.annotate(other)
    assert not other.obsm


# What a query must leave alone ----------------------------------------------------------------------------------------

QUERIES = {
    "latent": lambda post: post.latent(),
    "samples": lambda post: post.samples("z", num_samples=2),
    "elbo": lambda post: post.elbo(),
    "log_likelihood": lambda post: post.log_likelihood(num_particles=2),
    "predictive": lambda post: post.predictive(num_samples=2),
    "normalized_expression": lambda post: post.normalized_expression(num_samples=2),
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_leaves_the_session_as_it_was(on_simplex, name):
    svi = on_simplex.svi
    svi.train()
    before = {key: value.clone() for key, value in svi.state_dict().items()}
    checking = torch.distributions.Distribution._validate_args
    torch.manual_seed(5)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    QUERIES[name](on_simplex)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
    assert all(torch.equal(value, before[key]) for key, value in svi.state_dict().items())
    assert torch.distributions.Distribution._validate_args == checking
    assert torch.is_grad_enabled()
    assert all(module.training for module in svi.modules())
    svi.eval()
    QUERIES[name](on_simplex)
    assert not any(module.training for module in svi.modules())


def test_a_query_leaves_a_frozen_part_frozen(on_simplex):
    on_simplex.svi.train()
    on_simplex.model.decoder.eval()
    on_simplex.latent()
    assert on_simplex.svi.training and not on_simplex.model.decoder.training


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_repeats_itself(on_simplex, name):
    one = QUERIES[name](on_simplex)
    torch.manual_seed(99)
    np.testing.assert_array_equal(one, QUERIES[name](on_simplex))


def test_another_seed_is_another_draw(post):
    assert (post.elbo(seed=0) != post.elbo(seed=1)).all()
    assert (post.samples("z", num_samples=2, seed=0) != post.samples("z", num_samples=2, seed=1)).all()


def test_a_failing_query_leaves_the_session_as_it_was(post):
    post.svi.train()
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match="nowhere"):
        post.samples("nowhere")
    assert post.svi.training and torch.equal(torch.get_rng_state(), state)
    post.svi.eval()


# Wrong arguments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda p: p.normalized_expression(genes=["gene1", "CD3E"]), r"genes .*'CD3E'"),
        (lambda p: p.normalized_expression(genes="gene1"), r"genes .*'gene1'"),
        (lambda p: p.predictive(genes=["CD3E"]), r"genes .*'CD3E'"),
        (lambda p: p.normalized_expression(transform_batch="d9"), r"transform_batch.*'d1'.*got \['d9'\]"),
        (lambda p: p.normalized_expression(transform_batch=["d1", "d9"]), r"transform_batch.*got \['d9'\]"),
        (lambda p: p.normalized_expression(transform_batch=[]), "transform_batch"),
        (lambda p: p.normalized_expression(credible_interval=1.5), "credible_interval"),
        (lambda p: p.normalized_expression(credible_interval=0.0), "credible_interval"),
        (lambda p: p.normalized_expression(num_samples=0), "num_samples"),
        (lambda p: p.predictive(num_samples=0), "num_samples"),
        (lambda p: p.elbo(num_samples=0), "num_samples"),
        (lambda p: p.samples("z", num_samples=-1), "num_samples"),
        (lambda p: p.log_likelihood(num_particles=0), "num_particles"),
        (lambda p: p.samples("W"), r"'z'.*got \['W'\]"),
        (lambda p: p.latent("train"), "split must be .*; got 'train'"),
        (lambda p: p.elbo(split="test"), "split must be .*; got 'test'"),
    ],
)
def test_a_wrong_argument_is_named(post, ask, message):
    with pytest.raises(ValueError, match=message):
        ask(post)


def test_a_batch_size_below_one_is_refused(svi, dm):
    with pytest.raises(ValueError, match="batch_size"):
        po.Posterior(svi, dm, batch_size=0)


def test_a_split_without_rows_is_refused(adata):
    dm = by_donor(adata, validation_size=0)
    post = po.Posterior(po.SVIModule(small(dm)), dm)
    for ask in (post.latent, post.elbo, post.normalized_expression):
        with pytest.raises(ValueError, match="split='validation'"):
            ask(split="validation")


@pytest.mark.slow
def test_intervals_do_not_depend_on_how_many_rows_are_held_at_once(post, monkeypatch):
    whole = post.normalized_expression(num_samples=400, credible_interval=0.8)
    monkeypatch.setattr("pyro_omics.posterior.rows.MAX_NUMBERS", 400 * 12 * 7)
    pieces = post.normalized_expression(num_samples=400, credible_interval=0.8)
    np.testing.assert_allclose(whole.upper, pieces.upper, rtol=0.25)
    np.testing.assert_allclose(whole.lower, pieces.lower, rtol=0.25)
    assert np.abs(whole.upper / pieces.upper - 1).mean(None) < 0.05
    assert list(pieces.mean.index) == list(whole.mean.index)


@pytest.mark.parametrize("container", [pd.Index, np.array, pd.Series, pd.Categorical, tuple, iter])
def test_names_are_taken_in_every_container(post, container):
    genes, batches = ["gene7", "gene2"], ["d3", "d1"]
    truth = post.normalized_expression(genes=genes, transform_batch=batches, num_samples=2)
    found = post.normalized_expression(genes=container(genes), transform_batch=container(batches), num_samples=2)
    assert found.equals(truth) and list(found.columns) == genes
    assert list(post.predictive(num_samples=1, genes=container(genes)).gene) == genes


# Precision ------------------------------------------------------------------------------------------------------------


def test_a_fit_in_double_precision_answers(dm):
    svi = po.SVIModule(small(dm))
    quiet_trainer(1, precision="64-true").fit(svi, dm)
    post = po.Posterior(svi, dm)
    assert {p.dtype for p in svi.parameters()} == {torch.float64}
    latent = post.latent()
    assert latent.dtype == np.float64
    assert post.normalized_expression(num_samples=1).to_numpy().sum(1) == pytest.approx(1.0, abs=1e-6)
    assert np.isfinite(post.elbo()).all() and np.isfinite(post.log_likelihood(num_particles=2)).all()
    assert post.predictive(num_samples=2).sizes["sample"] == 2
    svi.float()
    np.testing.assert_allclose(post.latent(), latent, rtol=1e-4, atol=1e-5)
