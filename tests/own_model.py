"""A model of a user's own, as small as they come: global loadings, a latent for each row."""

import pyro
import pyro.distributions as dist
import torch

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
