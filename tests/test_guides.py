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
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoStructured,
)
from torch import nn

import pyro_omics as po
from pyro_omics.batch import CellBatch
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

@pytest.mark.parametrize("guide", [Amortized, GammaMeanField, partial(PerObservation, speed=1.0), SemiAmortized])
def test_elbo_reaches_the_evidence_of_a_normal(guide):
    batch = rows(normals())
    bound, error = elbo(trained(Toy(), guide, batch), batch)
    assert evidence(batch.x) - 0.01 < bound < evidence(batch.x) + 3 * error + 1e-4


@pytest.mark.parametrize("guide", [AmortizedFlow, AmortizedStudentT])
def test_wider_families_come_near_the_evidence_of_a_normal(guide):
    batch = rows(normals())
    bound, error = elbo(trained(Toy(), guide, batch, steps=150, lr=0.02), batch, draws=50)
    assert evidence(batch.x) - 0.03 < bound < evidence(batch.x) + 3 * error


@pytest.mark.parametrize("guide", [Amortized, AmortizedFlow, AmortizedStudentT, PerObservation, SemiAmortized])
def test_elbo_of_a_positive_latent(guide):
    x = torch.poisson(dist.Gamma(3.0, 1.0).sample((N, D)))
    batch = rows(x)
    # Gamma(a, b) mixed over Poisson: negative binomial with success probability 1 / (1 + b).
    truth = float(dist.NegativeBinomial(3.0, probs=torch.tensor(0.5)).log_prob(x).sum(-1).mean())
    bound, error = elbo(trained(GammaPoisson(), guide, batch, steps=150, lr=0.03), batch, draws=50)
    assert truth - 0.1 < bound < truth + 3 * error


def test_a_flow_reaches_what_a_normal_cannot():
    model = Squared()
    with torch.no_grad():
        x = model.observed(model.prior().sample((200,))).sample()
    z = torch.linspace(-6, 6, 4001)
    grid = dist.Normal(0.0, 1.0).log_prob(z) + dist.Normal(z.square(), S).log_prob(x.unsqueeze(-1))
    truth = float((grid.logsumexp(-1) + np.log(float(z[1] - z[0]))).sum(-1).mean())
    batch = rows(x)
    normal, _ = elbo(trained(Squared(200), Amortized, batch), batch)
    flow, error = elbo(trained(Squared(200), AmortizedFlow, batch), batch)
    print(truth, normal, flow, error)
    assert normal + 0.3 < flow < truth + 3 * error
