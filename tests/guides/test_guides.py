"""Guides against closed forms: evidence and posteriors of toys whose truth is known."""

import copy
import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import counts, donors, quiet_trainer, small
from pyro import poutine
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoGaussian,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoStructured,
)
from pyro.optim.clipped_adam import ClippedAdam
from torch import nn

import pyro_omics as po
from pyro_omics.batch import CellBatch
from pyro_omics.distributions import flows
from pyro_omics.guides import (
    Amortized,
    AmortizedFlow,
    AmortizedStudentT,
    Conditional,
    GammaMeanField,
    PerObservation,
    SemiAmortized,
)
from pyro_omics.guides import refinement as refining

N, D, S = 60, 2, 0.5  # rows, dimensions, noise of the Normal-Normal toy


class Linear(nn.Module):
    """Location and scale, each linear in the input."""

    def __init__(self, d):
        super().__init__()
        self.loc, self.log_scale = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, x):
        return self.loc(x), self.log_scale(x).exp()


class Toy(po.models.CountModel):
    """x_nd ~ Normal(z_nd, S), z_nd ~ Normal(0, 1)."""

    local_sites = ("z",)

    def __init__(self, n_obs=N):
        super().__init__(n_obs)
        self.n_genes = D

    def encoder_inputs(self, batch):
        return batch.x

    def build_encoder(self, site, n_out):
        return Linear(n_out)

    def prior(self):
        return dist.Normal(torch.zeros(D), 1.0).to_event(1)

    def observed(self, z):
        return dist.Normal(z, S)

    def forward(self, batch):
        with self.plate(batch):
            z = pyro.sample("z", self.prior())
            pyro.sample("x", self.observed(z).to_event(1), obs=batch.x)


class Shifted(Toy):
    """z_nd ~ Normal(mu, 1), mu ~ Normal(0, 1) for all rows."""

    def forward(self, batch):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(mu * torch.ones(D), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, S).to_event(1), obs=batch.x)


class Squared(Toy):
    """x_nd ~ Normal(z_nd^2, S): either sign of z will do."""

    def build_encoder(self, site, n_out):
        return po.layers.Encoder(D, n_out, n_hidden=16, dropout=0.0, norm=None)

    def observed(self, z):
        return dist.Normal(z.square(), S)


class GammaPoisson(Toy):
    """x_nd ~ Poisson(z_nd), z_nd ~ Gamma(3, 1)."""

    def encoder_inputs(self, batch):
        return torch.log1p(batch.x)

    def build_encoder(self, site, n_out):
        return po.layers.Encoder(D, n_out, n_hidden=16, dropout=0.0, norm=None)

    def prior(self):
        return dist.Gamma(torch.full((D,), 3.0), 1.0).to_event(1)

    def observed(self, z):
        return dist.Poisson(z)


def rows(x, start=0):
    index = torch.arange(start, start + len(x))
    return CellBatch(x=x, row=index, index=index)


def normals(n=N, seed=1):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) * (1 + S**2) ** 0.5


def evidence(x):
    """Of the Normal-Normal toy, nats per row."""
    return float(dist.Normal(0.0, (1 + S**2) ** 0.5).log_prob(x).sum(-1).mean())


def trained(model, guide, batch, steps=400, lr=0.03):
    svi = po.SVIModule(model, guide=guide)
    svi.train()
    optimizer = torch.optim.Adam(svi.parameters(), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        svi(batch).backward()
        optimizer.step()
        schedule.step()
    return svi.eval()


def elbo(svi, batch, draws=200):
    with torch.no_grad():
        values = torch.stack([svi.plain_elbo(batch) for _ in range(draws)])
    return float(values.mean()), float(values.std() / draws**0.5)


# Evidence in closed form --------------------------------------------------------------------------------------------


TABLE = partial(PerObservation, speed=1.0)


@pytest.mark.parametrize(
    ("guide", "steps"), [(Amortized, 400), (GammaMeanField, 800), (TABLE, 800), (SemiAmortized, 400)]
)
def test_elbo_reaches_the_evidence_of_a_normal(guide, steps):
    batch = rows(normals())
    bound, error = elbo(trained(Toy(), guide, batch, steps=steps, lr=0.05), batch)
    assert evidence(batch.x) - 0.01 < bound < evidence(batch.x) + 3 * error + 1e-4


@pytest.mark.parametrize(("guide", "steps"), [(AmortizedFlow, 150), (AmortizedStudentT, 300)])
def test_wider_families_come_near_the_evidence_of_a_normal(guide, steps):
    batch = rows(normals())
    bound, error = elbo(trained(Toy(), guide, batch, steps=steps), batch, draws=50)
    assert evidence(batch.x) - 0.05 < bound < evidence(batch.x) + 3 * error


@pytest.mark.parametrize("guide", [Amortized, AmortizedFlow, AmortizedStudentT, TABLE, SemiAmortized])
def test_elbo_of_a_positive_latent(guide):
    x = torch.poisson(dist.Gamma(3.0, 1.0).sample((N, D)))
    # Gamma(a, b) mixed over Poisson: negative binomial with success probability 1 / (1 + b).
    truth = float(dist.NegativeBinomial(3.0, probs=torch.tensor(0.5)).log_prob(x).sum(-1).mean())
    batch = rows(x)
    bound, error = elbo(trained(GammaPoisson(), guide, batch, steps=150), batch, draws=50)
    assert truth - 0.1 < bound < truth + 3 * error


def test_a_flow_reaches_what_a_normal_cannot():
    model = Squared()
    with torch.no_grad():
        x = model.observed(model.prior().sample((100,))).sample()
    z = torch.linspace(-6, 6, 4001)
    grid = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z.square(), S).log_prob(x.unsqueeze(-1))
    truth = float((grid.logsumexp(-1) + np.log(float(z[1] - z[0]))).sum(-1).mean())
    batch = rows(x)
    normal, _ = elbo(trained(Squared(100), Amortized, batch, steps=200), batch, draws=50)
    flow, error = elbo(trained(Squared(100), AmortizedFlow, batch, steps=200), batch, draws=50)
    assert normal + 0.25 < flow < truth + 3 * error


# Held-out rows ------------------------------------------------------------------------------------------------------


def posterior(x):
    """Mean and standard deviation of z in the Normal-Normal toy."""
    return x / (1 + S**2), torch.full_like(x, S / (1 + S**2) ** 0.5)


@pytest.mark.parametrize("guide", [PerObservation, SemiAmortized])
def test_refined_rows_have_the_exact_posterior(guide):
    made = guide(Toy(), n_steps=200, lr=0.1).eval()  # nothing is trained: the refinement alone finds it
    batch = rows(normals(20), start=N)
    fn = made.local("z", batch)
    for found, exact in zip((fn.mean, fn.stddev), posterior(batch.x), strict=True):
        torch.testing.assert_close(found.detach(), exact, atol=0.01, rtol=0.0)


@pytest.mark.parametrize("guide", [PerObservation, SemiAmortized])
def test_what_a_row_gets_does_not_depend_on_the_rows_beside_it(guide):
    made = guide(Shifted()).eval()
    batch = rows(normals(9), start=N)
    with torch.no_grad():
        made(batch)
        together = made.local("z", batch)
        for i in (0, 8):
            alone = made.local("z", CellBatch(*(batch.x[i : i + 1], batch.row[i : i + 1], batch.index[i : i + 1])))
            torch.testing.assert_close(alone.mean[0], together.mean[i], atol=1e-5, rtol=0.0)
            torch.testing.assert_close(alone.stddev[0], together.stddev[i], atol=1e-5, rtol=0.0)


def test_global_latents_are_averaged_over_in_the_refinement():
    guide = PerObservation(Shifted(), n_steps=200, lr=0.1).eval()
    batch = rows(normals(10), start=N)
    with torch.no_grad():
        guide(batch)
        guide.rest.locs.mu.fill_(2.0)
        fn = guide.local("z", batch)
    # Mean field: precisions add, and the prior's mean is E[mu].
    exact = (2.0 + batch.x / S**2) / (1 + 1 / S**2)
    torch.testing.assert_close(fn.mean, exact, atol=0.03, rtol=0.0)
    torch.testing.assert_close(fn.stddev, posterior(batch.x)[1], atol=0.02, rtol=0.0)


def test_a_batch_may_mix_training_and_held_out_rows():
    guide = PerObservation(Toy()).eval()
    x = normals()
    with torch.no_grad():
        guide.tables["z"].loc.copy_(torch.randn(N, D))
    held = rows(x[:4], start=N)
    mixed = CellBatch(x=x[:8].clone(), row=torch.arange(8), index=torch.tensor([3, N, N + 1, 0, 7, N + 2, 5, N + 3]))
    mixed.x[torch.tensor([1, 2, 5, 7])] = held.x
    fn = guide.local("z", mixed)
    torch.testing.assert_close(fn.mean[[1, 2, 5, 7]], guide.local("z", held).mean)
    torch.testing.assert_close(fn.mean[[0, 3, 4, 6]], guide.tables["z"].speed * guide.tables["z"].loc[[3, 0, 7, 5]])


@pytest.mark.parametrize("guide", [PerObservation, SemiAmortized])
def test_refinement_leaves_everything_as_it_was(guide):
    svi = po.SVIModule(Shifted(), guide=guide)
    batch = rows(normals(5), start=N)
    svi.train()
    svi(rows(normals())).backward()
    svi.guide.eval()  # and the model stays in training mode
    state = {name: value.clone() for name, value in svi.state_dict().items()}
    grads = {name: p.grad.clone() for name, p in svi.named_parameters()}
    svi.guide.refinement._cache = refining.OffsetCache()
    torch.manual_seed(3)
    with torch.no_grad(), poutine.trace() as outer:
        svi.guide.offsets(batch)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(1), after)
    assert not list(outer.trace.stochastic_nodes)
    assert svi.model.training and not svi.guide.training
    assert set(svi.state_dict()) == set(state)
    assert all(torch.equal(value, state[name]) for name, value in svi.state_dict().items())
    assert all(torch.equal(p.grad, grads[name]) for name, p in svi.named_parameters())


def test_a_batch_is_refined_once_for_many_draws(monkeypatch):
    guide = SemiAmortized(Toy(), n_steps=3).eval()
    calls = []
    original = refining.local_elbo
    monkeypatch.setattr(refining, "local_elbo", lambda *args: calls.append(1) or original(*args))
    batch = rows(normals(6), start=N)
    for _ in range(5):
        guide(batch)
    assert len(calls) == 3
    guide(batch._replace(x=batch.x + 1))
    assert len(calls) == 6
    guide(batch)  # still remembered
    assert len(calls) == 6
    guide.model.encoders["z"].loc.bias.data.add_(0.1)  # as optimizers write: without a new version
    guide(batch)
    assert len(calls) == 9
    for other in (copy.deepcopy(guide), pickle.loads(pickle.dumps(guide.refinement))):
        memory = other._cache if isinstance(other, refining.Refinement) else other.refinement._cache
        assert not memory._entries
        assert not memory._state
    assert guide.refinement._cache._entries


def test_semi_amortized_trains_as_amortized_and_scores_better():
    batch = rows(normals())
    both = []
    for guide in (partial(SemiAmortized, n_steps=50, lr=0.2), Amortized):
        torch.manual_seed(0)
        both.append(trained(Toy(), guide, batch, steps=20))
    ours, theirs = both
    torch.testing.assert_close(ours.model.state_dict(), theirs.model.state_dict())
    refined, _ = elbo(ours, batch, draws=50)
    amortized, _ = elbo(theirs, batch, draws=50)
    assert refined > amortized + 0.1
    assert refined > evidence(batch.x) - 0.05


@pytest.mark.parametrize(("lr", "speed"), [(1e-3, 30.0), (0.01, 3.0), (0.1, 1.0)])
def test_a_row_moves_at_one_rate_whatever_the_optimizer(lr, speed):
    svi = po.SVIModule(Toy(), guide=PerObservation, optimizer=partial(ClippedAdam, lr=lr))
    table = svi.guide.tables["z"]
    svi.configure_optimizers()
    assert table.speed == pytest.approx(speed)
    with torch.no_grad():
        table.loc.fill_(1.0)  # trained: another speed would move what was found
    svi.guide.on_optimizer(lr / 2)
    assert table.speed == pytest.approx(speed)
    other = po.SVIModule(Toy(), guide=PerObservation)
    other.load_state_dict(svi.state_dict())
    assert other.guide.tables["z"].speed == pytest.approx(speed)
    assert PerObservation(Toy(), speed=5.0).tables["z"].speed == 5.0


@pytest.mark.parametrize("options", [{"n_steps": 0}, {"lr": 0.0}, {"speed": -1.0}])
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PerObservation(Toy(), **options)


@pytest.mark.parametrize("guide", [Amortized, PerObservation, Conditional])
def test_a_rest_that_makes_no_guide_is_refused(guide):
    model = Wide(3)
    model.conditional = lambda *_: None
    for rest, seen in (("AutoNormal", "'AutoNormal'"), (AutoNormal(model), "an instance of AutoNormal")):
        with pytest.raises(TypeError, match=f"rest must be a callable.*class pyro.infer.autoguide.AutoNormal.*{seen}"):
            guide(model, rest=rest)


# In a Trainer, in a Posterior, on disk ------------------------------------------------------------------------------


class Collate:
    """Batches of a tensor's rows, of which the first N are training rows."""

    def __init__(self, x):
        self.x = x

    def __call__(self, index):
        index = torch.tensor(index)
        return CellBatch(x=self.x[index], row=index, index=index)


def test_validation_in_a_trainer_is_close_to_the_closed_form():
    x = normals(N + 30)
    loader = partial(torch.utils.data.DataLoader, collate_fn=Collate(x), batch_size=16)
    svi = po.SVIModule(Toy(), guide=PerObservation)
    trainer = quiet_trainer(1)
    trainer.fit(svi, loader(range(N), shuffle=True), loader(range(N, N + 30)))  # inference_mode, as by default
    value = float(trainer.callback_metrics["val_elbo"])
    assert value == pytest.approx(evidence(x[N:]), abs=0.01)


@pytest.fixture(scope="module")
def data():
    adata = counts(50, 8, donor=donors(50, "a", "b"))
    protein = np.random.default_rng(0).poisson(5.0, (50, 3)).astype(float)
    protein[:10, 1] = np.nan
    adata.obsm["protein"] = protein
    return po.CellDataModule(adata, batch_key="donor", protein_obsm_key="protein", batch_size=16, validation_size=0.2)


SHORT = {PerObservation: {"n_steps": 3}, SemiAmortized: {"n_steps": 3}}


@pytest.mark.parametrize("guide", [AmortizedFlow, AmortizedStudentT, PerObservation, SemiAmortized])
@pytest.mark.parametrize("build", [small, lambda dm: po.TotalVI.from_data(dm, n_latent=3, n_hidden=8)])
def test_fit_ask_save_and_load(build, guide, data, tmp_path):
    svi = po.SVIModule(build(data), guide=partial(guide, **SHORT.get(guide, {})))
    trainer = quiet_trainer(1)
    trainer.fit(svi, data)
    assert np.isfinite(float(trainer.callback_metrics["val_elbo"]))
    ours = po.Posterior(svi, data)
    loaded = po.load(svi.save(tmp_path / "model"))
    assert type(loaded.guide) is guide
    theirs = po.Posterior(loaded, data)
    assert np.array_equal(ours.latent(), theirs.latent())
    assert np.array_equal(ours.elbo(), theirs.elbo())
    assert np.isfinite(ours.log_likelihood(num_particles=3)).all()
    keys = {"batch_key": "donor", "protein_obsm_key": "protein"}
    other = po.CellDataModule(data.adata[:20].copy(), **keys, validation_size=0)
    assert np.isfinite(po.Posterior(svi, other).elbo()).all()


def test_all_rows_of_other_data_are_held_out(data):
    svi = po.SVIModule(small(data), guide=partial(PerObservation, n_steps=3))
    quiet_trainer(1).fit(svi, data)
    with torch.no_grad():
        svi.guide.tables["z"].loc.fill_(7.0)
    other = po.CellDataModule(data.adata[:20].copy(), batch_key="donor", validation_size=0)
    assert np.abs(po.Posterior(svi, other).latent()).max() < 2


def test_a_shuffled_minibatch_gives_gradients_to_its_own_rows_only():
    svi = po.SVIModule(Toy(), guide=PerObservation)
    index = torch.tensor([17, 3, 40])
    svi(CellBatch(x=normals()[index], row=index, index=index)).backward()
    for table in svi.guide.tables["z"].parameters():
        assert set(table.grad.abs().sum(-1).nonzero().flatten().tolist()) == {17, 3, 40}


def test_entries_that_were_not_measured_keep_the_prior(data):
    guide = PerObservation(po.TotalVI.from_data(data, n_latent=3, n_hidden=8))
    with torch.no_grad():
        guide.tables["background"].loc.fill_(1.0)
        batch = data.data[data.rows("training")]
        fn = guide.local("background", batch)
    assert not batch.measured.all()
    torch.testing.assert_close(fn.mean[~batch.measured], torch.zeros(()).expand_as(fn.mean[~batch.measured]))
    assert fn.stddev[~batch.measured] == pytest.approx(1.0, abs=0.1)
    assert (fn.mean[batch.measured] == guide.tables["background"].speed).all()


# Families -----------------------------------------------------------------------------------------------------------


def test_a_flow_starts_as_the_amortized_normal(data):
    guide = AmortizedFlow(small(data)).eval()
    guide.model.eval()
    batch = data.data[data.rows("training")[:5]]
    z = torch.randn(5, 3)
    with torch.no_grad():
        normal = Amortized.posterior(guide, "z", *guide.start("z", batch, None))
        torch.testing.assert_close(guide.local("z", batch).log_prob(z), normal.log_prob(z))


@pytest.mark.parametrize("build", [Toy, GammaPoisson])
def test_a_flows_density_is_that_of_its_draws(build):
    guide = AmortizedFlow(build()).eval()
    with torch.no_grad():
        for p in guide.flows.parameters():
            p.add_(0.3 * torch.randn_like(p))
        batch = rows(torch.ones(4, D))
        fn = guide.local("z", batch)
        z = fn.sample()
        torch.testing.assert_close(fn.log_prob(z), fn.log_prob(z.clone()), atol=1e-4, rtol=1e-4)  # cached, worked out
        # It is a density: over a grid it sums to 1, from whichever support.
        u = torch.linspace(-9, 9, 601)
        grid = torch.cartesian_prod(u, u)
        one = guide.distribution("z", rows(torch.ones(1, D)), *guide.start("z", rows(torch.ones(1, D)), None))
        values = one.log_prob(guide.constrained("z", grid)).double()
        if build is GammaPoisson:
            values = values + grid.sum(-1)  # of d exp(u) = exp(u) du
        assert float(values.exp().sum() * (u[1] - u[0]) ** 2) == pytest.approx(1.0, abs=0.02)


def test_where_a_flow_keeps_the_normal(data):
    model = po.TotalVI.from_data(data, n_latent=3, n_hidden=8, library=po.library_sizes.Latent())
    guide = AmortizedFlow(model)
    assert model.local_sites == ("z", "library", "background")
    assert list(guide.flows) == ["z"]  # a library is one number, and backgrounds may not have been measured


def test_degrees_of_freedom_stay_above_2_and_are_learned():
    guide = AmortizedStudentT(Toy())
    torch.testing.assert_close(guide.degrees_of_freedom("z"), torch.full((D,), 10.0))
    with torch.no_grad():
        guide.raw_df["z"].fill_(-50.0)
    assert (guide.degrees_of_freedom("z") >= 2).all()
    batch = rows(normals())
    df = trained(Toy(), AmortizedStudentT, batch, steps=200).guide.degrees_of_freedom("z")
    assert (df > 10.5).all()  # towards the Normal that the posterior is


def test_zuko_leaves_validation_on():
    # The file alone: the whole package takes seconds to import.
    program = """
import importlib.util, torch, pyro, pyro.distributions
spec = importlib.util.spec_from_file_location("flows", "PATH")
flows = importlib.util.module_from_spec(spec)
spec.loader.exec_module(flows)
before = torch.distributions.Distribution.__dict__["arg_constraints"]
pyro.enable_validation(True)
flows.zuko()
assert torch.distributions.Distribution._validate_args
assert torch.distributions.Distribution.__dict__["arg_constraints"] is before
try:
    pyro.distributions.Normal(0.0, -1.0)
except ValueError:
    pass
else:
    raise AssertionError("a negative scale passed")
""".replace("PATH", flows.__file__)
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Guides too large for memory ----------------------------------------------------------------------------------------


class Wide(Toy):
    """A model with a global latent of ``d`` dimensions."""

    def __init__(self, d):
        super().__init__()
        self.d = d

    def forward(self, batch):
        pyro.sample("w", dist.Normal(0.0, 1.0).expand([self.d]).to_event(1))
        super().forward(batch)


def wrapped(kind, *args, **options):
    return kind(*args, **options)


@pytest.mark.parametrize(
    "rest",
    [
        AutoMultivariateNormal,
        partial(partial(AutoMultivariateNormal), init_scale=0.1),
        partial(wrapped, AutoMultivariateNormal),
        type("Mine", (AutoMultivariateNormal,), {}),
        partial(AutoLowRankMultivariateNormal, rank=30_000),
        AutoGaussian,
        AutoIAFNormal,
        AutoStructured,
    ],
)
@pytest.mark.parametrize("guide", [Amortized, PerObservation, Conditional])
def test_guides_too_large_for_memory_are_refused(guide, rest):
    model = Wide(198_747)
    model.conditional = lambda *_: None
    size = (
        r"158\.0 GB.*AutoNormal.*AutoLowRank"
        if ".AutoMulti" in str(rest) or "Mine" in str(rest)
        else r"GB of parameters"
    )
    with pytest.raises(ValueError, match=rf"d=198,747 global latent dimensions .*{size}"):
        guide(model, rest=rest)


@pytest.mark.parametrize(
    "rest",
    [
        None,
        AutoNormal,
        AutoDiagonalNormal,
        AutoLowRankMultivariateNormal,
        partial(AutoLowRankMultivariateNormal, rank=2),
        partial(AutoIAFNormal, hidden_dim=[10]),
        partial(AutoStructured, conditionals="normal"),
    ],
)
def test_guides_that_fit_are_made(rest):
    assert Amortized(Wide(30_000), rest=rest).rest is not None


def test_a_full_covariance_of_a_few_latents_is_made():
    assert isinstance(Amortized(Shifted(), rest=AutoMultivariateNormal).rest, AutoMultivariateNormal)
