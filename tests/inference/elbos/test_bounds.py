"""Bounds and sums over discrete latents against closed forms and brute force."""

import itertools
import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import counts, quiet_trainer, small
from pyro import poutine
from pyro.infer import (
    JitTrace_ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
    TraceTMC_ELBO,
)
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

import pyro_omics as po
from pyro_omics.inference.draws import drawing
from pyro_omics.inference.elbos.delta_kl import CorrectDeltaKL
from pyro_omics.inference.kl_warmup import ScaleLatents
from pyro_omics.layers import without_side_effects
from pyro_omics.models.base import CountModel
from pyro_omics.sites import draw_enumerated, replayed

ENUM_ELBO = TraceEnum_ELBO(max_plate_nesting=1)


def rows(x, index=None, n=None):
    """A batch with these values as its one column."""
    index = torch.arange(len(x)) if index is None else index
    return po.sizes.Sizes(n or len(x), 1).example_batch()._replace(x=x.reshape(-1, 1), row=index, index=index)


class NormalNormal(CountModel):
    """z_n ~ Normal(0, 1), x_n ~ Normal(z_n, 1); and a global f ~ Normal(0, 1) that nothing depends on."""

    local_sites = ("z",)
    n_genes = 1

    def __init__(self, n_obs, idle=False):
        super().__init__(n_obs)
        self.idle = idle

    def forward(self, batch):
        if self.idle:
            pyro.sample("f", dist.Normal(0.0, 1.0))
        zero = torch.zeros_like(batch.x)
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(zero, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=batch.x)


class Line(PyroModule):
    """z_n ~ Normal(a x_n + b, s), and f ~ Normal(0.7, 0.5); exact at a = 1/2, b = 0, s = sqrt(1/2)."""

    def __init__(self, model, a=0.5, b=0.0, s=math.sqrt(0.5), idle=False):
        super().__init__()
        self._model, self.idle = (model,), idle
        self.a, self.b, self.log_s = (nn.Parameter(torch.tensor(value)) for value in (a, b, math.log(s)))

    def forward(self, batch):
        if self.idle:
            pyro.sample("f", dist.Normal(0.7, 0.5))
        with self._model[0].plate(batch):
            pyro.sample("z", dist.Normal(self.a * batch.x + self.b, self.log_s.exp()).to_event(1))


WRONG = {"a": 0.2, "b": 0.4, "s": 1.0}


def pair(n, idle=False, **line):
    model = NormalNormal(n, idle)
    return model, Line(model, idle=idle, **line)


def evidence(x):
    return dist.Normal(0.0, math.sqrt(2.0)).log_prob(x)


def repeated(bound, model, guide, batch, times):
    """Mean of the bound (not the loss) and its standard error."""
    with torch.no_grad():
        values = torch.stack([-bound.differentiable_loss(model, guide, batch) for _ in range(times)])
    return float(values.mean()), float(values.std() / math.sqrt(times))


# Importance-weighted and Renyi bounds -------------------------------------------------------------------------------


def test_the_importance_weighted_bound_rises_to_the_evidence():
    torch.manual_seed(0)
    x = 1.4 * torch.randn(100)
    model, guide = pair(100, **WRONG)
    found = [
        repeated(po.elbos.RenyiELBO(0.0, s), model, guide, rows(x), times)
        for s, times in ((1, 100), (4, 50), (16, 30), (64, 20))
    ]
    truth = float(evidence(x).sum())
    for (low, low_se), (high, high_se) in itertools.pairwise(found):
        assert high - low > 3 * math.hypot(low_se, high_se)
    for mean, se in found:
        assert mean < truth + 3 * se
    assert found[-1][0] == pytest.approx(truth, abs=0.02 * 100)
    assert found[0][0] < truth - 10


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9, 1.0, 2.0])
def test_the_exact_posterior_reaches_the_evidence_at_every_order(alpha):
    torch.manual_seed(1)
    x = torch.randn(20)
    model, guide = pair(20)
    assert po.elbos.RenyiELBO(alpha, 3).loss(model, guide, rows(x)) == pytest.approx(
        -float(evidence(x).sum()), rel=1e-5
    )


@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.8])
def test_many_particles_reach_the_renyi_divergence(alpha):
    """The bound is log p(x) minus the Renyi divergence of two Normals (Gil et al. 2013), of q from the posterior."""
    torch.manual_seed(2)
    x = torch.full((400,), 1.5)
    model, guide = pair(400, **WRONG)
    mean, _ = repeated(po.elbos.RenyiELBO(alpha, 200), model, guide, rows(x), 2)
    q, s, p, t = 0.2 * 1.5 + 0.4, 1.0, 0.75, math.sqrt(0.5)
    mixed = alpha * t**2 + (1 - alpha) * s**2
    divergence = math.log(t / s) + math.log(t**2 / mixed) / (2 * (alpha - 1)) + alpha * (q - p) ** 2 / (2 * mixed)
    assert mean / 400 == pytest.approx(float(evidence(x[0])) - divergence, abs=0.01)


def test_order_one_is_the_plain_elbo():
    model, guide = pair(10, **WRONG)
    batch = rows(torch.linspace(-2, 2, 4), torch.tensor([3, 9, 0, 5]), 10)
    for bound in (po.elbos.RenyiELBO(1.0, 3), Trace_ELBO(num_particles=3)):
        torch.manual_seed(3)
        loss = bound.differentiable_loss(model, guide, batch)
        loss.backward()
    torch.manual_seed(3)
    ours = po.elbos.RenyiELBO(1.0, 3).differentiable_loss(model, guide, batch)
    assert ours.item() == pytest.approx(loss.item(), rel=1e-6)
    theirs = guide.a.grad.clone() / 2  # both have added the same
    guide.zero_grad()
    ours.backward()
    assert guide.a.grad.item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_gradients_against_finite_differences(alpha):
    model, guide = pair(6, idle=True, **WRONG)
    guide.double()
    batch = rows(torch.linspace(-2, 2, 6, dtype=torch.float64))

    def loss():
        torch.manual_seed(4)
        return po.elbos.RenyiELBO(alpha, 4).differentiable_loss(model, guide, batch)

    loss().backward()
    for parameter in guide.parameters():
        values = []
        for step in (1e-4, -2e-4):
            parameter.data += step
            values.append(loss().item())
        parameter.data += 1e-4
        assert parameter.grad.item() == pytest.approx((values[0] - values[1]) / 2e-4, rel=1e-5)


def test_the_importance_weighted_bound_is_its_formula():
    """Rows by themselves, scaled after the logarithm: weights of the whole minibatch are another quantity."""
    model, guide = pair(12, **WRONG)
    x = torch.tensor([0.3, -1.0, 2.0])
    torch.manual_seed(5)
    z = torch.stack([dist.Normal(0.2 * x + 0.4, 1.0).sample() for _ in range(3)])
    weights = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z, 1.0).log_prob(x)
    weights -= dist.Normal(0.2 * x + 0.4, 1.0).log_prob(z)
    expected = 4 * (weights.logsumexp(0) - math.log(3)).sum()
    whole = 4 * weights.sum(1).logsumexp(0)
    torch.manual_seed(5)
    found = -po.elbos.ImportanceWeightedELBO(3).loss(model, guide, rows(x, torch.tensor([7, 1, 11]), 12))
    assert found == pytest.approx(float(expected), rel=1e-5)
    assert found != pytest.approx(float(whole), rel=1e-2)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [1, 5, 40])
def test_the_kl_of_globals_counts_once(alpha, size):
    """With an exact local posterior, what is left of the bound after the evidence is the global latent's KL."""
    torch.manual_seed(6)
    x = torch.full((size,), 0.8)
    model, guide = pair(40, idle=True)
    mean, se = repeated(po.elbos.RenyiELBO(alpha, 3), model, guide, rows(x, torch.arange(size), 40), 300)
    kl = float(torch.distributions.kl_divergence(dist.Normal(0.7, 0.5), dist.Normal(0.0, 1.0)))
    assert mean - 40 * float(evidence(x[0])) == pytest.approx(-kl, abs=4 * se)
    assert se < 0.1


def test_minibatches_average_to_the_whole():
    torch.manual_seed(7)
    x = torch.randn(30)
    model, guide = pair(30, **WRONG)
    bound = po.elbos.RenyiELBO(0.0, 4)
    whole, whole_se = repeated(bound, model, guide, rows(x), 100)
    parts = [
        (len(at) / 30, repeated(bound, model, guide, rows(x[at], at, 30), 100)) for at in torch.arange(30).split(8)
    ]
    se = math.sqrt(sum((share * part[1]) ** 2 for share, part in parts) + whole_se**2)
    assert sum(share * part[0] for share, part in parts) == pytest.approx(whole, abs=4 * se)
    assert se < 1.0


class GammaPoisson(CountModel):
    """f ~ Gamma(2, 1), x_n ~ Poisson(f)."""

    n_genes = 1

    def forward(self, batch):
        f = pyro.sample("f", dist.Gamma(2.0, 1.0))
        with self.plate(batch):
            pyro.sample("x", dist.Poisson(f).expand([len(batch.index), 1]).to_event(1), obs=batch.x)


@pytest.mark.parametrize("bound", [Trace_ELBO(), TraceMeanField_ELBO(), po.elbos.RenyiELBO(0.0, 2),
                                   po.elbos.RenyiELBO(0.5, 2)], ids=lambda b: type(b).__name__)  # fmt: skip
def test_gamma_poisson_reaches_the_evidence(bound):
    """The exact posterior is Gamma(2 + sum x, 1 + n): each draw then gives log p(x)."""
    x = torch.tensor([3.0, 1.0, 4.0, 0.0, 2.0])
    shape, rate = 2 + x.sum(), torch.tensor(1.0 + len(x))

    class Exact(PyroModule):
        def forward(self, batch):
            pyro.sample("f", dist.Gamma(shape, rate))

    truth = torch.lgamma(shape) - shape * rate.log() - torch.lgamma(x + 1).sum() - math.lgamma(2.0)
    torch.manual_seed(8)
    values = [-bound.loss(GammaPoisson(5), Exact(), rows(x)) for _ in range(1000 if "Mean" in repr(bound) else 1)]
    assert np.mean(values) == pytest.approx(float(truth), abs=4 * np.std(values) / math.sqrt(len(values)) + 1e-4)
    assert len(values) == 1 or np.std(values) < 2


def test_mean_field_reaches_the_evidence_at_constrained_sites():
    """Trap 13: mu ~ LogNormal(0, 1), log x_n ~ Normal(log mu, 1), with the exact posterior in an AutoNormal."""

    class Model(CountModel):
        n_genes = 1

        def forward(self, batch):
            mu = pyro.sample("mu", dist.LogNormal(0.0, 1.0))
            with self.plate(batch):
                fn = dist.LogNormal(mu.log(), 1.0).expand([len(batch.index), 1]).to_event(1)
                pyro.sample("x", fn, obs=batch.x)

    log_x = torch.tensor([0.5, 1.5, 1.0])
    truth = torch.distributions.MultivariateNormal(torch.zeros(3), torch.eye(3) + 1).log_prob(log_x) - log_x.sum()
    svi = po.SVIModule(Model(3), elbo=TraceMeanField_ELBO())
    with torch.no_grad():
        svi.guide.rest.locs.mu.fill_(float(log_x.sum() / 4))
        svi.guide.rest.scales.mu = torch.tensor(0.5)
    torch.manual_seed(9)
    with CorrectDeltaKL():
        mean, se = repeated(svi.bound, svi.model, svi.guide, rows(log_x.exp()), 400)
    assert mean == pytest.approx(float(truth), abs=4 * se + 1e-4)
    assert se < 0.1


def test_warm_up_tempers_each_rows_weight():
    model, guide = pair(4, **WRONG)
    x = torch.tensor([0.3, -1.0])
    torch.manual_seed(10)
    z = torch.stack([dist.Normal(0.2 * x + 0.4, 1.0).sample() for _ in range(2)])
    kl = dist.Normal(0.2 * x + 0.4, 1.0).log_prob(z) - dist.Normal(0.0, 1.0).log_prob(z)
    weights = dist.Normal(z, 1.0).log_prob(x) - 0.3 * kl
    torch.manual_seed(10)
    with ScaleLatents(0.3):
        found = -po.elbos.RenyiELBO(0.0, 2).loss(model, guide, rows(x, torch.arange(2), 4))
    assert found == pytest.approx(float(2 * (weights.logsumexp(0) - math.log(2)).sum()), rel=1e-5)


def logged_step(svi, batch, weight, monkeypatch, seed):
    """The loss of one training step at a KL weight, and what it logs."""
    logged = {}
    monkeypatch.setattr(po.SVIModule, "kl_weight", weight)
    monkeypatch.setattr(po.SVIModule, "_log", lambda self, name, value, batch: logged.update({name: value.item()}))
    torch.manual_seed(seed)
    return svi.training_step(batch, 0), logged


@pytest.mark.parametrize("weight", [0.2, 1.0])
def test_what_is_logged_is_the_plain_elbo(weight, monkeypatch):
    model, guide = pair(6, idle=True, **WRONG)
    batch = rows(torch.linspace(-2, 2, 3), torch.tensor([5, 0, 2]), 6)
    svi = po.SVIModule(model, guide, elbo=po.elbos.RenyiELBO(0.0, 3))
    loss, logged = logged_step(svi, batch, weight, monkeypatch, 11)
    torch.manual_seed(11)
    plain = -po.elbos.RenyiELBO(1.0, 3).loss(model, guide, batch) / 6
    assert logged["train_elbo"] == pytest.approx(plain, rel=1e-5)
    assert -loss.item() > plain


def test_masks_and_held_out_rows():
    class Masked(NormalNormal):
        def forward(self, batch):
            with poutine.mask(mask=batch.x[:, 0] > 0):
                super().forward(batch)

    x = torch.tensor([0.5, -1.0, 2.0])
    model = Masked(3)

    class Guide(Line):
        def forward(self, batch):
            with poutine.mask(mask=batch.x[:, 0] > 0):
                super().forward(batch)

    svi = po.SVIModule(model, Guide(model), elbo=po.elbos.RenyiELBO(0.0, 2))
    assert float(evidence(x[[0, 2]]).sum()) == pytest.approx(-svi.bound.loss(model, svi.guide, rows(x)), rel=1e-5)
    with drawing(svi, 0) as draws:
        expected = evidence(x) * (x > 0)
        torch.testing.assert_close(draws.log_weight(rows(x, torch.arange(3, 6), 3), 0, True), expected)


@pytest.mark.parametrize("alpha", [-0.5, math.inf, math.nan])
def test_orders_without_a_bound_are_refused(alpha):
    with pytest.raises(ValueError, match=r"alpha must be 0 or more.*lower bound; got"):
        po.elbos.RenyiELBO(alpha)


def test_no_particles_are_refused():
    with pytest.raises(ValueError, match="num_particles must be an integer of at least 1"):
        po.elbos.ImportanceWeightedELBO(0)


def test_guides_that_cannot_be_reparameterised_are_refused():
    class Model(CountModel):
        local_sites = ("c",)
        n_genes = 1

        def forward(self, batch):
            with self.plate(batch):
                c = pyro.sample("c", dist.Poisson(torch.ones_like(batch.x)).to_event(1))
                pyro.sample("x", dist.Poisson(c + 1).to_event(1), obs=batch.x)

    class Guide(Line):
        def forward(self, batch):
            with self._model[0].plate(batch):
                pyro.sample("c", dist.Poisson(self.a.exp().expand(len(batch.index), 1)).to_event(1))

    model = Model(2)
    svi = po.SVIModule(model, Guide(model), elbo=po.elbos.RenyiELBO())
    with pytest.raises(ValueError, match=r"RenyiELBO.*'c'.*rsample"):
        svi(rows(torch.ones(2)))


def test_bounds_are_recorded():
    from pyro_omics.serialization.arguments import decode, encode

    bound = decode(encode(po.elbos.RenyiELBO(alpha=0.5, num_particles=4)))
    assert (bound.alpha, bound.num_particles) == (0.5, 4)


# Pyro's own ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "instead"),
    [
        (RenyiELBO(), r"RenyiELBO.*pyro_omics\.elbos\.RenyiELBO"),
        (ReweightedWakeSleep(), r"ReweightedWakeSleep.*pyro_omics\.elbos\.RenyiELBO"),
        (TraceTMC_ELBO(), r"TraceTMC_ELBO.*pyro_omics\.elbos\.RenyiELBO"),
        (TraceGraph_ELBO(), r"TraceGraph_ELBO.*Trace_ELBO\(\)"),
        (JitTrace_ELBO(), r"JitTrace_ELBO.*use Trace_ELBO"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_refusals_say_what_to_use(bound, instead):
    with pytest.raises(ValueError, match=instead):
        po.SVIModule(NormalNormal(2), elbo=bound)


def test_vectorised_particles_with_batch_norm_are_the_loop():
    """Trap 15, with as many rows as hidden units and as many particles as latent dimensions."""
    dm = po.CellDataModule(counts(40), batch_size=16)
    model = small(dm, n_hidden=8)
    batch = dm.data[dm.rows("training")[:8]]
    many = {"num_particles": 300}
    loop, vectorised = (po.SVIModule(model, elbo=Trace_ELBO(vectorize_particles=v, **many)) for v in (False, True))
    loop.train()(batch)  # so that running statistics are not those of the start
    with torch.no_grad():
        torch.manual_seed(0)
        expected = loop.eval()(batch).item()
        assert vectorised.eval()(batch).item() == pytest.approx(expected, rel=5e-3)
    dm.setup("fit")
    quiet_trainer(1).fit(po.SVIModule(small(dm), elbo=Trace_ELBO(num_particles=4, vectorize_particles=True)), dm)


# Discrete latents ---------------------------------------------------------------------------------------------------

SHARE, MEAN, SCALE, SHIFT = (torch.tensor(v) for v in ([0.5, 0.3, 0.2], [-2.0, 0.0, 3.0], [0.5, 1.0, 0.7],
                                                       [0.0, 1.5, -1.0]))  # fmt: skip


class Mixture(CountModel):
    """y_n ~ Categorical, z_n | y_n ~ Normal, x_n | z_n, y_n ~ Normal(z_n + shift of y_n, 1)."""

    local_sites = ("z",)
    n_genes = 1
    mark = {"enumerate": "parallel"}

    def forward(self, batch):
        with self.plate(batch):
            y = pyro.sample("y", dist.Categorical(SHARE), infer=dict(self.mark))
            z = pyro.sample("z", dist.Normal(MEAN[y].unsqueeze(-1), SCALE[y].unsqueeze(-1)).to_event(1))
            pyro.sample("x", dist.Normal(z + SHIFT[y].unsqueeze(-1), 1.0).to_event(1), obs=batch.x)

    def default_elbo(self):
        return TraceEnum_ELBO(max_plate_nesting=1)


def brute_force(x, z):
    """log p(x, z, y) of each level (3, n), and log p(z, y), by loops."""
    prior = torch.stack([SHARE[c].log() + dist.Normal(MEAN[c], SCALE[c]).log_prob(z) for c in range(3)])
    return prior + torch.stack([dist.Normal(z + SHIFT[c], 1.0).log_prob(x) for c in range(3)]), prior


def mixture(n=4, elbo=None, x=None, **line):
    x = torch.linspace(-3, 3, 2) if x is None else x
    model = Mixture(n)
    return po.SVIModule(model, Line(model, **{**WRONG, **line}), elbo=elbo), x, rows(x, torch.arange(len(x)), n)


def one_draw(svi, x, seed):
    torch.manual_seed(seed)
    q = dist.Normal(svi.guide.a * x + svi.guide.b, svi.guide.log_s.exp())
    z = q.rsample()
    return z, q.log_prob(z)


@pytest.mark.parametrize("elbo", [None, TraceEnum_ELBO(), po.elbos.RenyiELBO(1.0, 1)], ids=["own", "guessed", "Renyi"])
def test_marginals_are_the_brute_force_sum(elbo):
    svi, x, batch = mixture(elbo=elbo)
    z, log_q = one_draw(svi, x, 12)
    expected = ((brute_force(x, z)[0].logsumexp(0) - log_q).sum() * 2 / 4).item()
    torch.manual_seed(12)
    assert -svi(batch).item() == pytest.approx(expected, rel=1e-5)
    torch.manual_seed(12)
    assert svi.plain_elbo(batch).item() == pytest.approx(expected, rel=1e-5)
    with drawing(svi, 12) as draws:
        parts = draws.log_weights(batch, 0, with_global=True)
    assert set(parts) == {"z", "x"}
    assert sum(parts.values()).mean().item() == pytest.approx(expected, rel=1e-5)
    prior = brute_force(x, z)[1].logsumexp(0) - log_q
    torch.testing.assert_close(parts["z"], prior.detach())


@pytest.mark.parametrize("elbo", [None, TraceEnum_ELBO(num_particles=3, max_plate_nesting=1),
                                  po.elbos.RenyiELBO(1.0, 1), po.elbos.RenyiELBO(1.0, 3)])  # fmt: skip
def test_warm_up_tempers_the_kl_of_the_other_latents(elbo, monkeypatch):
    """Y is summed out of the prior of z and of the likelihood first; then only the KL of z has the weight."""
    svi, x, batch = mixture(elbo=elbo)
    loss, logged = logged_step(svi, batch, 0.25, monkeypatch, 13)
    loss.backward()
    found = {name: p.grad.item() for name, p in svi.guide.named_parameters()}
    svi.zero_grad()
    torch.manual_seed(13)
    plain = tempered = 0.0
    for _ in range(svi.bound.num_particles):
        q = dist.Normal(svi.guide.a * x + svi.guide.b, svi.guide.log_s.exp())
        z = q.rsample()
        joint, prior = (table.logsumexp(0) for table in brute_force(x, z))
        kl = q.log_prob(z) - prior
        plain, tempered = plain + (joint - prior - kl), tempered + (joint - prior - 0.25 * kl)
    expected = -tempered.sum() / (2 * svi.bound.num_particles)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert logged["train_elbo"] == pytest.approx(float(plain.detach().sum()) / (2 * svi.bound.num_particles), rel=1e-5)
    expected.backward()
    assert found == pytest.approx({name: p.grad.item() for name, p in svi.guide.named_parameters()}, rel=1e-4)


def test_the_importance_weighted_bound_sums_discrete_latents_out():
    torch.manual_seed(14)
    x = torch.linspace(-4, 4, 50)
    truth = torch.stack(
        [SHARE[c].log() + dist.Normal(MEAN[c] + SHIFT[c], (SCALE[c] ** 2 + 1).sqrt()).log_prob(x) for c in range(3)]
    ).logsumexp(0)
    svi, _, batch = mixture(50, po.elbos.RenyiELBO(0.0, 200), x, a=0.7, s=1.6)
    assert -svi(batch).item() == pytest.approx(float(truth.mean()), abs=0.03)
    with drawing(svi, 0) as draws:
        weights = torch.stack([draws.log_weight(batch, s, False) for s in range(200)])
    assert float((weights.logsumexp(0) - math.log(200)).mean()) == pytest.approx(float(truth.mean()), abs=0.03)


def test_discrete_latents_are_drawn_given_the_rest():
    svi, _, _ = mixture()
    x = torch.full((4000,), 0.5)
    batch = rows(x, torch.arange(4000), 4)
    guide = poutine.trace(svi.guide).get_trace(batch)
    guide.nodes["z"]["value"] = torch.full((4000, 1), 0.9)
    torch.manual_seed(15)
    drawn = draw_enumerated(replayed(svi.model, guide, (batch,), 1))["y"]
    expected = brute_force(x[:1], torch.tensor([0.9]))[0].softmax(0)[:, 0]
    assert drawn.shape == (4000,)
    np.testing.assert_allclose(torch.bincount(drawn, minlength=3) / 4000, expected, atol=0.03)
    with drawing(svi, 0) as draws:
        trace = draws.pair(batch, 0, poutine.uncondition(svi.model))[1]
        z, y, shown = (trace.nodes[name]["value"] for name in ("z", "y", "x"))
    assert y.shape == (4000,)
    residual = shown[:, 0] - z[:, 0] - SHIFT[y]
    assert float(residual.mean()) == pytest.approx(0.0, abs=0.1)


def test_two_discrete_latents_and_a_global_one():
    """u_n ~ Bernoulli(0.3), y_n | u_n, f ~ global Normal, z_n | y_n: sums over all six combinations."""
    table = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])

    class Model(Mixture):
        def forward(self, batch):
            f = pyro.sample("f", dist.Normal(0.0, 1.0))
            with self.plate(batch):
                u = pyro.sample("u", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
                y = pyro.sample("y", dist.Categorical(table[u.long()]), infer={"enumerate": "parallel"})
                z = pyro.sample("z", dist.Normal(MEAN[y].unsqueeze(-1), 1.0).to_event(1))
                shift = (u * f).unsqueeze(-1)
                pyro.sample("x", dist.Normal(z + shift, 1.0).to_event(1), obs=batch.x)

    class Guide(Line):
        def forward(self, batch):
            pyro.sample("f", dist.Normal(0.5, 0.1))
            with self._model[0].plate(batch):
                pyro.sample("z", dist.Normal(0.5 * batch.x, self.log_s.exp()).to_event(1))

    model, x = Model(6), torch.tensor([0.4, -2.0, 3.0])
    batch = rows(x, torch.arange(3), 6)
    for elbo in (ENUM_ELBO, po.elbos.RenyiELBO(0.0, 1)):
        svi = po.SVIModule(model, Guide(model), elbo=elbo)
        torch.manual_seed(16)
        f = dist.Normal(0.5, 0.1).sample()
        z = dist.Normal(0.5 * x, math.sqrt(0.5)).sample()
        terms = [
            math.log(0.3 if u else 0.7) + table[u, c].log() + dist.Normal(MEAN[c], 1.0).log_prob(z)
            + dist.Normal(z + u * f, 1.0).log_prob(x)
            for u in range(2) for c in range(3)
        ]  # fmt: skip
        local = torch.stack(terms).logsumexp(0) - dist.Normal(0.5 * x, math.sqrt(0.5)).log_prob(z)
        shared = dist.Normal(0.0, 1.0).log_prob(f) - dist.Normal(0.5, 0.1).log_prob(f)
        torch.manual_seed(16)
        assert -6 * svi(batch).item() == pytest.approx(float(2 * local.sum() + shared), rel=1e-5)
        with drawing(svi, 16) as draws:
            found = draws.log_weight(batch, 0, True)
            assert {name: len(v) for name, v in draw_enumerated(replayed(model, draws.guide(batch, 0), (batch,), 1))
                    .items()} == {"u": 3, "y": 3}  # fmt: skip
        torch.testing.assert_close(found, local + shared / 6)


def test_globals_beside_a_discrete_latent_are_the_rests():
    class Model(Mixture):
        def forward(self, batch):
            pyro.sample("f", dist.Normal(0.0, 1.0))
            super().forward(batch)

    rest = lambda program: AutoNormal(poutine.block(program, hide=["y"]))  # noqa: E731
    svi = po.SVIModule(Model(2), guide=partial(po.guides.Amortized, rest=rest))
    assert math.isfinite(svi(rows(torch.ones(2))).item())


def test_discrete_latents_need_an_elbo_that_sums_them_out():
    with pytest.raises(ValueError, match=r"discrete latent 'y' of Mixture needs elbo=TraceEnum_ELBO"):
        mixture(elbo=Trace_ELBO())

    class Unmarked(Mixture):
        mark = {}

    model = Unmarked(2)
    with pytest.raises(ValueError, match=r"not sample the discrete latent 'y' of Unmarked.*enumerate.*TraceEnum"):
        po.SVIModule(model, Line(model), elbo=po.elbos.RenyiELBO())
    with pytest.raises(ValueError, match="NormalNormal marks none"):
        po.SVIModule(NormalNormal(2), elbo=TraceEnum_ELBO())
    with pytest.raises(ValueError, match="vectorize_particles=True does not work with discrete latents"):
        mixture(elbo=TraceEnum_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1))

    class Sampled(Line):
        def forward(self, batch):
            with self._model[0].plate(batch):
                pyro.sample("z", dist.Normal(self.a * batch.x, 1.0).to_event(1))
                pyro.sample("y", dist.Categorical(SHARE))

    model = Mixture(2)
    with pytest.raises(ValueError, match=r"the guide samples \['y'\].*leave them out"):
        po.SVIModule(model, Sampled(model))

    class Global(Mixture):
        def forward(self, batch):
            pyro.sample("k", dist.Categorical(SHARE), infer={"enumerate": "parallel"})
            super().forward(batch)

    model = Global(2)
    with pytest.raises(ValueError, match="'k' must be in a plate"):
        po.SVIModule(model, Line(model))


# SCANVI -------------------------------------------------------------------------------------------------------------


def labelled(n=300, share=0.1, seed=0):
    """Three groups of cells, a share of them with their label; and all labels."""
    adata = counts(n, 20, seed)
    truth = adata.obs["group"].map({"0": "B", "1": "T", "2": "NK"}).to_numpy()
    known = np.random.default_rng(seed).random(n) < share
    adata.obs["type"] = np.where(known, truth, "Unknown")
    return adata, truth, known


@pytest.fixture
def cells(labelled_cells):
    return labelled_cells


def test_labels_are_found_from_few():
    adata, truth, known = labelled()
    dm = po.CellDataModule(adata, label_key="type", batch_size=32, validation_size=0.0)
    torch.manual_seed(0)
    svi = po.SVIModule(po.SCANVI.from_data(dm, n_latent=5, n_hidden=32), optimizer=partial(torch.optim.Adam, lr=5e-3))
    quiet_trainer(30).fit(svi, dm)
    post = po.Posterior(svi, dm)
    probability = post.label_probability()
    assert list(probability.columns) == ["B", "NK", "T"]
    np.testing.assert_allclose(probability.sum(1), 1.0, rtol=1e-5)
    right = (probability.idxmax(1) == truth)[~known].mean()
    majority = (truth[~known, None] == np.unique(truth)).mean(0).max()
    assert right > majority + 0.45  # measured over 7 seeds and lengths: 0.96 to 1.00, where the majority is 0.40
    assert post.predictive(2, genes=list(adata.var_names[:2])).shape == (2, 300, 2)
    assert post.normalized_expression().shape == (300, 20)


def test_scanvi_sums_its_labels_out(cells):
    """Log p(z), log p(label | z) and the evidence of rows with and without a label, by loops over the types."""
    torch.manual_seed(1)
    model = po.SCANVI.from_data(cells, n_latent=3, n_hidden=8, label_error=0.1)
    for parameter in model.prior.parameters():
        nn.init.normal_(parameter)
    svi = po.SVIModule(model).eval()
    batch = cells.data[cells.rows("training")[:12]]
    with drawing(svi, 2) as draws, torch.no_grad():
        parts = draws.log_weights(batch, 0, True)
        torch.manual_seed(2)  # the same draw again
        guide = draws.guide(batch, 0)
        z, log_q = guide.nodes["z"]["value"], guide.nodes["z"]["fn"].log_prob(guide.nodes["z"]["value"])
        names = cells.schema.labels
        given = [names[code] for code in batch.label]
        levels = model.levels["labels"]
        joint = torch.stack([
            model.prior.logits.log_softmax(0)[c]
            + dist.Normal(model.prior.means[c], model.prior.log_scales[c].exp()).log_prob(z).sum(-1)
            for c in range(3)
        ])  # fmt: skip
        seen = torch.tensor(
            [[0.0 if g == "Unknown" else math.log(0.9 if g == name else 0.05) for g in given] for name in levels]
        )
        torch.testing.assert_close(parts["z"], joint.logsumexp(0) - log_q)
        torch.testing.assert_close(parts["label"], (joint + seen).logsumexp(0) - joint.logsumexp(0))
        latents = {"z": z}
        torch.testing.assert_close(model.label_probability(batch, latents), joint.softmax(0).T)
        torch.testing.assert_close(model.label_probability(batch, latents, True), (joint + seen).softmax(0).T)
        torch.testing.assert_close(model.prior(batch).log_prob(z), joint.logsumexp(0))
    assert set(given) == {"B", "NK", "T", "Unknown"}
    assert (parts["label"][[g == "Unknown" for g in given]].abs() < 1e-5).all()
    assert "y" not in parts


def test_val_elbo_is_the_posteriors_elbo(fitted_scanvi):
    svi, cells = fitted_scanvi
    post = po.Posterior(svi, cells)
    batch = cells.data[cells.rows("validation")]
    with without_side_effects(svi):
        torch.manual_seed(3)
        expected = svi.plain_elbo(batch).item()
    assert post.elbo("validation", seed=3).mean() == pytest.approx(expected, rel=1e-5)
    likelihood = post.log_likelihood("validation", 30)
    assert likelihood.mean() > expected


@pytest.mark.parametrize("bound", [po.elbos.RenyiELBO(0.5, 2), TraceEnum_ELBO(num_particles=2)], ids=["Renyi", "Enum"])
def test_scanvi_under_other_bounds(cells, bound):
    model = po.SCANVI.from_data(cells, n_latent=3, n_hidden=8, library=po.library_sizes.Latent())
    po.testing.check_model(model, cells, elbo=bound)


def test_scanvi_is_saved_with_its_labels(fitted_scanvi, tmp_path):
    svi, cells = fitted_scanvi
    loaded = po.load(svi.save(tmp_path / "model"))
    assert isinstance(loaded.bound, TraceEnum_ELBO)
    query = {"labels": ["T", "B"], "given_labels": True}
    ours, theirs = (po.Posterior(each, cells).label_probability(**query) for each in (svi, loaded))
    assert list(theirs.columns) == ["T", "B"]
    np.testing.assert_array_equal(ours, theirs)


def test_scanvi_says_what_its_labels_lack(cells):
    with pytest.raises(
        ValueError, match=r"unlabeled_category must be a level of the label, such as .*'Unknown'.*; got 'unknown'"
    ):
        po.SCANVI.from_data(cells, unlabeled_category="unknown")
    with pytest.raises(ValueError, match=r"labels must have two or more known levels.*label_key="):
        po.SCANVI.from_data(po.CellDataModule(counts(20)))
    with pytest.raises(ValueError, match="prior= cannot replace it"):
        po.SCANVI.from_data(cells, prior=po.priors.StandardNormal())
    with pytest.raises(ValueError, match=r"label_error.*in \(0, 1\)"):
        po.SCANVI.from_data(cells, label_error=0.0)
    with pytest.raises(ValueError, match="labels must name the 4 levels"):
        po.SCANVI.from_data(cells, labels=["B", "T"])
    model = po.SCANVI.from_data(cells, unlabeled_category=None)
    assert model.levels["labels"] == ["B", "NK", "T", "Unknown"]
    with pytest.raises(ValueError, match="discrete latent 'y' of SCANVI needs elbo=TraceEnum_ELBO"):
        po.SVIModule(model, elbo=Trace_ELBO())


# In pyro.infer.SVI ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bound", [po.elbos.RenyiELBO(0.5, 3), po.elbos.ImportanceWeightedELBO(3), po.elbos.TraceELBO(3)]
)
def test_loss_and_gradients_as_pyro_s_svi_asks_for_them(bound):
    """A float, and gradients that are added to those there are; keywords reach model and guide."""
    loc, given = torch.nn.Parameter(torch.tensor(0.3)), []
    index = torch.arange(4)

    def model(x, scale=1.0):
        given.append(scale)
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("obs", 8, subsample=index):
            z = pyro.sample("z", dist.Normal(w, scale))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x, scale=1.0):
        given.append(scale)
        pyro.param("loc", loc)
        pyro.sample("w", dist.Normal(loc, 0.5))
        with pyro.plate("obs", 8, subsample=index):
            pyro.sample("z", dist.Normal(loc + 0.1 * x, scale))

    x = torch.tensor([0.1, -0.5, 1.0, 2.0])
    torch.manual_seed(0)
    expected = bound.differentiable_loss(model, guide, x, scale=0.7)
    (gradient,) = torch.autograd.grad(expected, loc)
    torch.manual_seed(0)
    assert bound.loss(model, guide, x, scale=0.7) == pytest.approx(float(expected.detach()), rel=1e-6)
    loc.grad = torch.tensor(1.0)
    torch.manual_seed(0)
    found = bound.loss_and_grads(model, guide, x, scale=0.7)
    assert isinstance(found, float) and found == pytest.approx(float(expected.detach()), rel=1e-6)
    torch.testing.assert_close(loc.grad, 1 + gradient)
    assert set(given) == {0.7}
    with torch.no_grad():
        assert isinstance(bound.loss(model, guide, x), float)
