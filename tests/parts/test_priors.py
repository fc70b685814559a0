"""Priors: each against its formula (scipy, quadrature, closed forms), and what it takes of a model and of data."""

import copy
import pickle
import sys
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import counts, donors, fitted, quiet_trainer, small
from own_model import PoissonFactors
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from scipy import integrate, stats

import pyro_omics as po
from pyro_omics.batch import CellBatch
from pyro_omics.layers import prototype_trace
from pyro_omics.parts import priors
from pyro_omics.sites import latent_sites
from pyro_omics.sizes import Sizes

N, G = 60, 12
PRIORS = {
    "mixture": partial(priors.MixtureOfGaussians, n_components=4),
    "vamp": partial(priors.VampPrior, n_components=5),
    "flow": partial(priors.FlowPrior, n_transforms=2, n_hidden=8),
    "hierarchical": priors.HierarchicalNormal,
    "batch means": priors.BatchMeans,
}


@pytest.fixture(scope="module")
def dm():
    return po.CellDataModule(counts(N, G, donor=donors(N, "d1", "d2", "d3")), batch_key="donor", batch_size=16)


def built(prior, n_latent, n_batches=1):
    prior.build(Sizes(n_obs=10, n_genes=3, n_batches=n_batches, n_latent=n_latent))
    return prior


def moved(module, scale=0.7):
    """The module, its parameters away from their start."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


def values(program, *args, **conditions):
    """What one run of a program draws."""
    trace = poutine.trace(pyro.condition(program, data=conditions)).get_trace(*args)
    return {name: site["value"] for name, site in trace.nodes.items() if site["type"] == "sample"}


# All of them ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_trains_saves_and_loads(name, elbo, dm, tmp_path):
    svi = po.SVIModule(small(dm, prior=PRIORS[name]()), elbo=elbo())
    before = {key: value.detach().clone() for key, value in svi.model.prior.named_parameters()}
    quiet_trainer(2).fit(svi, dm)
    assert all(not torch.equal(value, before[key]) for key, value in svi.model.prior.named_parameters())
    found = po.load(svi.save(tmp_path / "model"))
    assert type(found.model.prior) is type(svi.model.prior)
    ours, theirs = po.Posterior(svi, dm), po.Posterior(found, dm)
    np.testing.assert_array_equal(ours.latent(), theirs.latent())
    np.testing.assert_array_equal(ours.elbo(num_samples=1, seed=1), theirs.elbo(num_samples=1, seed=1))


@pytest.mark.parametrize("name", PRIORS)
def test_the_latent_reported_is_the_guides(name, dm):
    svi = fitted(dm, epochs=1, prior=PRIORS[name]())
    with torch.no_grad():
        loc, scale = svi.eval().model.encode(dm.data[dm.rows()])
    post = po.Posterior(svi, dm)
    np.testing.assert_allclose(post.latent(), loc, atol=1e-5)
    np.testing.assert_allclose(post.latent_sd(), scale, atol=1e-5)


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("n_latent", [1, 4])
def test_a_prior_has_one_event_dimension_and_a_density(name, n_latent, dm):
    model = po.SCVI.from_data(dm, n_latent=n_latent, n_hidden=8, prior=PRIORS[name]())
    batch = dm.data[np.arange(7)]
    for fn in (model.prior(), model.prior(batch)):
        assert fn.event_shape == (n_latent,) and fn.batch_shape in ((), (7,))
        assert fn.support.event_dim == 1
        z = fn.expand((7,)).sample()
        assert z.shape == (7, n_latent) and fn.log_prob(z).shape == (7,)
    predictive = poutine.trace(poutine.uncondition(model)).get_trace(batch)
    assert predictive.nodes["x"]["value"].shape == (7, G)


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_can_be_copied_and_pickled_with_its_model(name, dm):
    """DDP by spawn pickles the model, and check_model copies it: the copy must not use the original's encoder."""
    model = small(dm, prior=PRIORS[name]())
    batch = dm.data[np.arange(5)]
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        moved(other)
        torch.manual_seed(1)
        ours = values(model, batch)["z"]
        torch.manual_seed(1)
        theirs = values(other, batch)["z"]
        free = name in ("hierarchical", "batch means")  # without parameters
        assert torch.equal(ours, theirs) == free


def test_a_mixture_starts_near_the_standard_normal():
    """At most a nat from it at a typical z, so that swapping the prior does not upset the start."""
    z = torch.randn(200, 10)
    off = built(priors.MixtureOfGaussians(), 10)().log_prob(z) - built(priors.StandardNormal(), 10)().log_prob(z)
    assert off.abs().mean() < 1


# Mixture of Gaussians -------------------------------------------------------------------------------------------------


def test_mixture_density_is_scipys():
    prior = moved(built(priors.MixtureOfGaussians(4), 3))
    z = torch.randn(50, 3)
    weight = torch.softmax(prior.logits, 0).detach().numpy()
    expected = sum(
        w * stats.multivariate_normal(loc, np.diag(np.exp(2 * log_scale))).pdf(z.numpy())
        for w, loc, log_scale in zip(weight, prior.loc.detach().numpy(), prior.log_scale.detach().numpy(), strict=True)
    )
    np.testing.assert_allclose(prior().log_prob(z).exp().detach(), expected, rtol=1e-4)


def test_mixture_starts_with_equal_weights_and_components_apart():
    prior = built(priors.MixtureOfGaussians(4), 3)
    fn = prior()
    torch.testing.assert_close(fn.mixture_distribution.probs, torch.full((4,), 0.25))
    assert len(torch.unique(fn.component_distribution.mean, dim=0)) == 4


def test_mixture_is_fitted_to_draws_of_one():
    """Maximum likelihood on 2,000 draws of two components finds their weights, locations and scales."""
    torch.manual_seed(2)
    second = torch.rand(2000, 1) < 0.3
    z = torch.where(second, 3.0, -2.0) + torch.where(second, 0.5, 1.0) * torch.randn(2000, 1)
    prior = built(priors.MixtureOfGaussians(2), 1)
    optimizer = torch.optim.Adam(prior.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        (-prior().log_prob(z).mean()).backward()
        optimizer.step()
    order = prior.loc[:, 0].argsort()
    torch.testing.assert_close(prior.loc[order, 0], torch.tensor([-2.0, 3.0]), atol=0.1, rtol=0)
    torch.testing.assert_close(prior.log_scale[order, 0].exp(), torch.tensor([1.0, 0.5]), atol=0.08, rtol=0)
    torch.testing.assert_close(torch.softmax(prior.logits, 0)[order], torch.tensor([0.7, 0.3]), atol=0.03, rtol=0)


@pytest.mark.parametrize("make", [priors.MixtureOfGaussians, priors.VampPrior])
@pytest.mark.parametrize("n", [0, 2.5, -1])
def test_components_are_counted(make, n):
    with pytest.raises(ValueError, match="n_components must be an integer of at least 1"):
        make(n_components=n)


# VampPrior ------------------------------------------------------------------------------------------------------------


def totalvi(dm, **options):
    return po.TotalVI.from_data(dm, n_latent=3, n_hidden=8, **options)


@pytest.fixture(scope="module")
def cite():
    adata = counts(N, G, donor=donors(N, "d1", "d2"))
    adata.obsm["protein"] = np.random.default_rng(1).poisson(5.0, (N, 4)).astype(np.float32)
    return po.CellDataModule(adata, batch_key="donor", protein_obsm_key="protein", batch_size=16)


@pytest.mark.parametrize("encode_covariates", [False, True])
@pytest.mark.parametrize("build", [small, totalvi])
def test_vamp_density_is_the_mixture_of_the_encoders_posteriors(build, encode_covariates, cite):
    model = build(cite, prior=priors.VampPrior(5), encode_covariates=encode_covariates)
    prior = moved(model.prior)
    z = torch.randn(20, 3)
    fn = prior()
    model.eval()
    encoder = model.encoders["z"]
    loc, scale = encoder(prior.inputs, prior.cov) if encode_covariates else encoder(prior.inputs)
    weight = torch.softmax(prior.logits, 0).detach().numpy()
    density = [
        w * stats.norm(a, b).pdf(z.numpy()).prod(1)
        for w, a, b in zip(weight, loc.detach().numpy(), scale.detach().numpy(), strict=True)
    ]
    np.testing.assert_allclose(fn.log_prob(z).exp().detach(), sum(density), rtol=1e-3)
    loss = fn.log_prob(z).sum()
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(loss, [prior.inputs, *encoder.parameters()]))


@pytest.mark.parametrize("build", [small, totalvi])
def test_vamps_pseudo_inputs_start_at_training_rows(build, cite):
    model = build(cite, prior=priors.VampPrior(7), encode_covariates=True)
    before = model.prior.inputs.detach().clone()
    assert len(torch.unique(before, dim=0)) == 7 and (before >= 0).all()
    model.warm_start(None, cite)
    batch = cite.data[cite.rows("training")]
    rows = torch.cat([model.encoder_inputs(batch), model.encoder_covariates(batch)], -1)
    found = torch.cat([model.prior.inputs, model.prior.cov], -1).detach()
    which = (found[:, None] == rows).all(-1)
    assert which.any(1).all() and len(torch.unique(found, dim=0)) == 7
    again = build(cite, prior=priors.VampPrior(7), encode_covariates=True)
    again.warm_start(None, cite)
    assert torch.equal(again.prior.inputs, model.prior.inputs)


def test_vamps_start_is_taken_in_fit_and_not_again(dm, tmp_path):
    svi = fitted(dm, epochs=1, prior=priors.VampPrior(5))
    trained = svi.model.prior.inputs.detach().clone()
    start = small(dm, prior=priors.VampPrior(5))
    start.warm_start(None, dm)
    assert 0 < (trained - start.prior.inputs).abs().max() < 0.1
    found = po.load(svi.save(tmp_path / "model"))
    for model in (svi.model, found.model):
        model.warm_start(None, dm)
        assert torch.equal(model.prior.inputs, trained)


def test_vamp_with_more_components_than_rows(dm):
    model = small(dm, prior=priors.VampPrior(130))
    model.warm_start(None, dm)
    assert len(model.prior.inputs) == 130
    assert len(torch.unique(model.prior.inputs, dim=0)) == dm.n_obs


def test_vamp_leaves_batch_norm_and_the_mode_alone(dm):
    model = small(dm, prior=priors.VampPrior(5)).train()
    encoder = model.encoders["z"]
    before = {name: value.clone() for name, value in encoder.named_buffers()}
    assert any("running_mean" in name for name in before)
    one, two = (model.prior().log_prob(torch.zeros(3)) for _ in range(2))
    assert torch.equal(one, two)  # no dropout
    assert all(torch.equal(value, before[name]) for name, value in encoder.named_buffers())
    assert all(module.training for module in model.modules())


def test_vamp_does_not_depend_on_the_batch(dm):
    model = small(dm, prior=priors.VampPrior(5)).train()
    z = torch.randn(4, 3)
    one, two = (model.prior(dm.data[rows]).log_prob(z) for rows in (np.arange(4), np.arange(20, 24)))
    assert torch.equal(one, two)


def table(model):
    """A guide without an encoder: one Normal for all rows."""
    return AutoNormal(model, create_plates=model.plate)


@pytest.mark.parametrize("build", [small, totalvi])
def test_vamp_makes_its_encoder_where_no_guide_asks(build, cite):
    model = build(cite, prior=priors.VampPrior(5))
    assert list(model.encoders) == ["z"]
    po.testing.check_model(model, cite, guide=table)


def test_vamp_uses_the_encoder_that_the_model_was_given(dm):
    encoder = po.layers.Encoder(G, 3, n_hidden=5)
    model = small(dm, prior=priors.VampPrior(5), encoder=encoder)
    assert model.encoders["z"] is encoder
    po.testing.check_model(model, dm)
    assert not any("prior.encoder" in name or "_model" in name for name in model.state_dict())


def test_vamp_refuses_an_encoder_of_another_width(dm):
    model = small(dm, prior=priors.VampPrior(5), encoder=po.layers.Encoder(G, 2, n_hidden=5))
    with pytest.raises(ValueError, match="must return 3 numbers for each of 5 pseudo-inputs"):
        model.prior()


def test_vamp_without_a_model_says_so():
    with pytest.raises(ValueError, match=r"prior\.attach\(model\)"):
        built(priors.VampPrior(5), 3)()


def test_vamp_in_a_model_of_ones_own(dm):
    class VampFactors(PoissonFactors):
        def __init__(self, n_obs: int, n_genes: int):
            super().__init__(n_obs, n_genes)
            self.prior = priors.VampPrior(4, n_latent=3)
            self.prior.attach(self)

    model = VampFactors(dm.n_obs, dm.n_genes)
    po.testing.check_model(model, dm)
    model.warm_start(None, dm)
    assert model.prior.started


# FlowPrior ------------------------------------------------------------------------------------------------------------


def flow(n_latent, seed=3):
    torch.manual_seed(seed)
    return moved(built(priors.FlowPrior(n_transforms=2, n_hidden=8), n_latent), 0.3).requires_grad_(False)


def test_flow_starts_as_the_standard_normal():
    for n_latent in (1, 3):
        z = 2 * torch.randn(50, n_latent)
        expected = dist.Normal(0.0, 1.0).expand([n_latent]).to_event(1).log_prob(z)
        torch.testing.assert_close(built(priors.FlowPrior(), n_latent)().log_prob(z), expected, atol=1e-4, rtol=1e-4)


def test_flow_density_of_one_dimension_integrates_to_one_and_its_draws_follow_it():
    fn = flow(1)()
    grid = torch.linspace(-8, 8, 16001)
    density = fn.log_prob(grid.unsqueeze(-1)).exp().numpy()
    cdf = integrate.cumulative_trapezoid(density, grid.numpy(), initial=0)
    assert cdf[-1] == pytest.approx(1, abs=1e-3)
    assert abs(density - stats.norm.pdf(grid.numpy())).max() > 0.1  # it is another than at the start
    draws = fn.sample((4000,)).squeeze(-1).numpy()
    assert stats.kstest(draws, lambda x: np.interp(x, grid.numpy(), cdf)).pvalue > 0.01


def test_flow_density_of_two_dimensions_integrates_to_one_and_its_draws_follow_it():
    fn = flow(2)()
    grid = torch.linspace(-7, 7, 701)
    points = torch.cartesian_prod(grid, grid)
    density = fn.log_prob(points).exp().reshape(701, 701).numpy()
    cell = float(grid[1] - grid[0]) ** 2
    assert density.sum() * cell == pytest.approx(1, abs=5e-3)
    draws = fn.sample((20_000,)).numpy()
    edges = np.quantile(draws, [0, 0.2, 0.4, 0.6, 0.8, 1])
    edges[[0, -1]] = -7, 7
    observed, _, _ = np.histogram2d(*draws.T, bins=[edges, edges])
    xs = points.numpy()
    expected, _, _ = np.histogram2d(xs[:, 0], xs[:, 1], bins=[edges, edges], weights=density.ravel() * cell)
    np.testing.assert_allclose(observed / 20_000, expected, atol=0.012)


def test_flow_draws_and_their_densities_agree_in_a_trace():
    prior = flow(3)
    with pyro.plate("rows", 6):
        trace = poutine.trace(lambda: pyro.sample("z", prior())).get_trace()
    trace.compute_log_prob()
    site = trace.nodes["z"]
    torch.testing.assert_close(site["log_prob"], prior().log_prob(site["value"]), atol=1e-4, rtol=1e-4)


def test_flow_is_fitted_to_a_ring():
    """Two dimensions that no Normal fits: the flow's log-likelihood on new draws beats the best Normal's."""
    torch.manual_seed(4)

    def ring(n):
        angle = 2 * torch.pi * torch.rand(n)
        return 2 * torch.stack([angle.cos(), angle.sin()], -1) + 0.2 * torch.randn(n, 2)

    prior = built(priors.FlowPrior(n_transforms=2, n_hidden=16), 2)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        (-prior().log_prob(ring(256)).mean()).backward()
        optimizer.step()
    normal = dist.MultivariateNormal(torch.zeros(2), (2 + 0.04) * torch.eye(2))
    new = ring(2000)
    assert prior().log_prob(new).mean() > normal.log_prob(new).mean() + 0.4


@pytest.mark.parametrize("validated", [True, False])
def test_zuko_leaves_validation_as_it_was(validated, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "zuko"]:
        monkeypatch.delitem(sys.modules, name)
    with pyro.validation_enabled(validated):
        priors.FlowPrior(n_latent=2)()
        assert "zuko" in sys.modules
        assert torch.distributions.Distribution._validate_args is validated
        if validated:
            with pytest.raises(ValueError, match="scale"):
                dist.Normal(torch.zeros(()), -torch.ones(()))
        else:
            dist.Normal(torch.zeros(()), -torch.ones(()))


@pytest.mark.parametrize("options", [{"n_transforms": 0}, {"n_hidden": 0}])
def test_flow_sizes_are_checked(options):
    with pytest.raises(ValueError, match="must be an integer of at least 1"):
        priors.FlowPrior(**options)


# Priors with latents of their own -------------------------------------------------------------------------------------


class OfLatents(PyroModule):
    """z_n ~ prior alone, as a model observes it."""

    def __init__(self, prior, batch):
        super().__init__()
        self.prior, self.batch = prior, batch

    def forward(self, z):
        for name in self.prior._pyro_samples:
            getattr(self.prior, name)
        with pyro.plate("obs", len(z)):
            pyro.sample("z", self.prior(self.batch), obs=z)


def variational(program, z, steps=600):
    """AutoNormal over a program's globals, fitted."""
    guide = AutoNormal(program)
    elbo = TraceMeanField_ELBO()(program, guide)
    elbo(z)
    optimizer = torch.optim.Adam(elbo.parameters(), lr=0.05)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 if step < steps / 2 else 0.003
        optimizer.zero_grad()
        elbo(z).backward()
        optimizer.step()
    return guide


def test_hierarchical_density():
    prior = built(priors.HierarchicalNormal(), 3)
    z, tau = torch.randn(5, 3), torch.tensor([0.3, 1.0, 4.0])
    model = OfLatents(prior, None)
    trace = poutine.trace(pyro.condition(model, data={"prior.scale": tau})).get_trace(z)
    trace.compute_log_prob()
    np.testing.assert_allclose(trace.nodes["prior.scale"]["log_prob"], stats.lognorm(1).logpdf(tau).sum(), rtol=1e-5)
    expected = stats.norm(0, tau).logpdf(z).sum(1)
    np.testing.assert_allclose(trace.nodes["z"]["log_prob"], expected, rtol=1e-5)


def test_hierarchical_scales_are_recovered():
    torch.manual_seed(5)
    truth = torch.tensor([0.2, 1.0, 5.0])
    z = truth * torch.randn(800, 3)
    guide = variational(OfLatents(built(priors.HierarchicalNormal(), 3), None), z)
    found = guide.median()["prior.scale"].detach()
    # The sample's own standard deviation is within 2.5% of the truth (one standard error), and the posterior at it.
    torch.testing.assert_close(found, z.square().mean(0).sqrt(), rtol=0.02, atol=0)
    torch.testing.assert_close(found, truth, rtol=0.1, atol=0)


def test_hierarchical_scales_are_global(dm):
    model = small(dm, prior=priors.HierarchicalNormal())
    sites = latent_sites(prototype_trace(model, dm.data[np.arange(5)]))
    assert sites["prior.scale"]["value"].shape == (3,) and not sites["prior.scale"]["cond_indep_stack"]
    svi = po.SVIModule(model)
    draws = po.Posterior(svi, dm).samples("prior.scale", num_samples=4)
    assert draws.shape == (4, 3) and (np.asarray(draws) > 0).all()


def test_batch_means_are_the_conjugate_posteriors():
    """Given z, mu_s has the posterior Normal(n_s zbar_s / (n_s + 1), 1 / (n_s + 1)): a guide finds its mean."""
    torch.manual_seed(6)
    truth = torch.tensor([[-1.5, 0.0], [0.0, 1.0], [2.0, -0.5]])
    code = torch.arange(90) % 3
    code[:20] = 0
    z = truth[code] + torch.randn(90, 2)
    batch = CellBatch(x=torch.ones(90, 3), row=torch.arange(90), index=torch.arange(90), batch=code)
    model = OfLatents(built(priors.BatchMeans(), 2, n_batches=3), batch)
    n = torch.bincount(code).unsqueeze(-1)
    mean = torch.stack([z[code == s].sum(0) for s in range(3)]) / (n + 1)
    sd = (n + 1.0).rsqrt()
    # At any mu, log p(mu, z) - log p(mu | z) is the evidence, in which z is correlated within batches.
    evidence = 0.0
    for s in range(3):
        cov = np.eye(int(n[s])) + 1
        evidence += sum(stats.multivariate_normal(cov=cov).logpdf(z[code == s, d].numpy()) for d in range(2))
    for mu in (mean, mean + sd, torch.zeros(3, 2)):
        joint = poutine.trace(pyro.condition(model, data={"prior.means": mu})).get_trace(z).log_prob_sum()
        posterior = stats.norm(mean, sd).logpdf(mu).sum()
        assert float(joint) - posterior == pytest.approx(evidence, abs=1e-2)
    found = variational(model, z).median()["prior.means"].detach()
    torch.testing.assert_close(found, mean, atol=0.05, rtol=0)
    assert ((found - truth).abs() < 4 * sd).all()


def test_batch_means_without_a_batch_are_their_mixture():
    prior = built(priors.BatchMeans(), 2, n_batches=3)
    means, z = torch.randn(3, 2), torch.randn(10, 2)

    class Fixed(PyroModule):
        def __init__(self):
            super().__init__()
            self.prior = prior

        def forward(self):
            return self.prior()

    fn = pyro.condition(Fixed(), data={"prior.means": means})()
    density = np.mean([stats.norm(m, 1).pdf(z).prod(1) for m in means.numpy()], 0)
    np.testing.assert_allclose(fn.log_prob(z).exp(), density, rtol=1e-4)


def test_batch_means_need_batches():
    one = po.CellDataModule(counts(N, G))
    with pytest.raises(ValueError, match=r"data have one batch only: name the batches.*batch_key"):
        small(one, prior=priors.BatchMeans())
    with pytest.raises(ValueError, match="n_batches=2, and the data have 3"):
        built(priors.BatchMeans(2), 2, n_batches=3)
    with pytest.raises(ValueError, match="does not know the number of batches"):
        priors.BatchMeans(n_latent=2)()
    assert priors.BatchMeans(n_batches=2, n_latent=3)().sample().shape == (3,)


# Priors of weights ----------------------------------------------------------------------------------------------------


def weights(prior, shape, **conditions):
    """One draw of a weight and of its auxiliary latents, as a module's own."""

    class Owner(PyroModule):
        def __init__(self):
            super().__init__()
            self.register_buffer("like", torch.empty(0, dtype=torch.float64), persistent=False)
            for name, sample in prior.parts("weight", torch.Size(shape)).items():
                setattr(self, name, sample)

        def forward(self):
            return self.weight

    owner = pickle.loads(pickle.dumps(prior)) and Owner()
    return poutine.trace(pyro.condition(owner, data=conditions)).get_trace()


def test_weight_normal():
    trace = weights(priors.WeightNormal(0.3), (4, 5000))
    value = trace.nodes["weight"]["value"]
    assert value.shape == (4, 5000) and value.dtype == torch.float64
    assert stats.kstest(value.flatten().numpy(), stats.norm(0, 0.3).cdf).pvalue > 0.01
    assert trace.nodes["weight"]["fn"].event_shape == (4, 5000)


def test_horseshoe_marginal_of_weights():
    """At tau = 1/2: F(w) = integral of Phi(w / (tau l)) 2 / (pi (1 + l^2)) over l > 0."""
    tau = torch.tensor(0.5, dtype=torch.float64)
    value = weights(priors.Horseshoe(), (20_000,), weight_global_scale=tau).nodes["weight"]["value"].numpy()

    def cdf(w):
        def inner(angle):  # l = tan(angle) has a uniform angle
            return stats.norm.cdf(w / (0.5 * np.tan(angle))) * 2 / np.pi

        return integrate.quad(inner, 0, np.pi / 2, limit=200)[0]

    points = np.array([-20.0, -2.0, -0.5, -0.1, 0.02, 0.1, 0.5, 2.0, 20.0])
    expected = np.array([cdf(w) for w in points])
    observed = (value[:, None] < points).mean(0)
    np.testing.assert_allclose(observed, expected, atol=4 * np.sqrt(0.25 / 20_000))


def test_horseshoe_scales_are_half_cauchy():
    local = weights(priors.Horseshoe(0.1), (20_000,)).nodes["weight_local_scale"]["value"].numpy()
    assert stats.kstest(local, stats.halfcauchy().cdf).pvalue > 0.01
    draws = [float(weights(priors.Horseshoe(0.1), (1,)).nodes["weight_global_scale"]["value"]) for _ in range(500)]
    assert stats.kstest(draws, stats.halfcauchy(scale=0.1).cdf).pvalue > 0.01
    shrinkage = 1 / (1 + local**2)  # horseshoe-shaped, hence the name
    assert stats.kstest(shrinkage, stats.beta(0.5, 0.5).cdf).pvalue > 0.01


def test_a_slab_bounds_the_standard_deviation():
    """As Piironen and Vehtari write it, with lambda~; small weights are the plain horseshoe's."""
    tau, local = torch.tensor(0.5, dtype=torch.float64), torch.tensor([1e-3, 1.0, 1e6], dtype=torch.float64)
    trace = weights(priors.Horseshoe(slab=2.0), (3,), weight_global_scale=tau, weight_local_scale=local)
    tilde = 2.0 * local / (4.0 + tau**2 * local**2).sqrt()
    torch.testing.assert_close(trace.nodes["weight"]["fn"].base_dist.scale, tau * tilde)
    torch.testing.assert_close((tau * tilde)[[0, 2]], torch.tensor([0.5e-3, 2.0], dtype=torch.float64))


def test_weight_priors_are_recorded_and_checked():
    from pyro_omics.serialization.arguments import decode, encode

    found = decode(encode(priors.Horseshoe(0.1, slab=2.0)))
    assert (type(found), found.scale, found.slab) == (priors.Horseshoe, 0.1, 2.0)
    assert decode(encode(priors.WeightNormal(3))).scale == 3.0
    assert list(found.parts("bias", torch.Size([3]))) == ["bias_global_scale", "bias_local_scale", "bias"]
    for wrong in (0.0, -1.0, float("nan"), "1"):
        with pytest.raises(ValueError, match="scale must be a standard deviation, above 0"):
            priors.Horseshoe(wrong)
        with pytest.raises(ValueError, match="slab must be a standard deviation, above 0"):
            priors.Horseshoe(slab=wrong)
        with pytest.raises(ValueError, match="scale must be a standard deviation, above 0"):
            priors.WeightNormal(wrong)
    with pytest.raises(NotImplementedError, match="must define parts"):
        priors.WeightPrior().parts("weight", torch.Size([1]))


@pytest.mark.parametrize(
    "part",
    [
        lambda: {"prior": priors.StandardNormal()},
        lambda: {"likelihood": po.likelihoods.NegativeBinomial()},
        lambda: {"library": po.library_sizes.Latent()},
    ],
)
def test_a_part_of_a_model_that_has_run_is_refused_by_name(part):
    dm = po.CellDataModule(counts(), batch_size=16)
    options = part()
    po.SVIModule(small(dm, **options))
    with pytest.raises(ValueError, match="belongs to a model already, and so do its parameters: pass a new"):
        small(dm, **options)
