"""Tables over a posterior (compounds, hits, synthons), and `DELCount`, where the truth is known."""

import inspect
import logging
import math

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import pytorch_lightning as pl
import torch
from scipy import stats

import pyro_omics as po
from pyro_omics.posterior import enrichment


def train(svi, dm, epochs):
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(svi, dm)
    return po.Posterior(svi, dm)


@pytest.fixture
def posterior(fitted_hierarchical_del):
    return po.Posterior(*fitted_hierarchical_del)


@pytest.mark.slow
def test_enrichment_summarises_draws_of_the_compounds_own_effect(posterior):
    table = posterior.enrichment(num_samples=40)
    assert list(table.index) == list(posterior.dm.adata.obs_names)
    draws = np.log1p(posterior.samples("own", num_samples=40).to_numpy())  # the same: from the same seed
    np.testing.assert_allclose(table["log_enrichment"], draws.mean(0), rtol=1e-5, atol=1e-6)
    for column, p in (("lower", 0.05), ("median", 0.5), ("upper", 0.95)):
        expected = np.quantile(draws, p, axis=0, method="weibull")
        np.testing.assert_allclose(table[column], expected, rtol=1e-5, atol=1e-6)
    others = np.log1p(posterior.samples("own", num_samples=400, seed=1).to_numpy())
    np.testing.assert_allclose(table["p_enriched"], (others > math.log(2)).mean(0), atol=0.1)
    assert (table["lower"] <= table["median"]).all() and (table["median"] <= table["upper"]).all()
    assert (table["log_tag"] >= 0).all()
    fourfold = posterior.enrichment(threshold=math.log(4), num_samples=20)
    assert (fourfold["p_enriched"] <= table["p_enriched"] + 0.05).all()
    pd.testing.assert_frame_equal(posterior.enrichment(threshold=math.log(4), num_samples=20), fourfold)


def test_classical_scores_stand_beside(posterior):
    table, adata = posterior.enrichment(num_samples=2), posterior.dm.adata
    np.testing.assert_allclose(table["z_score"], po.baselines.normalized_z_score(adata))
    np.testing.assert_allclose(table["poly_o"], po.baselines.poly_o(adata))
    np.testing.assert_allclose(table["ratio_lower"], po.baselines.enrichment_ratio(adata)["lower"])


def test_hits_keep_their_expected_rate(posterior):
    whole = posterior.enrichment(num_samples=30)
    lists = {fdr: posterior.hits(fdr=fdr, num_samples=30) for fdr in (0.05, 0.2, 0.5)}
    for fdr, table in lists.items():
        assert (1 - table["p_enriched"]).mean() <= fdr
        assert table["p_enriched"].is_monotonic_decreasing
        rest = whole.drop(table.index)
        longer = [*table["p_enriched"], rest["p_enriched"].max()]
        assert 1 - np.mean(longer) > fdr, "the list could be longer"
        np.testing.assert_allclose(table["fdr"], (1 - table["p_enriched"]).expanding().mean(), rtol=1e-5)
    assert set(lists[0.05].index) <= set(lists[0.2].index) <= set(lists[0.5].index)
    with pytest.raises(ValueError, match=r"fdr must be a rate between 0 and 1, .* got 10"):
        posterior.hits(fdr=10)


def test_synthons_average_their_compounds(posterior):
    table = posterior.synthons(["B"], num_samples=30)
    assert len(table) == 5 and (table["n_compounds"] == 24).all()
    assert table["log_enrichment"].is_monotonic_decreasing
    adata = posterior.dm.adata
    counts = adata[:, adata.var["condition"] == "target"].X.sum(1)
    expected = pd.Series(np.asarray(counts).ravel(), adata.obs["B"]).groupby(level=0).sum()
    assert (table["counts"].droplevel("cycle") == expected.loc[table.index.get_level_values("synthon")]).all()
    own = posterior.samples("own", num_samples=30).to_numpy().mean(0)
    mean = pd.Series(own, adata.obs["B"]).groupby(level=0).mean()
    np.testing.assert_allclose(np.expm1(table["own"].droplevel("cycle")), mean.loc[table.index.droplevel(0)], atol=0.3)
    assert len(posterior.synthons(num_samples=2)) == 4 + 5 + 6
    pairs = posterior.synthons(["A", "C"], num_samples=2)
    assert pairs.index.names == ["A", "C"] and (pairs["n_compounds"] == 5).all()
    with pytest.raises(ValueError, match=r"keys must be among the cycles \['A', 'B', 'C'\]; got \['Z'\]"):
        posterior.synthons(["Z"])
    with pytest.raises(ValueError, match=r"keys must have each name once; got 'C' twice"):
        posterior.synthons(["C", "C"])
    assert "false discovery rate" in posterior.hits.__doc__ and "fdr" in inspect.signature(posterior.hits).parameters
    with pytest.raises(ValueError, match="keys must be a list of names; got the text 'AB'"):
        posterior.synthons("AB")


def test_shallow_sequencing_is_said():
    adata, _ = po.simulate.del_library(cycles=(6, 6, 6), depth=0.05, seed=0)
    dm = po.DELDataModule(adata)
    own = po.Posterior(po.SVIModule(po.HierarchicalDEL.from_data(dm)), dm)
    fold = enrichment.detectable(dm)
    mean = sum(dm.sizes.depth)
    needed = next(k for k in range(100) if stats.poisson.sf(k - 1, mean) < 0.1 / adata.n_obs)
    assert stats.poisson.sf(needed - 1, fold * mean) == pytest.approx(0.5, abs=1e-6)
    with pytest.warns(UserWarning, match=rf"too shallow for a hit list.*about {fold:.0f}-fold"):
        own.hits(num_samples=2)


def test_a_list_without_controls_says_what_is_in_it():
    adata, _ = po.simulate.del_library(cycles=(5, 5, 5), depth=8.0, n_control=0, seed=0)
    dm = po.DELDataModule(adata)
    with pytest.warns(UserWarning, match="no control selections: compounds that bind the matrix"):
        po.Posterior(po.SVIModule(po.HierarchicalDEL.from_data(dm)), dm).hits(num_samples=2)


def test_other_models_have_no_hit_list():
    adata, _ = po.simulate.cells(n_obs=50, n_genes=10)
    dm = po.CellDataModule(adata)
    cells = po.Posterior(po.SVIModule(po.SCVI.from_data(dm, n_latent=2, n_hidden=4)), dm)
    for table in (cells.enrichment, cells.hits, cells.synthons):
        with pytest.raises(
            ValueError, match=rf"{table.__name__} must be .*'log_enrichment'; got SCVI, which has \['norm"
        ):
            table()


# DELCount -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rates():
    """A library whose target and matrix rates are functions of its features, with its rates."""
    rng = np.random.default_rng(0)
    adata, _ = po.simulate.del_library(cycles=(12, 12, 12), n_target=2, n_control=2, seed=0)
    features = rng.normal(size=(adata.n_obs, 6)).astype(np.float32)
    matrix = np.exp(0.5 * features[:, 0] - 0.125)
    target = np.exp(1.2 * features[:, 1] + 0.8 * features[:, 2] - 1.0)
    expected = np.stack([matrix + target] * 2 + [matrix] * 2, 1) * np.array([4.0, 8.0, 5.0, 5.0])
    kept = rng.random(expected.shape) >= 0.2
    adata.X = (rng.poisson(expected) * kept).astype(np.float32)
    adata.obsm["features"] = features
    return adata, matrix, target


def test_del_count_recovers_rates_and_gates(rates, caplog):
    adata, matrix, target = rates
    torch.manual_seed(0)
    dm = po.DELDataModule(adata, feature_key="features", batch_size=128)
    with caplog.at_level(logging.INFO, logger="pytorch_lightning"):
        svi = po.SVIModule(po.DELCount.from_data(dm, n_hidden=32, dropout=0.0))
    assert "DELCount has no latent variables: training is maximum likelihood" in caplog.text
    posterior = train(svi, dm, 80)
    table = posterior.enrichment(num_samples=50)
    assert stats.spearmanr(table["log_enrichment"], target).statistic > 0.95
    assert np.corrcoef(posterior.query("matrix_binding").iloc[:, 0], np.log(matrix))[0, 1] > 0.95
    gates = torch.sigmoid(svi.model.target.heads["dropout_logits"]).detach()
    assert torch.allclose(gates, torch.full((2,), 0.2), atol=0.06)
    # Without latents an interval is a point, and a probability certain.
    assert (table["lower"] == table["upper"]).all()
    assert set(table["p_enriched"]) <= {0.0, 1.0}
    hits = posterior.hits(fdr=0.3)
    assert set(hits.index) == set(table.index[table["log_enrichment"] > math.log(2)])


@pytest.mark.slow
def test_del_count_attends_to_the_pose_that_counts():
    rng = np.random.default_rng(1)
    adata, _ = po.simulate.del_library(cycles=(12, 12, 12), n_target=2, n_control=1, seed=0)
    poses = rng.normal(size=(adata.n_obs, 3, 4)).astype(np.float32)
    marked = rng.integers(0, 3, adata.n_obs)
    poses[..., 0] = 0
    poses[np.arange(adata.n_obs), marked, 0] = 3.0  # the pose that binds
    target = np.exp(1.5 * poses[np.arange(adata.n_obs), marked, 1] - 0.5)
    adata.X = rng.poisson(5.0 * np.stack([1 + target, 1 + target, np.ones(adata.n_obs)], 1)).astype(np.float32)
    adata.obsm["poses"] = poses
    torch.manual_seed(0)
    dm = po.DELDataModule(adata, pose_key="poses", batch_size=128)
    svi = po.SVIModule(po.DELCount.from_data(dm, n_hidden=32, dropout=0.0, likelihood=po.likelihoods.Poisson()))
    posterior = train(svi, dm, 60)
    score = posterior.enrichment()["log_enrichment"]
    assert stats.spearmanr(score, target).statistic > 0.8
    model, batch = svi.model, dm.data[dm.rows()]
    weights = model.attention.weights(torch.relu(model.pose(batch.poses))).detach().numpy()
    assert (weights.argmax(1) == marked).mean() > 0.8


@pytest.mark.slow
def test_latent_depths_have_their_prior_and_are_found(rates):
    adata, *_ = rates
    torch.manual_seed(0)
    dm = po.DELDataModule(adata, feature_key="features", batch_size=256)
    svi = po.SVIModule(po.DELCount.from_data(dm, n_hidden=16, latent_depth=True))
    posterior = train(svi, dm, 80)
    depth = posterior.samples("depth", num_samples=200)
    assert tuple(depth.coords["target"].values) == dm.schema.targets
    ratio = float((depth[:, 1] / depth[:, 0]).median())
    assert ratio == pytest.approx(2.0, rel=0.15)


# GammaMeanField -----------------------------------------------------------------------------------------------------


def test_a_gamma_mean_field_reaches_the_evidence_of_a_conjugate_model():
    """x_n ~ Poisson(rate), rate ~ Gamma(2, 1): the posterior is a Gamma, and the ELBO the log evidence."""
    x = torch.tensor([3.0, 5.0, 2.0, 4.0, 6.0])

    def model(batch):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Poisson(rate).expand([5]).to_event(1), obs=batch)

    guide = po.guides.GammaMeanField(model)
    guide(x)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.02)
    loss = pyro.infer.Trace_ELBO(num_particles=8)
    torch.manual_seed(0)
    for _ in range(400):
        optimizer.zero_grad()
        loss.differentiable_loss(model, guide, x).backward()
        optimizer.step()
    fn = guide.factor("rate")()
    assert fn.mean.item() == pytest.approx((2 + 20) / (1 + 5), rel=0.05)
    assert fn.variance.item() == pytest.approx((2 + 20) / (1 + 5) ** 2, rel=0.15)
    evidence = float(
        torch.lgamma(torch.tensor(22.0)) - 22 * math.log(6.0) - torch.lgamma(x + 1).sum()
    )  # Gamma(2) = 1, rate 1
    elbo = -np.mean([loss.loss(model, guide, x) for _ in range(50)])
    assert elbo == pytest.approx(evidence, abs=0.02)


def test_a_gamma_mean_field_has_no_held_out_rows():
    adata, _ = po.simulate.del_library(cycles=(4, 4, 4), seed=0)
    dm = po.DELDataModule(adata, validation_indices=[1, 2])
    svi = po.SVIModule(po.HierarchicalDEL.from_data(dm), guide=po.guides.GammaMeanField)
    with pytest.raises(ValueError, match=r"parameters of \['matrix', 'own'\] for the 62 training rows"):
        svi(dm.data[[1]])


@pytest.mark.slow
def test_a_mean_field_of_compounds_finds_what_the_conditional_one_does():
    """Both guides order the compounds of a library alike; the mean-field one is narrower, by a lower ELBO."""
    adata, _ = po.simulate.del_library(cycles=(7, 7, 7), depth=8.0, seed=5)
    dm = po.DELDataModule(adata, batch_size=128)
    found = {}
    for guide in (po.guides.Conditional, po.guides.GammaMeanField):
        torch.manual_seed(0)
        svi = po.SVIModule(po.HierarchicalDEL.from_data(dm), guide=guide, kl_warmup_epochs=10)
        posterior = train(svi, dm, 30)
        found[guide] = posterior.enrichment(num_samples=20)["log_enrichment"], posterior.elbo(num_samples=5).mean()
    scores = [score for score, _ in found.values()]
    assert np.corrcoef(*scores)[0, 1] > 0.3
    assert found[po.guides.Conditional][1] > found[po.guides.GammaMeanField][1]
