"""Same weights, same minibatch, fixed z: the log-likelihood is the published formula's, in every mode.

The decoder and the densities are written out here in float64 from the model's parameters, and share no code with it.
"""

import math
import re
from functools import partial

import pytest
import torch
from pyro import poutine

from pyro_omics import SCVI, layers
from pyro_omics.batch import CellBatch
from pyro_omics.parts import dispersions, library_sizes, likelihoods, priors
from pyro_omics.sizes import Sizes

N, G, K, B, L = 24, 15, 4, 2, 3
LOG_LIBRARY = ((3.0, 0.3), (4.0, 0.6))
SIZES = Sizes(n_obs=240, n_genes=G, n_batches=B, n_labels=L, log_library=LOG_LIBRARY)
PER_BATCH, PER_LABEL = (partial(dispersions.PerGene, by=by) for by in ("batch", "label"))
DISPERSIONS = [dispersions.PerGene, PER_BATCH, PER_LABEL, dispersions.PerGeneCell]
MODES = [
    *((likelihoods.NegativeBinomial, d) for d in DISPERSIONS),
    *((likelihoods.ZeroInflatedNegativeBinomial, d) for d in DISPERSIONS),
    (likelihoods.Poisson, None),
    (likelihoods.ZeroInflatedPoisson, None),
]


def cells(sizes=SIZES, seed=0):
    rng = torch.Generator().manual_seed(seed)
    depth = torch.exp(torch.randn(N, 1, generator=rng) + 1)
    x = torch.poisson(depth * torch.exp(torch.randn(G, generator=rng)), generator=rng)
    x[0] = 0  # a cell without counts
    return CellBatch(
        x=x,
        row=torch.arange(N),
        index=torch.arange(N) * 3,
        batch=torch.randint(B, (N,), generator=rng),
        label=torch.randint(L, (N,), generator=rng),
        categorical=torch.stack([torch.randint(n, (N,), generator=rng) for n in sizes.n_categories], 1)
        if sizes.n_categories
        else None,
        continuous=torch.randn(N, sizes.n_continuous, generator=rng) if sizes.n_continuous else None,
        size_factor=torch.exp(torch.randn(N, 1, generator=rng) + 2),
    )


def model_with(sizes=SIZES, **options):
    """A model in eval mode whose parameters and running statistics are all away from their defaults."""
    torch.manual_seed(1)
    model = SCVI(sizes, n_latent=K, n_hidden=16, n_layers=2, **options).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.add_(0.3 * torch.randn_like(p))
            elif name.endswith("log_theta"):
                p.mul_(2.0)
                p[..., :2] = torch.tensor([8.0, 11.0])  # theta of 3e3 and 6e4: nearly Poisson
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    return model


def trace_of(model, batch, **fixed):
    trace = poutine.trace(poutine.condition(model, fixed)).get_trace(batch)
    trace.compute_log_prob()
    return trace


def latent(seed=2):
    return torch.randn(N, K, generator=torch.Generator().manual_seed(seed))


# The published program, in float64 ------------------------------------------------------------------------------------


def one_hot(codes, n_levels):
    return (codes[:, None] == torch.arange(n_levels)).double()


def decoded(model, z, cov):
    """Each head of the decoder: twice [covariates joined, Linear, batch normalisation, ReLU], then a Linear each."""
    w = {name.removeprefix("decoder."): v.double() for name, v in model.state_dict().items()}
    h = z.double()
    for i in range(2):
        h = torch.cat([h, cov], 1) @ w[f"hidden.linear.{i}.weight"].T + w[f"hidden.linear.{i}.bias"]
        if f"hidden.norm.{i}.running_mean" in w:
            mean, variance = w[f"hidden.norm.{i}.running_mean"], w[f"hidden.norm.{i}.running_var"]
            h = (h - mean) / (variance + 1e-3) ** 0.5 * w[f"hidden.norm.{i}.weight"] + w[f"hidden.norm.{i}.bias"]
        h = h * (h > 0)
    names = {name.split(".")[1] for name in w if name.startswith("heads.")}
    return {name: h @ w[f"heads.{name}.weight"].T + w[f"heads.{name}.bias"] for name in names}


def softmax(logits):
    e = torch.exp(logits - logits.max(1, keepdim=True).values)
    return e / e.sum(1, keepdim=True)


def log_nb(x, mu, theta, eps=1e-8):
    """log of Gamma(x + theta) / (Gamma(theta) x!) (theta / (theta + mu))^theta (mu / (theta + mu))^x."""
    binomial = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    total = torch.log(theta + mu + eps)
    return binomial + theta * (torch.log(theta + eps) - total) + x * (torch.log(mu + eps) - total)


def log_poisson(x, rate):
    return torch.xlogy(x, rate) - rate - torch.lgamma(x + 1)


def inflate(x, log_p, logits):
    """log of pi [x = 0] + (1 - pi) p(x), with pi = 1 / (1 + exp(-logits))."""
    pi = 1 / (1 + torch.exp(-logits))
    return torch.log(pi * (x == 0) + (1 - pi) * torch.exp(log_p))


def inverse_dispersion(model, dispersion, heads, batch):
    if dispersion is dispersions.PerGeneCell:
        return torch.exp(heads["log_theta"])
    theta = torch.exp(model.likelihood.dispersion.log_theta.detach().double())
    if dispersion is PER_BATCH:
        return one_hot(batch.batch, B) @ theta
    if dispersion is PER_LABEL:
        return one_hot(batch.label, L) @ theta
    return theta


def published(model, likelihood, dispersion, z, batch, library, cov=None):
    """log p(x_n | z_n, s_n), (n,)."""
    heads = decoded(model, z, one_hot(batch.batch, B) if cov is None else cov)
    x, mean = batch.x.double(), library.double() * softmax(heads["rho"])
    if dispersion is None:
        log_p = log_poisson(x, mean)
    else:
        log_p = log_nb(x, mean, inverse_dispersion(model, dispersion, heads, batch))
    if "dropout_logits" in heads:
        log_p = inflate(x, log_p, heads["dropout_logits"])
    assert ("dropout_logits" in heads) == likelihood.__name__.startswith("ZeroInflated")
    return log_p.sum(1)


def make_likelihood(likelihood, dispersion):
    return likelihood() if dispersion is None else likelihood(dispersion=dispersion())


def assert_equal(ours, truth):
    # A cell without counts has a log-probability near 0, known to float32's error in the sum over genes.
    torch.testing.assert_close(ours.double(), truth, rtol=1e-4, atol=1e-4)


# The comparisons ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("likelihood", "dispersion"), MODES)
def test_observed_library(likelihood, dispersion):
    model, batch, z = model_with(likelihood=make_likelihood(likelihood, dispersion)), cells(), latent()
    ours = trace_of(model, batch, z=z).nodes["x"]["unscaled_log_prob"]
    total = batch.x.sum(1, keepdim=True)
    assert_equal(ours, published(model, likelihood, dispersion, z, batch, total))


@pytest.mark.parametrize(("likelihood", "dispersion"), MODES)
def test_latent_library(likelihood, dispersion):
    model = model_with(likelihood=make_likelihood(likelihood, dispersion), library=library_sizes.Latent())
    batch, z = cells(), latent()
    library = torch.exp(torch.randn(N, 1, generator=torch.Generator().manual_seed(3)) + 3)
    trace = trace_of(model, batch, z=z, library=library)
    ours = trace.nodes["x"]["unscaled_log_prob"]
    assert_equal(ours, published(model, likelihood, dispersion, z, batch, library))
    mean, variance = (one_hot(batch.batch, B) @ column for column in torch.tensor(LOG_LIBRARY).double().unbind(1))
    log_l = library[:, 0].double().log()
    normal = -((log_l - mean) ** 2) / (2 * variance) - 0.5 * torch.log(2 * math.pi * variance)
    assert_equal(trace.nodes["library"]["unscaled_log_prob"], normal - log_l)


@pytest.mark.parametrize(("likelihood", "dispersion"), MODES)
def test_given_size_factor(likelihood, dispersion):
    model = model_with(likelihood=make_likelihood(likelihood, dispersion), library=library_sizes.SizeFactor())
    batch, z = cells(), latent()
    ours = trace_of(model, batch, z=z).nodes["x"]["unscaled_log_prob"]
    assert_equal(ours, published(model, likelihood, dispersion, z, batch, batch.size_factor))


def test_prior_and_scale_of_a_minibatch():
    model, batch, z = model_with(), cells(), latent()
    trace = trace_of(model, batch, z=z)
    normal = (-0.5 * z.double() ** 2 - 0.5 * math.log(2 * math.pi)).sum(1)
    assert_equal(trace.nodes["z"]["unscaled_log_prob"], normal)
    for site in ("z", "x"):
        per_cell = trace.nodes[site]["unscaled_log_prob"]
        torch.testing.assert_close(trace.nodes[site]["log_prob"], per_cell * SIZES.n_obs / N)


def test_further_covariates_enter_each_layer():
    sizes = Sizes(n_obs=240, n_genes=G, n_batches=B, n_labels=L, n_categories=(3, 1, 2), n_continuous=2)
    model, batch, z = model_with(sizes), cells(sizes), latent()
    # A covariate with one level is dropped.
    cov = torch.cat(
        [
            one_hot(batch.batch, B),
            one_hot(batch.categorical[:, 0], 3),
            one_hot(batch.categorical[:, 2], 2),
            batch.continuous.double(),
        ],
        1,
    )
    ours = trace_of(model, batch, z=z).nodes["x"]["unscaled_log_prob"]
    mode = likelihoods.ZeroInflatedNegativeBinomial, dispersions.PerGene
    assert_equal(ours, published(model, *mode, z, batch, batch.x.sum(1, keepdim=True), cov))


def test_without_norm():
    model, batch, z = model_with(norm=None), cells(), latent()
    ours = trace_of(model, batch, z=z).nodes["x"]["unscaled_log_prob"]
    mode = likelihoods.ZeroInflatedNegativeBinomial, dispersions.PerGene
    assert_equal(ours, published(model, *mode, z, batch, batch.x.sum(1, keepdim=True)))


def test_logistic_normal_prior_decodes_proportions():
    model, batch, z = model_with(prior=priors.LogisticNormal()), cells(), latent()
    ours = trace_of(model, batch, z=z).nodes["x"]["unscaled_log_prob"]
    mode = likelihoods.ZeroInflatedNegativeBinomial, dispersions.PerGene
    assert_equal(ours, published(model, *mode, softmax(z.double()), batch, batch.x.sum(1, keepdim=True)))


def test_encoder():
    """The guide's Normal: log1p, [Linear, norm, ReLU] twice, then location and exp(.) + 1e-4 of variance."""
    torch.manual_seed(4)
    encoder = layers.Encoder(G, K, n_hidden=16, n_layers=2).eval()
    with torch.no_grad():
        for i in range(2):
            encoder.hidden.norm[i].running_mean.normal_()
            encoder.hidden.norm[i].running_var.uniform_(0.5, 2.0)
        encoder.log_var.bias[:] = -12.0  # where the floor of the variance shows
    model, batch = model_with(encoder=encoder), cells()
    loc, scale = model.encode(batch)
    w = {name: v.double() for name, v in encoder.state_dict().items()}
    h = torch.log(1 + batch.x.double())
    for i in range(2):
        weight = w[f"hidden.linear.{i}.weight"]
        h = h @ (weight.T if i else weight) + w[f"hidden.linear.{i}.bias"]
        spread = (w[f"hidden.norm.{i}.running_var"] + 1e-3) ** 0.5
        h = (h - w[f"hidden.norm.{i}.running_mean"]) / spread
        h = (h * w[f"hidden.norm.{i}.weight"] + w[f"hidden.norm.{i}.bias"]).clamp(min=0)
    assert_equal(loc, h @ w["loc.weight"].T + w["loc.bias"])
    assert_equal(scale, (torch.exp(h @ w["log_var.weight"].T + w["log_var.bias"]) + 1e-4) ** 0.5)


@pytest.mark.parametrize("size", ["latent", 0, -1.0, float("nan"), [100.0]])
def test_a_library_size_is_a_number(size):
    model, batch, latents = model_with().eval(), cells(), {"z": latent()}
    message = (
        rf"library_size must be a number of counts, above 0, or None for each cell's own; got {re.escape(repr(size))}"
    )
    for query in (model.normalized_expression, model.denoised_samples):
        with pytest.raises(ValueError, match=message):
            query(batch, latents, size)
    torch.testing.assert_close(model.normalized_expression(batch, latents, 50).sum(1), torch.full((N,), 50.0))
