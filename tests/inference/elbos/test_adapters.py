"""Which adapter a bound gets, and what its step returns, against closed forms."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import ELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule

import pyro_omics as po
from pyro_omics.inference.elbos import adapters
from pyro_omics.models.base import CountModel

N_OBS, WEIGHT = 6, 0.3


class NormalNormal(CountModel):
    """z_n ~ Normal(0, 1), x_n ~ Normal(z_n, 1)."""

    local_sites = ("z",)
    n_genes = 1

    def forward(self, batch):
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(batch.x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=batch.x)


class Exact(PyroModule):
    """The posterior, Normal(x / 2, sqrt(1 / 2)): any draw of the ELBO is then the log evidence."""

    def __init__(self, model):
        super().__init__()
        self._model = (model,)
        self.shift = torch.nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        with self._model[0].plate(batch):
            pyro.sample("z", dist.Normal(batch.x / 2 + self.shift, math.sqrt(0.5)).to_event(1))


class OwnELBO(ELBO):
    """Some other ELBO: only its loss is known of it."""

    def differentiable_loss(self, model, guide, *args):
        return po.elbos.TraceELBO().differentiable_loss(model, guide, *args)

    def _get_trace(self, *args):
        raise AssertionError


KINDS = [
    (po.elbos.TraceELBO(), adapters.TraceELBOAdapter),
    (Trace_ELBO(num_particles=2), adapters.PyroTraceAdapter),
    (TraceMeanField_ELBO(), adapters.PyroTraceAdapter),
    (po.elbos.RenyiELBO(0.5, 2), adapters.RenyiAdapter),
    (po.elbos.ImportanceWeightedELBO(3), adapters.RenyiAdapter),
    (TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False), adapters.TraceEnumAdapter),
    (OwnELBO(), adapters.BoundAdapter),
    (Trace_ELBO(3, max_plate_nesting=1, vectorize_particles=True), adapters.PyroTraceAdapter),
    (po.elbos.TraceELBO(3, max_plate_nesting=1, vectorize_particles=True), adapters.TraceELBOAdapter),
]


@pytest.fixture
def batch():
    return NormalNormal(N_OBS).example_batch()._replace(x=torch.tensor([[0.7], [-1.2]]))


@pytest.mark.parametrize(("bound", "kind"), KINDS)
def test_the_adapter_is_of_the_bounds_class(bound, kind):
    assert type(adapters.adapter(bound)) is kind


def test_the_default_bound_is_the_trace_elbo():
    assert type(adapters.adapter(None).bound) is po.elbos.TraceELBO


@pytest.mark.parametrize("weight", [WEIGHT, 1.0])
@pytest.mark.parametrize("bound", [bound for bound, _ in KINDS])
def test_the_plain_elbo_of_a_step_is_the_evidence_over_the_full_data(bound, weight, batch):
    svi = po.SVIModule(NormalNormal(N_OBS), Exact, elbo=bound)
    evidence = dist.Normal(0.0, math.sqrt(2.0)).log_prob(batch.x).sum() * N_OBS / 2
    loss, elbo = svi.adapter.step(svi.elbo, batch, weight)
    assert not elbo.requires_grad
    # Of the mean-field bound the KL is in closed form, and the rest of it in warm-up is from a draw.
    torch.testing.assert_close(elbo, evidence, rtol=1e-5 if type(bound) is not TraceMeanField_ELBO else 1.0, atol=1e-5)
    assert loss.requires_grad
    torch.testing.assert_close(svi.adapter.plain(svi.elbo, batch).detach(), evidence, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bound", [bound for bound, _ in KINDS if type(bound) is not TraceMeanField_ELBO])
def test_the_loss_of_a_step_has_the_kl_at_its_weight(bound):
    n = 200
    model = NormalNormal(3 * n)
    index = torch.arange(n)
    batch = model.example_batch()._replace(x=torch.linspace(-2, 2, n).unsqueeze(-1), row=index, index=index)
    svi = po.SVIModule(model, Exact, elbo=bound)
    torch.manual_seed(1)
    losses = torch.stack([svi.adapter.step(svi.elbo, batch, WEIGHT)[0].detach() for _ in range(30)])
    q = dist.Normal(batch.x / 2, math.sqrt(0.5))
    kl = torch.distributions.kl_divergence(q, dist.Normal(torch.zeros_like(batch.x), 1.0))
    fit = dist.Normal(q.loc, 1.0).log_prob(batch.x) - 0.25  # E_q log p(x | z): half of the variance beside the value
    expected = 3 * (WEIGHT * kl - fit).sum()
    se = losses.std() / math.sqrt(len(losses))
    if isinstance(bound, po.elbos.RenyiELBO):
        # With several particles it lies above the ELBO at this weight.
        assert losses.mean() < expected - 4 * se
    else:
        assert abs(losses.mean() - expected) < 4 * se
