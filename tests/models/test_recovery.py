"""Simulated from a model's own generative story, and fitted again."""

from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
from pyro.optim.clipped_adam import ClippedAdam
from scipy.stats import nbinom
from sklearn.metrics import roc_auc_score
from torch.optim.lr_scheduler import MultiStepLR

import pyro_omics as po

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture(scope="module")
def refitted():
    adata, truth = po.simulate.cells(n_obs=5000, n_genes=60, signal=0.3, seed=1)
    pl.seed_everything(0, verbose=False)
    dm = po.CellDataModule(adata, validation_size=0.1)
    model = po.SCVI.from_data(dm, n_latent=5, n_hidden=64, likelihood=po.likelihoods.NegativeBinomial())
    # log_theta moves by about the learning rate in a step: fast first, then fine.
    svi = po.SVIModule(
        model,
        optimizer=partial(ClippedAdam, lr=5e-3, eps=0.01),
        scheduler=partial(MultiStepLR, milestones=[48, 68], gamma=0.1),
    )
    pl.Trainer(max_epochs=80, accelerator="cpu", **QUIET).fit(svi, dm)
    return po.Posterior(svi, dm), truth


@pytest.mark.slow
def test_gene_means_come_back(refitted):
    posterior, truth = refitted
    fitted = posterior.normalized_expression(library_size=None, num_samples=10).mean(0).to_numpy()
    often = truth["mean"].mean(0) > 0.5
    assert np.abs(fitted / truth["mean"].mean(0) - 1)[often].max() < 0.05


@pytest.mark.slow
def test_dispersions_come_back(refitted):
    posterior, truth = refitted
    log_theta = posterior.model.likelihood.dispersion.log_theta.detach().numpy()
    often = truth["mean"].mean(0) > 0.5
    assert np.corrcoef(log_theta[often], np.log(truth["theta"])[often])[0, 1] > 0.9


@pytest.mark.slow
def test_the_fit_reaches_the_truth_s_own_score(refitted):
    """The held-out likelihood of the fit, against that of the counts given the true means: z is known there."""
    posterior, truth = refitted
    rows = posterior.dm.rows("validation")
    theta, mean = truth["theta"], truth["mean"][rows]
    known = nbinom(theta, theta / (theta + mean)).logpmf(np.asarray(posterior.dm.adata.X)[rows]).sum(1).mean()
    fitted = posterior.log_likelihood("validation", num_particles=100).mean()
    # Not knowing z costs the fit its information, some nats for each of 5 dimensions; knowing the model saves none.
    assert known - 25 < fitted < known


# totalVI --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refitted_proteins():
    adata, truth = po.simulate.citeseq(n_obs=4000, n_genes=60, n_proteins=8, n_batches=3, separation=2.0, seed=2)
    pl.seed_everything(0, verbose=False)
    dm = po.CellDataModule(adata, batch_key="batch", protein_obsm_key="protein_counts", validation_size=0.1)
    # One background for all batches, or it and the efficiencies could take each other's place.
    model = po.TotalVI.from_data(dm, n_latent=5, n_hidden=64, background=po.proteins.Background(shared=True))
    svi = po.SVIModule(model, scheduler=partial(MultiStepLR, milestones=[40, 55], gamma=0.2))
    pl.Trainer(max_epochs=60, accelerator="cpu", **QUIET).fit(svi, dm)
    return po.Posterior(svi, dm), truth


@pytest.mark.slow
def test_foreground_calls_come_back(refitted_proteins):
    """Two standard deviations apart, counts alone reach 0.92: the cell's state, seen in its RNA, says the rest."""
    posterior, truth = refitted_proteins
    called = posterior.protein_foreground_probability().to_numpy()
    by_model = [roc_auc_score(truth["foreground"][:, t], called[:, t]) for t in range(called.shape[1])]
    y = posterior.dm.adata.obsm["protein_counts"].to_numpy()
    by_count = [roc_auc_score(truth["foreground"][:, t], y[:, t]) for t in range(called.shape[1])]
    assert np.mean(by_count) < 0.93
    assert min(by_model) > 0.97


@pytest.mark.slow
def test_efficiencies_come_back(refitted_proteins):
    posterior, truth = refitted_proteins
    e = posterior.samples("efficiency", num_samples=200)
    found, true = np.log(e.mean("sample").values), np.log(truth["efficiency"])
    log_ratio, true_ratio = found - found.mean(0), true - true.mean(0)
    assert np.abs(log_ratio - true_ratio).max() < 0.1


@pytest.mark.slow
def test_background_means_come_back(refitted_proteins):
    posterior, truth = refitted_proteins
    background = posterior.protein_background().to_numpy()
    ours = np.log(background).mean(0)
    true = np.log(truth["background"]).mean(0)
    assert np.abs(ours - true).max() < 0.2
    assert np.corrcoef(ours, true)[0, 1] > 0.95
