"""TotalVI against its published formulas, what is not measured, and the queries of two modalities."""

import math
from functools import partial

import numpy as np
import pandas as pd
import pyro.distributions as dist
import pytest
import torch
from helpers import PROTEINS as NAMES
from helpers import cells_with_proteins as cells
from helpers import protein_data as data
from helpers import quiet_trainer, totalvi
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch.distributions import LogNormal, Normal, kl_divergence

import pyro_omics as po
from pyro_omics.guides import Amortized
from pyro_omics.parts.protein_background import Background, CellBackground, PointEfficiency

N, G, T = 60, 12, 4
MISSING = "ignore:batch 'd2'. all proteins are zero"


@pytest.fixture
def dm(fitted_totalvi):
    return fitted_totalvi.dm


@pytest.fixture(scope="module")
def half():
    """Proteins of donor d2 not measured."""
    return data(cells("nan"))


def fitted(dm, epochs=3, **options):
    svi = po.SVIModule(totalvi(dm, **options))
    quiet_trainer(epochs).fit(svi, dm)
    return svi


@pytest.fixture
def post(fitted_totalvi):
    return po.Posterior(*fitted_totalvi)


@pytest.fixture(scope="module")
def imputing(half):
    return po.Posterior(fitted(half), half)


def latents_for(batch, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return {
        "z": torch.randn(len(batch.row), 3, generator=rng),
        "background": torch.randn(len(batch.row), T, generator=rng),
        "efficiency": torch.exp(torch.randn(2, T, generator=rng) / 2),
    }


# The published program ------------------------------------------------------------------------------------------------


def protein_heads(model, z, cov):
    branches = range(len(model.protein_decoder.decoders))
    return {
        name: out for i in branches for name, out in decoded(f"protein_decoder.decoders.{i}.", model, z, cov).items()
    }


def decoded(prefix, model, z, cov):
    """Each head of a decoder in float64: [Linear, batch norm, ReLU] of (z, s), then a Linear of (h, z, s) each."""
    w = {name.removeprefix(prefix): v.double() for name, v in model.state_dict().items() if name.startswith(prefix)}
    h = torch.cat([z, cov], 1) @ w["hidden.linear.0.weight"].T + w["hidden.linear.0.bias"]
    spread = (w["hidden.norm.0.running_var"] + 1e-3) ** 0.5
    h = (h - w["hidden.norm.0.running_mean"]) / spread * w["hidden.norm.0.weight"] + w["hidden.norm.0.bias"]
    h = torch.cat([h.clamp(min=0), z, cov], 1)
    names = {name.split(".")[1] for name in w if name.startswith("heads.")}
    return {name: h @ w[f"heads.{name}.weight"].T + w[f"heads.{name}.bias"] for name in names}


def log_nb(x, mu, theta):
    total = torch.log(theta + mu)
    binomial = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    return binomial + theta * (torch.log(theta) - total) + x * (torch.log(mu) - total)


@pytest.mark.parametrize(("background", "bound"), [(Background, 0.0), (partial(CellBackground, bound=0.6), 0.6)])
def test_likelihoods_are_the_published_formulas(background, bound, dm):
    model, batch = totalvi(dm, background=background()).eval(), dm.data[dm.rows()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    latents = latents_for(batch)
    trace = poutine.trace(poutine.condition(model, latents)).get_trace(batch)
    trace.compute_log_prob()
    z, u, e = (latents[name].double() for name in ("z", "background", "efficiency"))
    s = (batch.batch[:, None] == torch.arange(2)).double()

    rna = decoded("decoder.", model, z, s)
    x = batch.x.double()
    rho = torch.softmax(rna["rho"], -1)
    theta = torch.exp(model.likelihood.dispersion.log_theta.detach().double())
    truth = log_nb(x, x.sum(1, keepdim=True) * rho, theta).sum(1)
    torch.testing.assert_close(trace.nodes["x"]["unscaled_log_prob"].double(), truth, rtol=1e-4, atol=1e-4)

    heads = protein_heads(model, z, s)
    c, d = s @ model.background.loc.double(), torch.exp(s @ model.background.log_scale.double())
    log_beta = c + d * u
    if bound:
        log_beta = log_beta + bound * torch.tanh(heads["background_shift"])
    mean = (s @ e) * torch.exp(log_beta)
    alpha = 1 + (1 + heads["foreground"]).clamp(min=0)
    pi = 1 / (1 + torch.exp(-heads["background_logits"]))
    phi = torch.exp(model.protein_likelihood.dispersion.log_theta.detach().double())
    y = batch.y.double()
    truth = torch.log(pi * torch.exp(log_nb(y, mean, phi)) + (1 - pi) * torch.exp(log_nb(y, alpha * mean, phi))).sum(1)
    torch.testing.assert_close(trace.nodes["y"]["unscaled_log_prob"].double(), truth.detach(), rtol=1e-4, atol=1e-4)
    normal = Normal(0.0, 1.0).log_prob(latents["background"]).sum(1)
    torch.testing.assert_close(trace.nodes["background"]["unscaled_log_prob"], normal)
    e_prior = LogNormal(0.0, 1.0).log_prob(latents["efficiency"]).sum()
    torch.testing.assert_close(trace.nodes["efficiency"]["log_prob"], e_prior)  # once, at any batch size


def test_the_background_s_guide_is_normal_in_log_rates(dm):
    """However c and d are learned, q(log beta) = Normal(c0 + a, d0 b): the pair's KL is that of these Normals."""
    model, batch = totalvi(dm).eval(), dm.data[dm.rows()]
    guide = Amortized(model)
    with torch.no_grad():
        model.background.loc.add_(0.7)
        model.background.log_scale.add_(-0.4)
        z = latents_for(batch)["z"]
        a, b = model.run_encoder("background", z, model.covariates(batch))
        q = guide.local("background", batch, {"z": z})
    c0, d0 = (table[batch.batch] for table in (model.background.start_loc, model.background.start_scale))
    c, d = model.background.loc[batch.batch], model.background.log_scale.exp()[batch.batch]
    in_u = kl_divergence(q.base_dist, Normal(0.0, 1.0))
    torch.testing.assert_close(in_u, kl_divergence(Normal(c0 + a, d0 * b), Normal(c, d)), rtol=1e-4, atol=1e-5)


def test_encoder_sees_both_modalities_normalised(dm):
    batch = dm.data[dm.rows()]
    x, y = batch.x.double(), batch.y.double()
    truth = torch.cat([torch.log(1 + x / (1 + x.mean(1, True))), torch.log(1 + y / (1 + y.mean(1, True)))], 1)
    torch.testing.assert_close(totalvi(dm).encoder_inputs(batch).double(), truth)
    measured = torch.rand(y.shape) < 0.6
    measured[0] = False
    for row, seen, inputs in zip(
        y, measured, totalvi(dm).encoder_inputs(batch._replace(measured=measured)), strict=True
    ):
        mean = row[seen].mean() if seen.any() else 0.0
        truth = torch.where(seen, torch.log(1 + row / (1 + mean)), 0.0)
        torch.testing.assert_close(inputs[G:].double(), truth)


def test_background_starts_at_the_lower_component(dm):
    model = totalvi(dm)
    adata = cells()
    rows = dm.rows("training")
    logs = np.log1p(adata.obsm["protein"].to_numpy())[rows][(adata.obs["donor"] == "d1").to_numpy()[rows]]
    start = model.background.loc[0].detach().numpy()
    assert (np.quantile(logs, 0.05, axis=0) < start).all()
    assert (start < np.median(logs, axis=0) + 0.1).all()  # a third of the cells is high
    assert (model.background.log_scale[0].exp().detach().numpy() < logs.std(0)).all()
    fixed = Background(learned=False)
    assert not list(totalvi(dm, background=fixed).background.parameters())
    assert len(totalvi(dm, background=Background(shared=True)).background.loc) == 1


def test_point_efficiency_counts_its_prior_once_per_cell(dm):
    svi = po.SVIModule(totalvi(dm, efficiency=PointEfficiency()))
    with torch.no_grad():
        svi.model.efficiency.log_efficiency.normal_()
    e = svi.model.efficiency.log_efficiency.detach().exp()
    parts = po.Posterior(svi, dm).elbo_parts()
    assert "efficiency" not in parts
    truth = LogNormal(0.0, 1.0).log_prob(e).sum(-1)[dm.data.fields["batch"]]
    np.testing.assert_allclose(parts["efficiency_prior"], truth, rtol=1e-4)


def test_efficiency_counts_once_per_data_set(dm):
    svi = po.SVIModule(totalvi(dm))
    whole, some = (po.Posterior(svi, dm, batch_size=size).elbo_parts()["efficiency"] for size in (1000, 7))
    np.testing.assert_allclose(whole, some, rtol=1e-4)
    assert whole.nunique() == 1


def test_the_efficiency_s_part_is_its_kl(dm):
    svi = po.SVIModule(totalvi(dm))
    with torch.no_grad():
        svi.guide.rest.locs.efficiency.normal_()
    part = po.Posterior(svi, dm).elbo_parts(num_samples=400)["efficiency"].iloc[0]
    q = Normal(svi.guide.rest.locs.efficiency, svi.guide.rest.scales.efficiency)
    kl = kl_divergence(q, Normal(0.0, 1.0)).sum().item()  # of the logs: the same
    assert part == pytest.approx(-kl / dm.n_obs, rel=0.02)


# What is not measured -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings(MISSING)
def test_three_ways_to_say_that_a_batch_was_not_measured():
    ways = [data(cells("nan")), data(cells("zero")), data(cells(), protein_mask="has")]
    mask = np.repeat(cells().obs["has"].to_numpy()[:, None], T, 1)
    in_obsm = cells()
    in_obsm.obsm["mask"] = mask
    ways += [data(cells(), protein_mask=mask), data(in_obsm, protein_mask="mask")]
    for dm in ways:
        batch = dm.data[dm.rows()]
        assert torch.equal(batch.measured, torch.from_numpy(mask))
        assert not batch.y[~batch.measured].any()
        assert dm.sizes == ways[0].sizes
    assert dm.sizes.protein_cells[1] == (0,) * T
    assert dm.sizes.protein_background[1] == dm.sizes.protein_background[0]


def test_zeros_that_count_as_not_measured_are_said():
    with pytest.warns(UserWarning, match=r"batch 'd2': all proteins are zero in all of its 20 cells.*not measured"):
        data(cells("zero"))
    adata = cells()
    adata.obsm["protein"].loc[adata.obs["donor"] == "d2", "CD14"] = 0
    with pytest.warns(UserWarning, match=r"batch 'd2': the proteins \['CD14'\] are zero"):
        dm = data(adata)
    assert dm.sizes.protein_cells[1][2] == 0 < dm.sizes.protein_cells[1][0]


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_nothing_depends_on_what_was_not_measured(elbo, half):
    svi = po.SVIModule(totalvi(half, adversary=0.0), elbo=elbo()).eval()
    batch = half.data[half.rows("training")]
    other = batch._replace(y=torch.where(batch.measured, batch.y, torch.full_like(batch.y, 77.0)))
    torch.manual_seed(0)
    loss = svi(batch)
    torch.manual_seed(0)
    assert torch.equal(loss, svi(other))
    parts = po.Posterior(svi, half).elbo_parts()
    without = (half.adata.obs["donor"] == "d2").to_numpy()
    assert (parts.loc[without, ["y", "background"]] == 0).all().all()
    assert (parts.loc[~without, ["y", "background"]] != 0).all().all()


def test_a_guide_that_counts_what_was_not_measured_is_refused(dm):
    class Forgetful(Amortized):
        def local(self, name, batch, latents=None):
            q = super().local(name, batch, latents)
            return dist.Normal(q.mean, q.variance.sqrt()).to_event(1)

    with pytest.raises(ValueError, match=r"the guide scores entries of 'background' that were not measured"):
        po.SVIModule(totalvi(dm), guide=Forgetful)


def test_a_batch_without_proteins_is_read_in_the_one_that_has_them(imputing):
    without = (imputing.dm.adata.obs["donor"] == "d2").to_numpy()
    own = imputing.normalized_expression()[1]
    there = imputing.normalized_expression(transform_batch="d1")[1]
    pd.testing.assert_frame_equal(own[without], there[without])
    moved = imputing.normalized_expression(transform_batch="d2")[1]
    pd.testing.assert_frame_equal(own, moved)  # in d2 nothing was measured, so that d1 stands in for it
    y = imputing.predictive(num_samples=30)["y"]
    assert (y.values[:, without].mean((0, 1)) > 0.5).all()
    assert own.notna().all().all() and (own > 0).all().all()


def test_each_protein_is_read_where_it_was_measured():
    """Panels that overlap: CD3 was measured for d1 alone, CD19 for d2 alone."""
    adata = cells()
    d2 = (adata.obs["donor"] == "d2").to_numpy()
    adata.obsm["protein"].loc[d2, "CD3"] = np.nan
    adata.obsm["protein"].loc[~d2, "CD19"] = np.nan
    dm = data(adata)
    post = po.Posterior(fitted(dm), dm)
    own = post.protein_background()
    in_d1, in_d2 = (post.protein_background(transform_batch=name) for name in ("d1", "d2"))
    np.testing.assert_array_equal(own["CD3"], in_d1["CD3"])
    np.testing.assert_array_equal(own["CD19"], in_d2["CD19"])
    np.testing.assert_array_equal(own["CD4"], np.where(d2, in_d2["CD4"], in_d1["CD4"]))
    assert not np.allclose(in_d1["CD4"], in_d2["CD4"])


def test_data_without_proteins_are_imputed(post):
    rna_only = po.CellDataModule(cells(seed=3), batch_key="donor")
    imputed = po.Posterior(post.svi, rna_only)
    assert imputed.normalized_expression()[1].notna().all().all()
    probability = imputed.protein_foreground_probability()
    assert ((probability > 0) & (probability < 1)).all().all()
    some = cells(seed=3)
    some.obsm["protein"] = some.obsm["protein"][["CD14", "CD3"]]
    with pytest.warns(UserWarning, match=r"the proteins \['CD4', 'CD19'\] of the model are not in these data"):
        batch = po.Posterior(post.svi, data(some)).data[[0, 1]]
    assert batch.measured.tolist() == [[True, False, True, False]] * 2
    assert batch.y[:, 0].tolist() == some.obsm["protein"]["CD3"].iloc[:2].tolist()
    some.obsm["protein"].columns = ["CD14", "CD3e"]
    with pytest.warns(
        UserWarning, match=r"\['CD3', 'CD4', 'CD19'\] .* does not have \['CD3e'\]: .* rename the columns"
    ):
        po.Posterior(post.svi, data(some))
    some.obsm["protein"].columns = ["a", "b"]
    with pytest.raises(ValueError, match=r"some of the model's proteins, such as \['CD3'.*; got \['a', 'b'\]"):
        po.Posterior(post.svi, data(some))


# The adversary --------------------------------------------------------------------------------------------------------


def test_adversary_is_on_where_proteins_are_missing(dm, half):
    assert not hasattr(totalvi(dm), "classifier")
    assert hasattr(totalvi(half), "classifier")
    assert not hasattr(totalvi(half, adversary=0.0), "classifier")
    assert hasattr(totalvi(dm, adversary=2.0), "classifier")
    with pytest.raises(ValueError, match=r"adversary must be the weight of a penalty, 0 or more; got -1"):
        totalvi(dm, adversary=-1.0)
    with pytest.raises(ValueError, match=r"adversary=1.0 hides the batch, and the data have one batch only"):
        totalvi(data(cells(), batch_key=None), adversary=1.0)


def test_penalty_teaches_the_classifier_and_hides_the_batch(half):
    model, batch = totalvi(half, adversary=2.0, norm=None).eval(), half.data[half.rows()]
    z = latents_for(batch)["z"].requires_grad_()
    model.penalty(batch, {"z": z}).backward()
    plain = z.detach().clone().requires_grad_()
    h = plain
    for layer in model.classifier.hidden.linear:
        h = torch.relu(layer(h))
    log_p = torch.log_softmax(model.classifier.logits(h), -1)
    weights = list(model.classifier.parameters())
    ours = [p.grad.clone() for p in weights]
    for p in weights:
        p.grad = None
    entropy = -2.0 * log_p[torch.arange(N), batch.batch].mean()
    entropy.backward()
    torch.testing.assert_close(z.grad, -plain.grad)
    for mine, p in zip(ours, weights, strict=True):
        torch.testing.assert_close(mine, p.grad)
    particles = z.detach().expand(5, N, 3)
    torch.testing.assert_close(model.penalty(batch, {"z": particles}), entropy.detach())


def test_penalty_is_in_the_loss_and_in_no_elbo(half):
    """The same draws with a penalty and without: the loss differs by it, train_elbo and val_elbo do not."""

    def first_step(adversary):
        svi = po.SVIModule(totalvi(half, adversary=1.0), kl_warmup_epochs=0)
        svi.model.adversary = adversary
        logged = {}
        svi.log = lambda name, value, **_: logged.__setitem__(name, float(value))
        batch = half.data[half.rows("training")]
        torch.manual_seed(0)
        loss = float(svi.training_step(batch, 0).detach())
        svi.eval()
        torch.manual_seed(0)
        svi.validation_step(half.data[half.rows("validation")], 0)
        return loss, logged

    (plain, without), (penalised, with_it) = first_step(0.0), first_step(3.0)
    assert without["train_elbo"] == with_it["train_elbo"] == pytest.approx(-plain)
    assert without["val_elbo"] == with_it["val_elbo"]
    assert with_it["train_penalty"] == pytest.approx(penalised - plain, rel=1e-3)
    assert with_it["train_penalty"] > 0.1


# Queries --------------------------------------------------------------------------------------------------------------


def test_normalized_expression_of_two_modalities(post):
    rna, protein = post.normalized_expression(library_size=1e4)
    assert tuple(rna.columns) == post.schema.genes and list(protein.columns) == NAMES
    np.testing.assert_allclose(rna.sum(1), 1e4, rtol=1e-4)
    np.testing.assert_allclose(
        post.normalized_expression(library_size=1e4, transform_batch=["d1", "d2"])[0].sum(1), 1e4, rtol=1e-4
    )
    rna, protein = post.normalized_expression(genes=["gene3", "gene1"], proteins=["CD19"])
    assert list(rna.columns) == ["gene3", "gene1"] and list(protein.columns) == ["CD19"]
    with pytest.raises(ValueError, match=r"proteins must be names that the model has; got \['CD8'\]"):
        post.normalized_expression(proteins=["CD8"])
    mean, lower, upper = post.normalized_expression(num_samples=40, credible_interval=0.9)[1]
    assert (lower <= upper).all().all() and ((lower <= mean) & (mean <= upper)).mean().mean() > 0.98


def test_foreground_and_background_add_up_to_the_expected_counts(post):
    """With the background: the mixture's mean, which predictive counts average to."""
    options = {"num_samples": 300, "seed": 0}
    _, both = post.normalized_expression(**options)
    _, foreground = post.normalized_expression(include_protein_background=False, **options)
    assert (foreground < both).all().all()
    drawn = post.predictive(num_samples=300)
    assert drawn["y"].dims == ("sample", "obs", "protein") and drawn["x"].dims == ("sample", "obs", "gene")
    y = drawn["y"].values
    error = np.abs(y.mean((0, 1)) - both.mean()) / (y.mean(1).std(0) / math.sqrt(300))
    assert (error < 5).all()
    assert list(post.predictive(num_samples=1, proteins=["CD14"])["y"]["protein"].values) == ["CD14"]
    with pytest.raises(ValueError, match=r"no argument \['protein'\]"):
        post.predictive(num_samples=1, protein=["CD14"])


def test_foreground_probability_is_bayes_rule(post):
    """By its definition, at the first draw, and not the decoder's 1 - pi."""
    ours = post.protein_foreground_probability(num_samples=1, seed=4)
    model, batch = post.model, post.data[post.dm.rows()]
    latents = {name: torch.as_tensor(post.samples(name, num_samples=1, seed=4).values[0]) for name in
               ("z", "background", "efficiency")}  # fmt: skip
    with torch.no_grad():
        heads = protein_heads(model, latents["z"].double(), torch.eye(2)[batch.batch].double())
        codes = batch.batch[:, None].expand(-1, T)
        beta = model.background(latents["background"], codes, {}).double()
        mean = latents["efficiency"][batch.batch].double() * beta
        phi = model.protein_likelihood.dispersion.log_theta.exp().double()
        pi = torch.sigmoid(heads["background_logits"])
        background = pi * log_nb(batch.y.double(), mean, phi).exp()
        fg = (1 - pi) * log_nb(batch.y.double(), (1 + (1 + heads["foreground"]).clamp(min=0)) * mean, phi).exp()
    np.testing.assert_allclose(ours, fg / (fg + background), rtol=2e-3, atol=1e-5)
    assert np.abs(ours.to_numpy() - (1 - pi).numpy()).max() > 0.1


def test_foreground_probability_of_what_was_not_measured_is_the_decoder_s(imputing):
    ours = imputing.protein_foreground_probability(num_samples=1, transform_batch="d1", seed=2)
    z = torch.as_tensor(imputing.samples("z", num_samples=1, seed=2).values[0]).double()
    cov = torch.eye(2)[torch.zeros(N, dtype=torch.long)].double()
    pi = torch.sigmoid(protein_heads(imputing.model, z, cov)["background_logits"])
    without = (imputing.dm.adata.obs["donor"] == "d2").to_numpy()
    np.testing.assert_allclose(ours[without], (1 - pi)[without], rtol=1e-3, atol=1e-5)
    own = imputing.protein_foreground_probability(num_samples=1, seed=2)  # counted in d1, and so they say something
    pd.testing.assert_frame_equal(ours[~without], own[~without])


def test_samples_are_labelled(post):
    samples = post.samples(num_samples=3)
    assert samples["efficiency"].dims == ("sample", "batch", "protein")
    assert list(samples["efficiency"]["batch"].values) == ["d1", "d2"]
    assert samples["background"].dims == ("sample", "obs", "protein")
    assert list(samples["background"]["protein"].values) == NAMES


def test_elbo_parts_sum_to_the_elbo(post):
    parts = post.elbo_parts(num_samples=2, seed=3)
    assert set(parts) == {"x", "y", "z", "background", "efficiency"}
    np.testing.assert_allclose(parts.sum(1), post.elbo(num_samples=2, seed=3), rtol=1e-4)


def test_correlations(post):
    table = post.correlations(num_samples=4, genes=["gene0", "gene5"])
    assert table.index.tolist() == [("genes", "gene0"), ("genes", "gene5"), *(("proteins", name) for name in NAMES)]
    np.testing.assert_allclose(table, table.T)
    np.testing.assert_allclose(np.diag(table), 1)
    one = post.correlations("protein_background", method="pearson", num_samples=1, seed=5)
    values = post.protein_background(num_samples=1, seed=5)
    np.testing.assert_allclose(one, np.corrcoef(values, rowvar=False), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="method must be 'spearman' or 'pearson'; got 'kendall'"):
        post.correlations(method="kendall")
    with pytest.raises(ValueError, match=r"name must be one of the model's queries, .*; got 'nothing'"):
        post.correlations("nothing")


def test_denoised_samples_have_the_moments_of_their_gammas(post):
    """RNA: Gamma with mean l rho and variance (l rho)^2 / theta, at one z; proteins: 0 or a foreground's Gamma."""
    model, batch = post.model, post.data[[0, 1]]
    latents = {"z": torch.randn(2, 3), "background": torch.randn(2, T), "efficiency": torch.ones(2, T)}
    many = batch._make(None if f is None else f.repeat_interleave(4000, 0) for f in batch)
    wide = {name: v if name == "efficiency" else v.repeat_interleave(4000, 0) for name, v in latents.items()}
    with torch.no_grad():
        rna, protein = model.eval().denoised_samples(many, wide, library_size=100.0)
        rho, _ = model.decode(latents["z"], batch)
        theta = model.likelihood.dispersion.log_theta.exp()
        _, signal = model.normalized_expression(batch, latents, include_protein_background=False)
        background, _ = model._decode_latents(batch, latents)
    rna, protein = rna.reshape(2, 4000, G), protein.reshape(2, 4000, T)
    np.testing.assert_allclose(rna.mean(1), 100 * rho, rtol=0.15)
    np.testing.assert_allclose(rna.var(1) / rna.mean(1) ** 2, (1 / theta).expand(2, -1), rtol=0.35)
    np.testing.assert_allclose(protein.mean(1), signal, rtol=0.15)
    assert ((protein == 0).float().mean(1) > 0.02).all() and (background > 0).all()


# Parts and persistence ------------------------------------------------------------------------------------------------


def test_saved_and_loaded_with_its_parts(half, tmp_path):
    svi = fitted(half, epochs=1, background=CellBackground(bound=0.5, shared=True), efficiency=PointEfficiency())
    loaded = po.load(svi.save(tmp_path / "model"))
    assert isinstance(loaded.model.background, CellBackground) and loaded.model.background.bound == 0.5
    ours, theirs = (po.Posterior(one, half).normalized_expression() for one in (svi, loaded))
    for one, other in zip(ours, theirs, strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_shapes_of_networks_are_checked(dm):
    decoder = po.layers.Decoder(3, {"foreground": T, "background_logits": T + 1}, n_cov=2)
    model = totalvi(dm, protein_decoder=decoder)
    with pytest.raises(ValueError, match=r"protein_decoder must return 'background_logits' of 4 proteins"):
        po.SVIModule(model)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"protein_likelihood": po.likelihoods.NegativeBinomial()}, TypeError, "protein_likelihood must be a Negative"),
        (
            {"efficiency": PointEfficiency},
            TypeError,
            "must be an Efficiency object; got the class PointEfficiency: pass an",
        ),
        ({"background": "learned"}, TypeError, "background must be a Background"),
        ({"gene_likelihood": "zinb"}, TypeError, "unexpected keyword argument 'gene_likelihood'"),
    ],
)
def test_wrong_parts_are_refused(options, error, message, dm):
    with pytest.raises(error, match=message):
        totalvi(dm, **options)
    with pytest.raises(ValueError, match=r"bound must be a log rate above 0; got 0"):
        CellBackground(bound=0)


def test_data_without_proteins_are_refused():
    with pytest.raises(ValueError, match=r"TotalVI needs protein counts.*protein_obsm_key"):
        po.TotalVI.from_data(po.CellDataModule(cells()))


def test_a_model_of_other_proteins_is_refused(dm):
    other = cells()
    other.obsm["protein"] = other.obsm["protein"][NAMES[:3]]
    with pytest.raises(ValueError, match=r"made for n_proteins=4, but the data have 3"):
        quiet_trainer(1).fit(po.SVIModule(totalvi(dm)), data(other))


# What a second look found ---------------------------------------------------------------------------------------------


def test_proteins_in_another_order_are_refused_by_the_trainer_and_aligned_by_the_posterior(post):
    turned = cells()
    turned.obsm["protein"] = turned.obsm["protein"].iloc[:, ::-1]
    other = data(turned)
    for step in (quiet_trainer(1).fit, quiet_trainer(1).validate):
        with pytest.raises(ValueError, match="other proteins than these"):
            step(post.svi, other)
    torch.testing.assert_close(po.Posterior(post.svi, other).latent(), post.latent())


def test_a_mask_is_matched_by_name():
    adata = cells()
    mask = pd.DataFrame(True, adata.obs_names, NAMES[::-1])
    mask.loc[adata.obs["donor"] == "d2", "CD19"] = False
    for given in (mask, mask.iloc[::-1]):  # rows by name too
        cells_of_d2 = data(adata, protein_mask=given).sizes.protein_cells[1]
        assert np.array(cells_of_d2).astype(bool).tolist() == [True] * 3 + [False]
    of_cells = adata.obs["donor"] == "d1"
    assert data(adata, protein_mask=of_cells.iloc[::-1]).sizes == data(adata, protein_mask=of_cells.to_numpy()).sizes
    with pytest.raises(ValueError, match=r"protein_mask must .*adata.obs_names"):
        data(adata, protein_mask=mask.iloc[1:])
    with pytest.raises(ValueError, match=r"protein_mask must have a column for each protein; got none for \['CD14'\]"):
        data(adata, protein_mask=mask.drop(columns="CD14"))


def test_an_answer_does_not_depend_on_the_company(post):
    """Cells with a zero count, asked about alone: the zeros are counts, since the batch is known to measure them."""
    adata = cells()
    adata.obsm["protein"].iloc[[0, 2], 0] = 0.0
    options = {"num_samples": 400}
    among = po.Posterior(post.svi, data(adata)).protein_foreground_probability(**options)
    alone = po.Posterior(post.svi, data(adata[[0, 2]].copy(), validation_size=0))
    assert alone.data.fields["measured"] is None
    np.testing.assert_allclose(alone.protein_foreground_probability(**options), among.iloc[[0, 2]], atol=0.1)


@pytest.mark.filterwarnings(MISSING)
def test_any_query_data_may_be_asked_about(post):
    """One cell, cells without a count, constant or foreign proteins: nothing is trained on these."""
    adata = cells()
    extra = cells()
    extra.obsm["protein"]["other"] = 1.0
    for query in (adata[[7]].copy(), extra):
        asked = po.Posterior(post.svi, data(query, validation_size=0))
        assert asked.normalized_expression()[1].notna().all().all()
    nothing = adata[(adata.obs["donor"] == "d2").to_numpy()].copy()
    for value in (0.0, np.nan):
        nothing.obsm["protein"].loc[:] = value
        asked = po.Posterior(post.svi, data(nothing, validation_size=0))
        assert not asked.data.fields["measured"].any()
        assert asked.normalized_expression()[1].notna().all().all()
        assert (asked.elbo_parts()["y"] == 0).all()


def test_dispersions_of_partial_panels_are_those_of_a_batch_that_measured():
    adata = cells()
    d2 = (adata.obs["donor"] == "d2").to_numpy()
    adata.obsm["protein"].loc[d2, "CD3"] = np.nan
    likelihood = po.likelihoods.NegativeBinomialMixture(po.dispersions.PerGene(by="batch"))
    dm = data(adata)
    model = totalvi(dm, protein_likelihood=likelihood).eval()
    batch = dm.data[dm.rows()]
    theta = poutine.trace(model).get_trace(batch).nodes["y"]["fn"].base_dist.base_dist.theta
    table = likelihood.dispersion.log_theta.exp()
    torch.testing.assert_close(theta[:, 0], table[0, 0].expand(N))
    torch.testing.assert_close(theta[:, 1:], table[batch.batch, 1:])


def test_globals_alone_take_one_minibatch(post, monkeypatch):
    small = po.Posterior(post.svi, post.dm, batch_size=7)
    passed = []
    placed = small._for_model
    monkeypatch.setattr(small, "_for_model", lambda batch: passed.append(1) or placed(batch))
    assert small.samples("efficiency", num_samples=3).shape == (3, 2, T)
    assert len(passed) == 1


def test_as_if_of_another_batch_a_cell_s_counts_say_nothing(post):
    """Its own batch leaves P(foreground) as it was; another's takes the counts away, and 1 - pi is left."""
    d2 = (post.dm.adata.obs["donor"] == "d2").to_numpy()
    options = {"num_samples": 1, "seed": 2}
    moved = post.protein_foreground_probability(transform_batch="d1", **options)
    z = torch.as_tensor(post.samples("z", **options).values[0]).double()
    pi = torch.sigmoid(protein_heads(post.model, z, torch.eye(2)[[0] * N].double())["background_logits"])
    np.testing.assert_allclose(moved[d2], (1 - pi)[d2], rtol=1e-3, atol=1e-5)
    pd.testing.assert_frame_equal(moved[~d2], post.protein_foreground_probability(**options)[~d2])
