"""Models of a user's own, as small as they come: global loadings, a latent for each row."""

from dataclasses import replace

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

import pyro_omics as po


class PoissonFactors(po.models.CountModel):
    """x_ng ~ Poisson(l_n * softmax(z_n W)_g), W_kg ~ Normal(0, 1)."""

    local_sites = ("z",)

    def __init__(self, n_obs: int, n_genes: int, n_latent: int = 3):
        super().__init__(n_obs=n_obs)
        self.n_genes, self.n_latent = n_genes, n_latent
        self.prior = po.priors.StandardNormal(n_latent)

    def forward(self, batch):
        W_kg = pyro.sample("W", dist.Normal(torch.zeros(self.n_latent, self.n_genes), 1.0).to_event(2))
        with self.plate(batch):
            z_nk = pyro.sample("z", self.prior())
            rho_ng = torch.softmax(z_nk @ W_kg, -1)
            pyro.sample("x", dist.Poisson(batch.x.sum(-1, keepdim=True) * rho_ng + 1e-8).to_event(1), obs=batch.x)


class CountFactors(po.models.CountModel):
    """x_n ~ likelihood(l_n * softmax(z_n W)), W_kg ~ Normal(0, 1), with any prior over z and any likelihood."""

    local_sites = ("z",)

    def __init__(self, sizes, n_latent: int = 3, prior=None, likelihood=None):
        super().__init__(n_obs=sizes.n_obs)
        self.sizes = replace(sizes, n_latent=n_latent)
        self.prior = po.priors.StandardNormal() if prior is None else prior
        self.likelihood = po.likelihoods.Poisson() if likelihood is None else likelihood
        for part in (self.prior, self.likelihood):
            part.build(self.sizes)
        heads = {name: PyroModule[nn.Linear](n_latent, sizes.n_genes) for name in self.likelihood.heads}
        self.heads = PyroModule[nn.ModuleDict](heads)
        self.prior.attach(self)

    def forward(self, batch):
        shape = self.sizes.n_latent, self.sizes.n_genes
        W_kg = pyro.sample("W", dist.Normal(torch.zeros(shape), 1.0).to_event(2))
        with self.plate(batch):
            z_nk = self.prior.transform(pyro.sample("z", self.prior(batch)))
            mean_ng = batch.x.sum(-1, keepdim=True) * torch.softmax(po.layers.row_product(z_nk, W_kg), -1)
            heads = {name: head(z_nk) for name, head in self.heads.items()}
            pyro.sample("x", self.likelihood(mean_ng, heads, batch), obs=batch.x)
