"""`elbos.TraceELBO` against Pyro's Trace_ELBO: value and gradient, in float64, by Pyro's handlers and by ours."""

from collections import Counter
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import pytorch_lightning as pl
import torch
from helpers import counts, quiet_trainer, small
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule

import pyro_omics as po
from pyro_omics.inference.elbos.adapters import TraceELBOAdapter

N = 6


class Model(PyroModule):
    """Global and local sites, reparameterised or not, with a mask, a scale and a constrained support."""

    def forward(self, x):
        scale = pyro.sample("scale", dist.LogNormal(torch.zeros((), dtype=x.dtype), 1.0))
        pyro.sample("coin", dist.Bernoulli(torch.tensor(0.3, dtype=x.dtype)))
        with pyro.plate("obs", 4 * N, subsample=torch.arange(N)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3, dtype=x.dtype), 1.0).to_event(1))
            with poutine.mask(mask=torch.arange(N) % 2 == 0):
                k = pyro.sample("k", dist.Poisson(torch.full((N,), 2.0, dtype=x.dtype)))
            with poutine.scale(scale=0.7):
                pyro.sample("x", dist.Normal(z.sum(-1) + 0.1 * k, scale), obs=x)


class Guide(PyroModule):
    """With a parameter at each site."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.loc = torch.nn.Parameter(torch.randn(N, 3, dtype=torch.float64))
        self.rate = torch.nn.Parameter(torch.randn(N, dtype=torch.float64))
        self.level = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x):
        pyro.sample("scale", dist.LogNormal(self.level, 0.5))
        pyro.sample("coin", dist.Bernoulli(logits=self.level))
        with pyro.plate("obs", 4 * N, subsample=torch.arange(N)):
            pyro.sample("z", dist.Normal(self.loc, 0.3).to_event(1))
            with poutine.mask(mask=torch.arange(N) % 2 == 0):
                pyro.sample("k", dist.Poisson(self.rate.exp()))


class Local(PyroModule):
    """Local sites alone, for vectorised particles."""

    def __init__(self, guide=False):
        super().__init__()
        self.guide = guide
        torch.manual_seed(1)
        self.loc = torch.nn.Parameter(torch.randn(N, 3, dtype=torch.float64))

    def forward(self, x):
        with pyro.plate("obs", 4 * N, subsample=torch.arange(N)):
            z = pyro.sample("z", dist.Normal(self.loc if self.guide else 0 * self.loc, 1.0).to_event(1))
            b = pyro.sample("b", dist.Bernoulli(logits=self.loc[:, 0]))
            if not self.guide:
                pyro.sample("x", dist.Normal(z.sum(-1) + b, 1.0), obs=x)


def x():
    return torch.linspace(-1, 2, N, dtype=torch.float64)


def value_and_gradient(elbo, model, guide, validate, *args):
    params = list(torch.nn.ModuleList([model, guide]).parameters())
    for p in params:
        p.grad = None
    torch.manual_seed(3)
    with pyro.validation_enabled(validate):
        loss = elbo(model, guide)(*args)
    loss.backward()
    return [loss.detach()] + [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in params]


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("num_particles", [1, 3])
def test_value_and_gradient_are_pyro_s(validate, num_particles):
    pair = Model(), Guide()
    expected = value_and_gradient(Trace_ELBO(num_particles), *pair, False, x())
    found = value_and_gradient(po.elbos.TraceELBO(num_particles), *pair, validate, x())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert all(gradient.abs().sum() > 0 for gradient in found[1:])


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("num_particles", [1, 4])
def test_vectorised_particles_too(validate, num_particles):
    pair = Local(), Local(guide=True)
    options = {"num_particles": num_particles, "vectorize_particles": True, "max_plate_nesting": 1}
    expected = value_and_gradient(Trace_ELBO(**options), *pair, False, x())
    found = value_and_gradient(po.elbos.TraceELBO(**options), *pair, validate, x())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rest", [AutoNormal, AutoMultivariateNormal])
def test_a_whole_pair_of_this_package_with_latent_weights(rest):
    dm = po.CellDataModule(counts(), batch_size=20, validation_size=0.0)
    svi = po.SVIModule(po.bayesianize(small(dm, dropout=0.0), "likelihood"), partial(po.guides.Amortized, rest=rest))
    batch = next(iter(dm.train_dataloader()))
    batch = batch._replace(x=batch.x.double())
    model, guide = svi.double().elbo.model, svi.elbo.guide
    model.eval(), guide.eval()
    expected = value_and_gradient(Trace_ELBO(), model, guide, False, batch)
    found = value_and_gradient(po.elbos.TraceELBO(), model, guide, False, batch)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_number_that_pyro_s_svi_asks_for_is_pyro_s():
    pair = Model(), Guide()
    torch.manual_seed(3)
    expected = Trace_ELBO(2).loss(*pair, x())
    torch.manual_seed(3)
    assert po.elbos.TraceELBO(2).loss(*pair, x()) == expected


def test_nothing_is_read_back_in_a_step(monkeypatch):
    # Off the CPU each read waits for the device: the meta device has no numbers to read at all.
    model, guide = (part.to("meta") for part in (Local(), Local(guide=True)))
    with pyro.validation_enabled(False), torch.device("meta"):
        loss = po.elbos.TraceELBO()(model, guide)(x().to("meta"))
    assert loss.device.type == "meta"
    loss.backward()
    assert guide.loc.grad is not None


def test_nan_is_warned_of_as_pyro_does():
    data = x()
    data[0] = float("nan")
    with pyro.validation_enabled(False), pytest.warns(UserWarning, match="Encountered NaN: loss"):
        po.elbos.TraceELBO()(Model(), Guide())(data)


def test_a_site_that_the_guide_observes_is_refused():
    def guide(data):
        pyro.sample("z", dist.Normal(0.0, 1.0), obs=torch.zeros(()))

    def model(data):
        pyro.sample("z", dist.Normal(0.0, 1.0))

    with pyro.validation_enabled(False), pytest.raises(RuntimeError, match="site z must be sampled in trace"):
        po.elbos.TraceELBO().differentiable_loss(model, guide, x())


def test_it_is_the_default_and_a_trace_elbo():
    dm = po.CellDataModule(counts(), batch_size=20, validation_size=0.0)
    svi = po.SVIModule(small(dm))
    assert type(svi.bound) is po.elbos.TraceELBO
    assert isinstance(svi.bound, Trace_ELBO)
    theirs = po.SVIModule(small(dm), elbo=Trace_ELBO())
    assert type(theirs.bound) is Trace_ELBO


# A training step ---------------------------------------------------------------------------------------------------


def latent_weights(dm):
    return po.bayesianize(small(dm), "decoder", prior=po.priors.Horseshoe())


@pytest.mark.parametrize("make", [small, latent_weights], ids=["SCVI", "Horseshoe"])
def test_after_the_first_step_nothing_checks_its_arguments(make, monkeypatch):
    dm = po.CellDataModule(counts(), batch_size=20, validation_size=0.0)
    steps, checked = [0], Counter()
    base, step = torch.distributions.Distribution, po.SVIModule.training_step
    init, validate = base.__init__, base._validate_sample

    def counted_init(self, *args, **kwargs):
        init(self, *args, **kwargs)
        checked[steps[0]] += bool(self._validate_args)

    def counted_validate(self, value):
        checked[steps[0]] += 1
        validate(self, value)

    def counted_step(self, *args):
        steps[0] += 1
        return step(self, *args)

    svi = po.SVIModule(make(dm))
    monkeypatch.setattr(base, "__init__", counted_init)
    monkeypatch.setattr(base, "_validate_sample", counted_validate)
    monkeypatch.setattr(po.SVIModule, "training_step", counted_step)
    quiet_trainer(1).fit(svi, dm)
    assert steps[0] == 3
    assert checked.pop(1) > 0
    assert sum(checked[n] for n in (2, 3)) == 0


@pytest.mark.parametrize("weight", [0.3, 1.0])
@pytest.mark.parametrize("particles", [1, 3])
def test_a_step_in_kl_warm_up_is_as_with_pyro_s(weight, particles, monkeypatch):
    dm = po.CellDataModule(counts(), batch_size=20, validation_size=0.0)
    batch = next(iter(dm.train_dataloader()))
    monkeypatch.setattr(po.SVIModule, "kl_weight", weight)
    found = []
    for elbo in (po.elbos.TraceELBO(particles), Trace_ELBO(particles)):
        svi = po.SVIModule(po.bayesianize(small(dm, dropout=0.0), "likelihood"), elbo=elbo).double()
        logged = {}
        monkeypatch.setattr(po.SVIModule, "_log", lambda self, name, value, batch, to=logged: to.update({name: value}))
        torch.manual_seed(2)
        for _ in range(2):  # under Pyro's handlers, and under ours
            loss = svi.training_step(batch._replace(x=batch.x.double()), 0)
        gradient = torch.autograd.grad(loss, [p for p in svi.parameters() if p.requires_grad], allow_unused=True)
        found.append((loss.detach(), logged["train_elbo"], [g for g in gradient if g is not None]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-12)
    assert (found[0][0] == -found[0][1]) == (weight == 1)


class Steps(pl.Callback):
    """The training ELBO of each step, with its rows, and what the epoch's end sees logged."""

    def __init__(self):
        self.steps, self.seen = [], []

    def on_train_epoch_end(self, trainer, svi):
        self.seen.append(trainer.callback_metrics.get("train_elbo"))


@pytest.mark.parametrize(("options", "last"), [({}, 3), ({"limit_train_batches": 2}, 2), ({"max_steps": 5}, 2)])
def test_the_mean_of_an_epoch_is_over_its_rows_however_it_ends(options, last, monkeypatch):
    dm = po.CellDataModule(counts(n=50), batch_size=20, validation_size=0.0)  # 20, 20 and 10 rows
    steps = []
    step = TraceELBOAdapter.step

    def recorded(self, pair, batch, weight):
        loss, elbo = step(self, pair, batch, weight)
        steps.append((elbo.item() / dm.n_obs, len(batch.index)))
        return loss, elbo

    monkeypatch.setattr(TraceELBOAdapter, "step", recorded)
    seen = Steps()
    trainer = quiet_trainer(2, callbacks=[seen], **options)
    trainer.fit(po.SVIModule(small(dm)), dm)
    expected = sum(value * rows for value, rows in steps[-last:]) / sum(rows for _, rows in steps[-last:])
    assert float(trainer.callback_metrics["train_elbo"]) == pytest.approx(expected, rel=1e-6)
    if "max_steps" not in options:
        # As soon as Lightning's own mean would be there.
        assert float(seen.seen[-1]) == pytest.approx(expected, rel=1e-6)


def test_a_name_twice_is_refused_with_validation_off():
    def model():
        for value in (1.0, 2.0):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=torch.tensor(value))

    with pyro.validation_enabled(False), pytest.raises(RuntimeError, match="Multiple sample sites named 'x'"):
        po.elbos.TraceELBO().differentiable_loss(model, lambda: None)
