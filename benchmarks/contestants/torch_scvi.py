"""scVI by hand, in torch alone: the limit without a probabilistic language. python torch_scvi.py FILE.h5ad [--fast]

The mathematics and the network of pyro_omics' SCVI: ZINB, one hidden layer of 128, 10 latents, KL in closed form, Adam.
The likelihood is the usual one of the field; with --fast it is pyro_omics' row-reduced kernel."""

import argparse
import contextlib

from gate import Finished, Gate

parser = argparse.ArgumentParser()
parser.add_argument("data")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--fast", action="store_true", help="the likelihood by pyro_omics' kernels")
options = parser.parse_args()

import anndata  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

torch.set_num_threads(options.threads)
torch.manual_seed(0)
BATCH, HIDDEN, LATENT, EPS = 128, 128, 10, 1e-8
adata = anndata.read_h5ad(options.data)
counts = adata.X.tocsr().astype(np.float32)
training = np.flatnonzero(~adata.obs["held_out"].to_numpy())
n, n_genes = len(training), adata.n_vars


def layer(n_in):
    return nn.Sequential(nn.Linear(n_in, HIDDEN), nn.BatchNorm1d(HIDDEN, eps=1e-3, momentum=0.01), nn.ReLU())


class Loop(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Sequential(layer(n_genes), nn.Dropout(0.1)), layer(LATENT)
        self.loc, self.log_var = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)
        self.rho, self.gate = nn.Linear(HIDDEN, n_genes), nn.Linear(HIDDEN, n_genes)
        self.log_theta = nn.Parameter(torch.randn(n_genes))

    def forward(self, x, weight):
        hidden = self.encoder(torch.log1p(x))
        loc, var = self.loc(hidden), self.log_var(hidden).exp() + 1e-4
        z = loc + var.sqrt() * torch.randn_like(loc)
        kl = 0.5 * (loc.square() + var - var.log() - 1).sum(-1)
        hidden = self.decoder(z)
        mu = x.sum(-1, keepdim=True) * torch.softmax(self.rho(hidden), -1)
        return (weight * kl - log_zinb(x, mu, self.log_theta.exp(), self.gate(hidden))).mean()


def usual(x, mu, theta, gate):
    """The field's form (scvi-tools' log_zinb_positive)."""
    softplus = functional.softplus(-gate)
    log_theta = torch.log(theta + EPS)
    log_theta_mu = torch.log(theta + mu + EPS)
    to_zero = -gate + theta * (log_theta - log_theta_mu)
    zero = functional.softplus(to_zero) - softplus
    other = -softplus + to_zero + x * (torch.log(mu + EPS) - log_theta_mu)
    other = other + torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return torch.where(x < EPS, zero, other).sum(-1)


log_zinb = usual
if options.fast:
    from pyro_omics.distributions import ZeroInflatedNegativeBinomial

    def log_zinb(x, mu, theta, gate):
        return ZeroInflatedNegativeBinomial(mu, theta, gate, validate_args=False).to_event(1).log_prob(x)


def main():
    gate, loop = Gate(), Loop()
    adam = torch.optim.Adam(loop.parameters(), lr=1e-3, eps=0.01)
    rng = np.random.default_rng(0)
    step = 0
    while True:
        gate.wait()
        order = training[rng.permutation(n)]
        for start in range(0, n, BATCH):
            step += 1
            x = torch.from_numpy(counts[order[start : start + BATCH]].toarray())
            adam.zero_grad()
            loop(x, min(1.0, step / (10 * n / BATCH))).backward()
            adam.step()
        gate.done(steps=-(-n // BATCH))


with contextlib.suppress(Finished):
    main()
