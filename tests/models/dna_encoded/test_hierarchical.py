"""HierarchicalDEL where the truth is known: its quadrature, its start, its answers, and its simulator."""

import itertools
import math
import os
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import pytorch_lightning as pl
import torch
from pyro import poutine
from scipy import integrate, stats
from sklearn.metrics import average_precision_score

import pyro_omics as po
from pyro_omics.distributions.quadrature import Quadrature
from pyro_omics.models.dna_encoded.coordinate_ascent import CoordinateAscent, CountTotals
from pyro_omics.models.dna_encoded.superposition import amount, entries, member_sums, outer, truncates
from pyro_omics.sites import latent_values


def fitted(adata, epochs, **options):
    torch.manual_seed(0)
    dm = po.DELDataModule(adata)
    svi = po.SVIModule(po.HierarchicalDEL.from_data(dm, **options))
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(svi, dm)
    return svi, po.Posterior(svi, dm)


# Quadrature ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 2, 7, 60])
@pytest.mark.parametrize("shape", [0.02, 0.3, 0.9])
def test_quadrature_against_numerical_integration(count, shape):
    """The evidence, the distribution function and draws of g, for Poisson counts of mean 3 (1 + g)."""
    adata, _ = po.simulate.del_library(cycles=(2, 2), n_target=2, n_control=0, seed=0)
    dm = po.DELDataModule(adata)
    model = po.HierarchicalDEL.from_data(
        dm, own=po.effects.SparseGamma(shape, 1.0), order=0, likelihood=po.likelihoods.Poisson()
    )
    batch = dm.data[[0]]._replace(x=torch.tensor([[float(count), 0.0]]))
    latents = {"depth": torch.tensor([3.0, 1e-6])}
    with torch.no_grad():
        found = model.conditional("own", batch, latents)
        evidence, log_prob = found.log_evidence, found.log_prob(torch.tensor([0.7]))

    def density(g):
        return math.exp(stats.poisson.logpmf(count, 3 * (1 + g)) + stats.gamma.logpdf(g, shape, scale=1 / shape))

    def below(t):
        # In u = g^shape the density has no pole at 0.
        jacobian = lambda u: density(u ** (1 / shape)) * u ** (1 / shape - 1) / shape if u else 0.0  # noqa: E731
        cuts = [0, *sorted(min(max(p, 1e-8) ** shape, t**shape) for p in (1e-6, 1e-3, 0.1, 1, 5, 15, 30)), t**shape]
        return sum(integrate.quad(jacobian, a, b, limit=200)[0] for a, b in itertools.pairwise(cuts) if b > a)

    total = below(200.0)
    assert float(evidence) == pytest.approx(math.log(total), abs=0.02)
    draws = found.rsample((20_000,)).squeeze(-1)
    for t in (0.01, 0.5, 1.0, 3.0, 15.0):
        assert float(found.cdf(t)) == pytest.approx(below(t) / total, abs=0.02)
        assert float((draws <= t).float().mean()) == pytest.approx(below(t) / total, abs=0.03)
    assert float(log_prob) == pytest.approx(math.log(density(0.7) / total), abs=0.03)


def test_the_evidence_is_the_same_whatever_is_drawn():
    """log p(x, m, g) - log q(m, g) is one number, the log evidence of a compound's counts."""
    adata, _ = po.simulate.del_library(cycles=(6, 5, 4), seed=1)
    dm = po.DELDataModule(adata)
    svi = po.SVIModule(po.HierarchicalDEL.from_data(dm))
    batch = dm.data[np.arange(dm.n_obs)]
    shared = latent_values(poutine.trace(svi.guide.rest).get_trace(batch))
    weights = []
    for _ in range(8):
        guide = poutine.trace(poutine.condition(svi.guide, shared)).get_trace(batch)
        values = latent_values(guide)
        model = poutine.trace(poutine.condition(svi.model, {**shared, **values})).get_trace(batch)
        guide.compute_log_prob()
        model.compute_log_prob()
        log_q = sum(guide.nodes[name]["unscaled_log_prob"] for name in ("matrix", "own"))
        log_p = sum(model.nodes[name]["unscaled_log_prob"] for name in ("matrix", "own", "x_control", "x"))
        weights.append(log_p - log_q)
    assert torch.stack(weights).std(0).mean() < 0.05


def test_quadrature_of_two_latents_against_a_grid():
    """The evidence with matrix binding, whose sum over own effects is nested, against one fine grid of both."""
    adata, _ = po.simulate.del_library(cycles=(4, 4), seed=2)
    dm = po.DELDataModule(adata)
    model = po.HierarchicalDEL.from_data(dm, own=po.effects.SparseGamma(0.5, 2.0), matrix=po.effects.SparseGamma(0.5))
    batch = dm.data[np.arange(16)]
    latents = latent_values(poutine.trace(po.SVIModule(model).guide.rest).get_trace(batch))
    latents |= {"depth": torch.tensor([2.0, 5.0, 8.0]), "control_depth": torch.tensor([1.5, 6.0])}
    # In u = g^(1/2), where the priors are flat near 0.
    u = torch.linspace(0, 8, 801)[1:] - 0.005
    own, matrix = (u**2)[:, None, None], (u**2)[None, :, None]
    exposure = model.exposure(batch, latents)
    rest = model.truncate_rates(batch, latents) + 1
    target = exposure * (rest + matrix + model.full_amount(batch, latents) * own)
    log_joint = model.own().log_prob(own) + model.matrix().log_prob(matrix)
    log_joint = log_joint + model.target((latents["depth"] * target[..., None]), batch).log_prob(batch.x)
    control = latents["control_depth"] * (exposure * (1 + matrix))[..., None]
    log_joint = log_joint + model.control(control, batch).log_prob(batch.control)
    jacobian = (2 * u).log()[:, None, None] + (2 * u).log()[None, :, None]
    weight = log_joint + jacobian + 2 * math.log(0.01)
    exact = weight.flatten(0, 1).logsumexp(0)
    assert torch.allclose(model.conditional("matrix", batch, latents).log_evidence, exact, atol=0.1)
    above = (weight.masked_fill(own <= 1, -torch.inf).flatten(0, 1).logsumexp(0) - exact).exp()
    assert torch.allclose(model.p_enriched(batch, latents).squeeze(-1), above, atol=0.015)
    assert above.max() > 0.2


def test_quadrature_is_differentiable_in_the_prior():
    """The gradient of the evidence in the prior's shape and mean, against finite differences."""
    prior = po.effects.SparseGamma(0.3, 1.0).double()
    prior.build(None)
    prior = prior.double()
    edges = torch.tensor([[0.0, *np.geomspace(1e-3, 60, 60)]], dtype=torch.float64)

    def evidence():
        log_joint = lambda g: prior().log_prob(g) + dist.Poisson(2 * (1 + g)).log_prob(torch.tensor(5.0))  # noqa: E731
        return Quadrature(edges, log_joint, prior.concentration).log_evidence.sum()

    evidence().backward()
    for parameter in (prior.log_mean, prior.logit_shape):
        with torch.no_grad():
            parameter += 1e-4
            above = evidence()
            parameter -= 2e-4
            difference = (above - evidence()) / 2e-4
            parameter += 1e-4
        assert float(parameter.grad) == pytest.approx(float(difference), rel=0.05, abs=1e-3)


# Superposition ------------------------------------------------------------------------------------------------------


def test_shares_of_all_products_sum_to_one():
    yields = [torch.rand(7) for _ in range(3)]
    every = [(), *truncates(3), (0, 1, 2)]
    assert torch.allclose(sum(amount(s, yields) for s in every), torch.ones(7))


def test_sums_over_members():
    factors = [torch.rand(n) for n in (2, 3, 4)]
    whole = outer(factors)
    assert torch.allclose(member_sums((0, 2), factors), whole.sum(1))
    assert torch.allclose(member_sums((1,), factors), whole.sum((0, 2)))
    codes = torch.tensor([[1, 2, 3], [0, 0, 1]])
    assert torch.equal(entries(whole, (0, 1, 2), codes), whole[[1, 0], [2, 0], [3, 1]])
    assert torch.equal(entries(whole[0], (1, 2), codes), whole[0][[2, 0], [3, 1]])


# Coordinate ascent --------------------------------------------------------------------------------------------------


def truncated_library(seed=0, n=15):
    """One Poisson sample before and one after a selection in which truncates hide what binds by itself."""
    rng = np.random.default_rng(seed)
    adata, _ = po.simulate.del_library(cycles=(n, n, n), n_target=1, n_control=0, n_pre=1)
    yields = [rng.normal(0.72, 0.06, n) for _ in range(3)]
    abundance = rng.lognormal(0, 0.2, n)[:, None, None] * rng.lognormal(0, 0.2, n)[:, None]
    total, own = np.zeros((n, n, n)), None
    for subset in [*truncates(3), (0, 1, 2)]:
        log10_k = 2 + np.abs(rng.normal(0, 1.5, [n if i in subset else 1 for i in range(3)]))
        own = (1 + 10 ** (6 - log10_k)) ** -3
        shares = [np.where(i in subset, y, 1 - y) for i, y in enumerate(yields)]
        total += shares[0][:, None, None] * shares[1][:, None] * shares[2] * own
    rate = abundance * total
    counts = rng.poisson(10 * abundance / abundance.mean() * np.ones_like(rate)), rng.poisson(10 * rate / rate.mean())
    target, pre = adata.var["condition"] == "target", adata.var["condition"] == "pre-selection"
    adata.X = adata.X.toarray()
    adata.X[:, pre], adata.X[:, target] = counts[0].reshape(-1, 1), counts[1].reshape(-1, 1)
    return adata, own.ravel(), yields


@pytest.mark.filterwarnings("ignore:there is one target selection")
def test_coordinate_ascent_finds_what_binds_by_itself():
    adata, own, yields = truncated_library()
    dm = po.DELDataModule(adata)
    model = po.HierarchicalDEL.from_data(dm)
    fit = CoordinateAscent(model.superposition(), CountTotals(dm)).run(60)
    best = own >= np.quantile(own, 0.99)
    score = np.zeros(adata.n_obs)
    counted = np.asarray(adata.X.sum(1)).ravel() > 0
    score[counted] = (fit.own[0] / fit.own[1]).numpy()
    assert (
        average_precision_score(best, score)
        > 0.9
        > average_precision_score(best, dm.data[dm.rows()].x.squeeze(-1)) + 0.2
    )
    for i, cycle in enumerate("ABC"):
        assert np.corrcoef(fit.yields[i], yields[i])[0, 1] > 0.8, cycle


@pytest.mark.filterwarnings("ignore:there is one target selection")
def test_coordinate_ascent_splits_every_count():
    adata, *_ = truncated_library()
    dm = po.DELDataModule(adata)
    fit = CoordinateAscent(po.HierarchicalDEL.from_data(dm).superposition(), CountTotals(dm)).run(3)
    fit._split()
    background = fit.totals.x.sum() - fit.own_counts.sum() - sum(counts.sum() for counts in fit.counts.values())
    assert 0 < float(background) < float(fit.totals.x.sum())
    for subset, counts in fit.counts.items():
        for i in set(range(3)) - set(subset):
            assert float(fit.rest_counts[subset, i].sum()) == pytest.approx(float(counts.sum()))


def test_count_totals_hold_compounds_with_counts_only():
    adata, _ = po.simulate.del_library(cycles=(20, 20, 20), depth=0.02, n_target=1, n_control=1, seed=0)
    with pytest.warns(UserWarning, match="one target selection"):
        dm = po.DELDataModule(adata)
    totals = CountTotals(dm)
    assert len(totals.x) == int((adata.X.sum(1) > 0).sum()) < 0.1 * adata.n_obs
    assert float(totals.x.sum() + totals.control.sum()) == adata.X.sum()


def test_a_warm_start_starts_every_kind_of_guide():
    adata, _ = po.simulate.del_from_prior(cycles=(8, 8, 8), seed=0)
    dm = po.DELDataModule(adata)
    from pyro.infer.autoguide import AutoNormal

    found = {}
    for name, rest in (("gamma", None), ("normal", AutoNormal)):
        model = po.HierarchicalDEL.from_data(dm)
        svi = po.SVIModule(model, guide=lambda model, rest=rest: po.guides.Conditional(model, rest=rest))
        before = -svi(dm.data[dm.rows()]).item()
        model.warm_start(svi.guide, dm)
        after = -svi(dm.data[dm.rows()]).item()
        assert after > before + 0.1
        posterior = po.Posterior(svi, dm)
        found[name] = posterior.samples("abundance_A", num_samples=50).mean("sample").to_numpy()
    np.testing.assert_allclose(found["gamma"], found["normal"], rtol=0.1)


# The whole ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def selection():
    adata, truth = po.simulate.del_library(cycles=(12, 12, 12), depth=5.0, seed=3)
    svi, posterior = fitted(adata, 60)
    return adata, truth, svi, posterior, posterior.enrichment(num_samples=60)


@pytest.mark.slow
def test_it_ranks_above_the_classical_scores(selection):
    adata, truth, _, _, table = selection
    found = average_precision_score(truth["is_binder"], table["log_enrichment"])
    for score in (po.baselines.normalized_z_score(adata), po.baselines.poly_o(adata), table["ratio_lower"]):
        assert found > average_precision_score(truth["is_binder"], score) + 0.05


@pytest.mark.slow
def test_its_hits_and_intervals_are_near_what_they_say(selection):
    _, truth, _, posterior, table = selection
    value = truth["log_enrichment"]
    assert ((value >= table["lower"]) & (value <= table["upper"])).mean() > 0.85
    hits = posterior.hits(fdr=0.1, num_samples=20)
    assert len(hits) > 5
    assert 1 - truth["is_binder"].loc[hits.index].mean() < 0.25


@pytest.mark.slow
def test_its_posterior_predictive_covers_the_counts(selection):
    adata, _, _, posterior, _ = selection
    whole = posterior.predictive(num_samples=20)
    assert set(whole.data_vars) == {"x", "x_control"}
    assert list(whole["x_control"].coords["control"].values) == ["control_1", "control_2"]
    drawn = whole["x"]
    x = adata[:, adata.var["condition"] == "target"].X.toarray()
    assert list(drawn.coords["target"].values) == ["target_1", "target_2", "target_3"]
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    assert ((x >= low) & (x <= high)).mean() > 0.85


@pytest.mark.slow
def test_held_out_compounds_are_asked_as_training_ones_are():
    adata, truth = po.simulate.del_library(cycles=(10, 10, 10), depth=5.0, seed=4)
    torch.manual_seed(0)
    dm = po.DELDataModule(adata, validation_size=0.2)
    svi = po.SVIModule(po.HierarchicalDEL.from_data(dm))
    trainer = pl.Trainer(max_epochs=20, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(svi, dm)
    posterior = po.Posterior(svi, dm)
    elbo = {split: float(posterior.elbo(split).mean()) for split in ("training", "validation")}
    assert elbo["validation"] == pytest.approx(elbo["training"], abs=0.6)
    held, again = posterior.elbo("validation", num_samples=1), po.Posterior(svi, po.DELDataModule(adata)).elbo()
    difference = again.loc[held.index] - held
    assert abs(difference).max() < 0.3 and abs(difference.mean()) < 0.02, "among training rows they are worth the same"
    table = posterior.enrichment(num_samples=20, split="validation")
    assert list(table.index) == list(adata.obs_names[dm.rows("validation")])
    assert table["log_enrichment"].corr(truth["log_enrichment"].loc[table.index]) > 0.3


def test_it_says_what_it_was_not_given():
    adata, _ = po.simulate.del_library(cycles=(4, 4, 4), seed=0)
    dm = po.DELDataModule(adata)
    with pytest.raises(ValueError, match="order must be a number of building blocks, from 0 to 2 here; got 3"):
        po.HierarchicalDEL.from_data(dm, order=3)
    with pytest.raises(TypeError, match="own must be a SparseGamma"):
        po.HierarchicalDEL.from_data(dm, own="horseshoe")
    for wrong in ({"shape": 1.5}, {"mean": -1.0}, {"learned": ("rate",)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            po.effects.SparseGamma(**wrong)
    own = po.Posterior(po.SVIModule(po.HierarchicalDEL.from_data(dm)), dm)
    with pytest.raises(ValueError, match="threshold must be a log enrichment"):
        own.enrichment(threshold=-1.0, num_samples=2)


def test_one_replicate_is_taken_as_poisson_and_several_as_negative_binomial():
    adata, _ = po.simulate.del_library(cycles=(4, 4, 4), seed=0)
    with pytest.warns(UserWarning, match="there is one target selection, 'target_1'"):
        one = po.DELDataModule(adata, selections=["target_1", "control_1"])
    assert isinstance(po.HierarchicalDEL.from_data(one).target.likelihood, po.likelihoods.Poisson)
    several = po.HierarchicalDEL.from_data(po.DELDataModule(adata))
    assert isinstance(several.target.likelihood, po.likelihoods.NegativeBinomial)


def test_abundances_need_counts_without_target():
    adata, _ = po.simulate.del_library(cycles=(4, 4, 4), n_control=0, seed=0)
    sites = po.Posterior(po.SVIModule(po.HierarchicalDEL.from_data(dm := po.DELDataModule(adata))), dm).samples(
        num_samples=2
    )
    assert not [name for name in sites if name.startswith("abundance")]


def test_counts_before_the_selection_sharpen_the_abundance():
    """A compound's abundance is e xi, xi ~ Gamma(kappa, kappa): its mean given p ~ Poisson(d e xi), integrated."""
    adata, _ = po.simulate.del_library(cycles=(3, 3), n_pre=1, seed=0)
    dm = po.DELDataModule(adata)
    model = po.HierarchicalDEL.from_data(dm)
    latents = latent_values(poutine.trace(po.SVIModule(model).guide.rest).get_trace(dm.data[[0]]))
    batch = dm.data[dm.rows()]
    with torch.no_grad():
        found, e = model.exposure(batch, latents).numpy(), model.abundance(batch, latents).numpy()
        kappa, depth = model.log_kappa.exp().item(), latents["pre_depth"].item()
    xi = np.linspace(1e-4, 6, 20_001)
    for i, p in enumerate(batch.pre[:, 0].numpy()):
        weight = stats.gamma.pdf(xi, kappa, scale=1 / kappa) * stats.poisson.pmf(p, depth * e[i] * xi)
        assert found[i] == pytest.approx(e[i] * np.average(xi, weights=weight), rel=1e-3)


def test_known_yields_take_the_place_of_latent_ones():
    adata, truth = po.simulate.del_from_prior(cycles=(6, 6, 6), seed=0)
    for cycle in "ABC":
        adata.obs[f"yield_{cycle}"] = truth[f"yield_{cycle}"].loc[adata.obs[cycle]].to_numpy()
    dm = po.DELDataModule(adata, yield_keys=["yield_A", "yield_B", "yield_C"])
    svi = po.SVIModule(po.HierarchicalDEL.from_data(dm))
    svi.model.warm_start(svi.guide, dm)
    batch = dm.data[dm.rows()]
    np.testing.assert_allclose(svi.model.full_amount(batch, {}).numpy(), truth["amount"], rtol=1e-5)
    assert "yield_A" not in po.Posterior(svi, dm).samples(num_samples=2)
    po.testing.check_model(svi.model, dm)


@pytest.mark.slow
def test_c006_is_first_among_the_c_synthons_of_a_real_screen():
    """Block C006 of UNCDEL003 binds 53BP1, as was validated by itself."""
    folder = os.environ.get("PYRO_OMICS_DATA")
    if not folder or not (Path(folder) / "UNCDEL003_53bp1.csv.gz").is_file():
        pytest.skip("needs UNCDEL003_53bp1.csv.gz in the folder PYRO_OMICS_DATA")
    torch.manual_seed(0)
    dm = po.DELDataModule(po.datasets.uncdel003(), batch_size=4096)
    svi = po.SVIModule(po.HierarchicalDEL.from_data(dm))
    trainer = pl.Trainer(max_epochs=5, accelerator="cpu", logger=False, enable_checkpointing=False,
                         enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(svi, dm)
    table = po.Posterior(svi, dm, batch_size=4096).synthons(["C"], num_samples=5)
    assert table.index[0] == ("C", "C006")


# Simulators ---------------------------------------------------------------------------------------------------------


def test_the_prior_mode_is_the_models_own():
    """Counts given the simulator's truth have the model's distribution: randomised ranks are uniform."""
    adata, truth = po.simulate.del_from_prior(cycles=(12, 12, 12), n_pre=1, seed=5)
    dm = po.DELDataModule(adata)
    model = po.HierarchicalDEL.from_data(dm)
    po.SVIModule(model)
    span = {n: np.geomspace(1, 5, n) / np.geomspace(1, 5, n).mean() for n in (2, 3)}
    latents = {"depth": torch.tensor(3 * span[3]), "control_depth": torch.tensor(3 * span[2])}
    latents["pre_depth"] = torch.tensor([3.0])
    latents |= {name: torch.tensor(truth[key].to_numpy()) for name, key in (("matrix", "matrix"),)}
    latents["own"] = torch.tensor(np.expm1(truth["log_enrichment"].to_numpy()))
    abundance = truth["abundance"].to_numpy().reshape(12, 12, 12)
    for i, cycle in enumerate("ABC"):
        share = abundance.mean(tuple(j for j in range(3) if j != i))
        latents[f"abundance_{cycle}"] = torch.tensor(share / abundance.mean() ** (2 / 3))
        latents[f"yield_{cycle}"] = torch.tensor(truth[f"yield_{cycle}"].to_numpy())
    for subset in model.subsets:
        value = truth[model.site(subset)].to_numpy().reshape([12] * len(subset))
        latents[model.site(subset)] = torch.tensor(value)
    batch = dm.data[dm.rows()]
    rng = np.random.default_rng(0)
    pre = batch._replace(pre=None)  # of the counts given the abundance itself, not its estimate
    for fn, x in ((model.target_counts(pre, latents), batch.x), (model.control_counts(pre, latents), batch.control)):
        mean, theta = fn.base_dist.mu.detach().numpy(), fn.base_dist.theta.detach().numpy()
        probability = theta / (theta + mean)
        u = rng.uniform(size=x.shape)
        rank = stats.nbinom.cdf(x.numpy() - 1, theta, probability) + u * stats.nbinom.pmf(x.numpy(), theta, probability)
        assert stats.kstest(rank.ravel(), "uniform").pvalue > 1e-3
    for key, prior in (("matrix", model.matrix), ("effect_A_B", model.truncates["2"])):
        shape, mean = prior.shape, prior.mean
        assert stats.kstest(truth[key], stats.gamma(shape, scale=mean / shape).cdf).pvalue > 1e-3


def test_a_selection_has_the_layers_that_it_says():
    adata, truth = po.simulate.del_library(cycles=(8, 9, 10), depth=4.0, n_pre=1, n_competitor=2, seed=0)
    assert adata.shape == (720, 8)
    assert dict(adata.var["condition"].value_counts()) == {
        "target": 3, "control": 2, "competitor": 2, "pre-selection": 1
    }  # fmt: skip
    depth = np.asarray(adata.X.mean(0)).ravel()
    targets = depth[adata.var["condition"] == "target"]
    assert targets.mean() == pytest.approx(4.0, rel=0.1)
    assert targets.max() / targets.min() == pytest.approx(5.0, rel=0.15)
    assert (truth["log_enrichment"] >= 0).all()
    assert (truth["is_binder"] == (truth["log_enrichment"] > math.log(2))).all()
    assert truth["effect_A_B"].index.nlevels == 2 and len(truth["effect_A_B"]) == 72
    again, _ = po.simulate.del_library(cycles=(8, 9, 10), depth=4.0, n_pre=1, n_competitor=2, seed=0)
    assert (again.X != adata.X).nnz == 0
    # A competitor takes the binders' reads.
    best = truth["log_enrichment"].nlargest(8).index
    reads = {c: adata[best, adata.var["condition"] == c].X.sum() / adata[:, adata.var["condition"] == c].X.sum()
             for c in ("target", "competitor")}  # fmt: skip
    assert reads["competitor"] < 0.8 * reads["target"]


def test_an_impossible_library_is_refused():
    with pytest.raises(ValueError, match="cycles must have two entries or more, each of 2 building blocks or more"):
        po.simulate.del_library(cycles=(20,))
