"""The Laplace approximation of global latents, where the posterior is known."""

from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from anndata import AnnData
from helpers import quiet_trainer
from pyro.infer.autoguide import AutoLaplaceApproximation
from pyro.infer.autoguide.initialization import init_to_value
from pyro.optim.clipped_adam import ClippedAdam

import pyro_omics as po

LAPLACE = partial(po.guides.Amortized, rest=AutoLaplaceApproximation)


class Rate(po.models.CountModel):
    """x_n ~ Poisson(rate), rate ~ Gamma(2, 1): log rate has its mode at log(a / b), and curvature a there."""

    def __init__(self, n_obs, n_genes):
        super().__init__(n_obs=n_obs)
        self.n_genes = n_genes

    def forward(self, batch):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with self.plate(batch):
            pyro.sample("x", dist.Poisson(rate.expand(batch.x.shape)).to_event(1), obs=batch.x)


@pytest.fixture(scope="module")
def fitted():
    x = np.random.default_rng(0).poisson(3.0, (200, 1)).astype(np.float32)
    dm = po.CellDataModule(AnnData(x), batch_size=64, validation_size=0.0)  # the last minibatch is of 8
    torch.manual_seed(0)
    svi = po.SVIModule(Rate.from_data(dm), LAPLACE, optimizer=partial(ClippedAdam, lr=0.05, lrd=0.99))
    quiet_trainer(150).fit(svi, dm)
    return svi, dm, 2 + x.sum(), 1 + len(x)


def test_it_is_the_known_normal(fitted):
    svi, dm, a, b = fitted
    log_rate = np.log(po.Posterior(svi, dm).samples("rate", num_samples=4000).to_numpy())
    assert log_rate.mean() == pytest.approx(np.log(a / b), abs=0.01)
    assert log_rate.std() == pytest.approx(a**-0.5, rel=0.05)
    assert float(svi.guide.rest.scale_tril) == pytest.approx(a**-0.5, rel=0.01)


def test_the_elbo_is_a_bound_then(fitted):
    svi, dm, a, b = fitted
    x = dm.data[dm.rows()].x
    log_gamma = torch.lgamma(torch.tensor(float(a)))
    evidence = float(log_gamma - a * np.log(b) - torch.lgamma(x + 1).sum())
    svi.eval()
    elbo = np.mean([-svi.elbo(dm.data[dm.rows()]).item() for _ in range(300)])
    assert evidence - 0.05 < elbo < evidence + 0.02


def test_it_is_saved(fitted, tmp_path):
    svi, dm, a, _ = fitted
    again = po.load(svi.save(tmp_path / "model"), model=Rate, guide=LAPLACE)
    torch.testing.assert_close(again.guide.rest.scale_tril, svi.guide.rest.scale_tril)
    assert np.log(po.Posterior(again, dm).samples("rate", num_samples=500).to_numpy()).std() > 0.5 * a**-0.5


def test_latent_weights_get_a_posterior_and_what_is_no_maximum_is_said():
    adata, _ = po.simulate.cells(n_obs=60, n_genes=5, seed=0)
    dm = po.CellDataModule(adata, batch_size=30, validation_size=0.0)
    torch.manual_seed(0)
    likelihood = po.likelihoods.NegativeBinomial()
    model = po.bayesianize(po.SCVI.from_data(dm, n_latent=2, n_hidden=4, likelihood=likelihood), "likelihood")
    svi = po.SVIModule(model, LAPLACE)
    with pytest.warns(UserWarning, match="in . of 5 directions .* not at a maximum"):
        svi.guide.rest.approximate(lambda batch: -svi.guide.rest.loc.square().sum(), [(None, 60)])
    quiet_trainer(5).fit(svi, dm)
    draws = po.Posterior(svi, dm).samples("likelihood.dispersion.log_theta", num_samples=300).to_numpy()
    assert (draws.std(0) > 0.02).all()


def through_a_function(program):
    return AutoLaplaceApproximation(program, init_loc_fn=init_to_value(values={"rate": torch.tensor(3.0)}))


@pytest.mark.parametrize(
    "rest",
    [
        through_a_function,
        partial(AutoLaplaceApproximation, init_loc_fn=init_to_value(values={"rate": torch.tensor(3.0)})),
        partial(lambda kind, program, **options: kind(program, **options), AutoLaplaceApproximation,
                init_loc_fn=init_to_value(values={"rate": torch.tensor(3.0)})),
    ],
    ids=["function", "partial", "class in a partial"],
)  # fmt: skip
def test_whatever_makes_it_it_is_completed_and_starts_where_it_was_told(rest):
    """jsonargparse hands the class over among the arguments of a partial of its own."""
    dm = po.CellDataModule(AnnData(np.full((20, 1), 3.0, np.float32)), batch_size=10, validation_size=0.0)
    svi = po.SVIModule(Rate.from_data(dm), partial(po.guides.Amortized, rest=rest))
    assert svi.guide.rest.loc.item() == pytest.approx(np.log(3.0))
    quiet_trainer(1).fit(svi, dm)
    # The posterior is Gamma(62, 21), whose curvature in log rate is 21 rate: 62 at the mode, next to which it began.
    assert float(svi.guide.rest.scale_tril) == pytest.approx((21 * svi.guide.rest.loc.exp().item()) ** -0.5, rel=1e-3)
