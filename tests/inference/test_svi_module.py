"""SVIModule against the measured pitfalls of Pyro with Lightning."""

import copy
import math
import warnings
from functools import partial

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import pytorch_lightning as pl
import torch
from helpers import counts, quiet_trainer
from own_model import CountFactors, PoissonFactors
from pyro import poutine
from pyro.infer import (
    SVI,
    JitTrace_ELBO,
    RenyiELBO,
    ReweightedWakeSleep,
    Trace_ELBO,
    TraceGraph_ELBO,
    TraceMeanField_ELBO,
)
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from pyro.nn import PyroModule
from pyro.optim.clipped_adam import ClippedAdam
from pyro.poutine.messenger import Messenger

import pyro_omics as po
from pyro_omics import layers
from pyro_omics.inference.kl_warmup import ScaleLatents


@pytest.fixture(scope="module")
def dm():
    rng = np.random.default_rng(0)
    import anndata as ad

    x = rng.poisson(rng.gamma(2.0, 1.0, (50, 1)) * rng.gamma(1.0, 2.0, 7)).astype(np.float32)
    return po.CellDataModule(ad.AnnData(x, obs={"donor": rng.choice(["a", "b"], 50)}), batch_size=16)


def trainer(**options):
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**{**quiet, "max_epochs": 2, **options})


def factors(dm):
    return PoissonFactors(dm.n_obs, dm.n_genes)


def scvi(dm, **options):
    return po.SCVI.from_data(dm, n_latent=3, n_hidden=8, **options)


class Watch(pl.Callback):
    """Calls a function after each training step."""

    def __init__(self, look):
        self.look, self.seen = look, []

    def on_train_batch_end(self, trainer, svi, outputs, batch, batch_idx):
        self.seen.append(self.look(trainer, svi))


# 1: what is made at the first call ----------------------------------------------------------------------------------


def test_lazy_guides_are_made_before_the_optimizer(dm):
    svi = po.SVIModule(factors(dm))
    start = {name: p.detach().clone() for name, p in svi.named_parameters()}
    assert any("rest" in name for name in start)
    fit = trainer()
    fit.fit(svi, dm)
    held = {id(p) for group in fit.optimizers[0].param_groups for p in group["params"]}
    assert held == {id(p) for p in svi.parameters()}
    assert not [name for name, p in svi.named_parameters() if torch.equal(p, start[name])]


def test_making_a_module_moves_no_statistics_and_no_random_state(dm):
    model = scvi(dm)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    model.require_encoder("z", 3)
    made = torch.get_rng_state()
    po.SVIModule(model)
    assert torch.equal(made, torch.get_rng_state())
    assert not torch.equal(state, made)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(module.training for module in model.modules())


def test_parameters_that_appear_later_are_refused(dm):
    class Late(po.guides.Amortized):
        def forward(self, batch):
            if torch.is_grad_enabled():
                self.late = torch.nn.Parameter(torch.zeros(3))
            super().forward(batch)

    with pytest.raises(RuntimeError, match="that the optimizer does not have"):
        trainer().fit(po.SVIModule(factors(dm), guide=Late), dm)


# 2: the global parameter store --------------------------------------------------------------------------------------


def test_the_store_stays_empty_and_two_models_share_nothing(dm):
    one, two = po.SVIModule(factors(dm)), po.SVIModule(factors(dm))
    before = copy.deepcopy(two.state_dict())
    trainer().fit(one, dm)
    assert not list(pyro.get_param_store().keys())
    assert all(torch.equal(value, before[name]) for name, value in two.state_dict().items())


@pytest.mark.parametrize("setting", [False, True])
def test_a_model_trains_whatever_the_setting_of_the_session_was_and_is(setting, dm):
    with pyro.settings.context(module_local_params=setting):
        model = factors(dm)
        guide = po.guides.PerObservation(model)
    with pyro.settings.context(module_local_params=not setting):
        svi = po.SVIModule(model, guide)
        before = copy.deepcopy(svi.state_dict())
        trainer().fit(svi, dm)
        assert not list(pyro.get_param_store().keys())
        changed = {name for name, value in svi.state_dict().items() if not torch.equal(value, before[name])}
        assert changed >= {name for name, _ in svi.named_parameters()}


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_pyros_svi_trains_every_parameter(local, own, dm):
    encoder = Halves(7, 3) if own else None  # plain torch modules are not PyroModules, and the guide does not hold them
    with pyro.settings.context(module_local_params=local):
        model = scvi(dm, encoder=encoder)
        guide = po.guides.Amortized(model)
        svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 1e-2}), Trace_ELBO())
        batch = dm.example_batch()
        svi.step(batch)
        before = {name: value.clone() for name, value in model.named_parameters()}
        assert np.isfinite(svi.step(batch))
        assert not list(pyro.get_param_store().keys())
        assert not [name for name, value in model.named_parameters() if torch.equal(value, before[name])]


class Halves(torch.nn.Module):
    """A plain torch encoder."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.linear = torch.nn.Linear(n_in, 2 * n_out)

    def forward(self, x, cov=None):
        loc, log_scale = self.linear(x).chunk(2, -1)
        return loc, log_scale.exp()


def test_a_model_that_calls_pyro_param_is_refused(dm):
    class Stored(PoissonFactors):
        def forward(self, batch):
            pyro.param("forgotten", torch.zeros(1))
            super().forward(batch)

    class Guide(po.guides.Amortized):
        def forward(self, batch):
            pyro.param("lost", torch.zeros(1))
            super().forward(batch)

    with pytest.raises(ValueError, match=r"the model Stored calls pyro.param for \['forgotten'\]"):
        po.SVIModule(Stored(dm.n_obs, dm.n_genes))
    with pytest.raises(ValueError, match=r"the guide Guide calls pyro.param for \['lost'\]"):
        po.SVIModule(factors(dm), guide=Guide)


# 3, 4, 5: copies and state dicts ------------------------------------------------------------------------------------


def test_checkpoints_hold_no_guide_object_and_training_goes_on(dm, tmp_path):
    svi = po.SVIModule(factors(dm))
    fit = trainer()
    fit.fit(svi, dm)
    fit.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert svi.guide.rest._model is not None
    assert torch.isfinite(svi(dm.example_batch()))


def test_each_tensor_has_one_key(dm):
    state = po.SVIModule(factors(dm)).state_dict()
    pointers = [value.data_ptr() for value in state.values() if value.numel()]
    assert len(pointers) == len(set(pointers))


def test_a_model_can_be_copied_before_and_after_it_ran(dm):
    model = scvi(dm)
    for again in (copy.deepcopy(model), copy.deepcopy(po.SVIModule(model).model)):
        trainer(max_epochs=1).fit(po.SVIModule(again), dm)


# 6: per-observation parameters --------------------------------------------------------------------------------------


def test_a_step_draws_no_permutation_and_touches_its_own_rows(dm, monkeypatch):
    model = factors(dm)
    svi = po.SVIModule(model, guide=lambda m: AutoNormal(m, create_plates=m.plate))
    table = svi.guide.locs.z_unconstrained
    assert len(table) == dm.n_obs
    monkeypatch.setattr(torch, "randperm", lambda *_, **__: pytest.fail("a permutation of all rows in a step"))
    rows = np.random.default_rng(1).permutation(dm.rows("training"))[:9]
    batch = dm.data[rows]
    svi(batch).backward()
    touched = table.grad.abs().sum(-1).nonzero().flatten()
    assert set(touched.tolist()) == set(batch.index.tolist())


# 7, 8: plates -------------------------------------------------------------------------------------------------------


def exact_pair(n):
    """mu ~ Normal(0, 1); x_n ~ Normal(mu, 1): a global latent only, with a fixed guide of known KL."""

    class Model(po.models.CountModel):
        n_genes = 1

        def forward(self, batch):
            mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
            with self.plate(batch):
                pyro.sample("x", dist.Normal(mu, 1.0).expand([len(batch.index), 1]).to_event(1), obs=batch.x)

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.loc = torch.nn.Parameter(torch.tensor(0.3))

        def forward(self, batch):
            pyro.sample("mu", dist.Normal(self.loc, 0.5))

    return Model(n), Guide()


@pytest.mark.parametrize("size", [4, 9, 36])
def test_the_kl_of_globals_counts_once_whatever_the_batch_size(size):
    model, guide = exact_pair(36)
    x = torch.randn(36, 1)
    kl = float(torch.distributions.kl_divergence(dist.Normal(0.3, 0.5), dist.Normal(0.0, 1.0)))
    elbos = []
    for index in torch.arange(36).split(size):
        batch = po.sizes.Sizes(36, 1).example_batch()._replace(x=x[index], row=index, index=index)
        torch.manual_seed(0)  # the same draw of mu in each minibatch
        elbos.append(-TraceMeanField_ELBO().differentiable_loss(model, guide, batch).item())
    torch.manual_seed(0)
    mu = pyro.sample("mu", dist.Normal(0.3, 0.5))
    expected = float(dist.Normal(mu, 1.0).log_prob(x).sum()) - kl
    assert np.mean(elbos) == pytest.approx(expected, rel=1e-5)


def test_val_elbo_weights_rows_on_a_ragged_last_batch():
    import anndata as ad

    x = np.arange(1.0, 51.0)[:, None] @ np.ones((1, 4))
    dm = po.CellDataModule(ad.AnnData(x.astype(np.float32)), batch_size=16, validation_size=0.5)

    class Known(po.models.CountModel):
        """No latents: each row's ELBO is its log-likelihood under a fixed rate."""

        n_genes = 4

        def __init__(self, n_obs):
            super().__init__(n_obs)
            self.rate = torch.nn.Parameter(torch.tensor(20.0))

        def forward(self, batch):
            with self.plate(batch):
                pyro.sample("x", dist.Poisson(self.rate.expand(len(batch.index), 4)).to_event(1), obs=batch.x)

    svi = po.SVIModule(Known(dm.n_obs))
    metrics = trainer().validate(svi, dm, verbose=False)[0]
    rows = torch.tensor(x[dm.rows("validation")], dtype=torch.float)
    truth = dist.Poisson(20.0).log_prob(rows).sum(-1).mean()
    assert len(rows) % 16
    assert metrics["val_elbo"] == pytest.approx(float(truth), rel=1e-5)


def test_a_guide_that_lacks_a_site_or_has_another_is_refused(dm):
    class Nothing(PyroModule):
        def __init__(self, model):
            super().__init__()

        def forward(self, batch):
            pass

    class Other(po.guides.Amortized):
        def forward(self, batch):
            super().forward(batch)
            pyro.sample("other", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"does not sample \['z'\]"):
        po.SVIModule(scvi(dm), guide=Nothing)
    with pytest.raises(ValueError, match=r"samples \['other'\]"):
        po.SVIModule(scvi(dm), guide=Other)


def test_a_guide_plate_without_the_size_of_the_data_is_refused(dm):
    class Small(po.guides.Amortized):
        def forward(self, batch):
            with pyro.plate("obs", len(batch.index)):
                pyro.sample("z", self.local("z", batch))

    with pytest.raises(ValueError, match=r"guide's local site 'z' must be in a plate.*of size n_obs"):
        po.SVIModule(scvi(dm), guide=Small)


def test_a_plate_of_another_name_is_refused(dm):
    class Renamed(PoissonFactors):
        def plate(self, batch):
            return pyro.plate("cells", self.n_obs, subsample=batch.index)

    with pytest.raises(ValueError, match=r"called 'obs'.*'cells'"):
        po.SVIModule(Renamed(dm.n_obs, dm.n_genes))


def test_a_site_of_each_row_is_in_local_sites(dm):
    class Forgetful(PoissonFactors):
        local_sites = ()

    class Inside(PoissonFactors):
        def forward(self, batch):
            with self.plate(batch):
                z = pyro.sample("z", self.prior())
                w = pyro.sample("w", dist.Normal(torch.zeros(self.n_latent, self.n_genes), 1.0).to_event(2))
                pyro.sample("x", dist.Poisson((z.unsqueeze(-1) * w).sum(-2).exp()).to_event(1), obs=batch.x)

    for model, name, given in ((Forgetful, "z", r"\[\]"), (Inside, "w", r"\['z'\]")):
        with pytest.raises(
            ValueError,
            match=f"samples '{name}' inside self.plate.*local_sites are {given}: add '{name}' to local_sites.*before",
        ):
            po.SVIModule(model(dm.n_obs, dm.n_genes))


def test_a_name_that_is_used_twice_is_refused(dm):
    class Plates(PoissonFactors):
        def forward(self, batch):
            with self.plate(batch):
                pass
            super().forward(batch)

    class Guide(po.guides.Amortized):
        def forward(self, batch):
            super().forward(batch)
            pyro.sample("W", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"the model Plates opens model.plate\(batch\) more than once"):
        po.SVIModule(Plates(dm.n_obs, dm.n_genes))
    with pytest.raises(ValueError, match="the guide Guide samples 'W' more than once"):
        po.SVIModule(factors(dm), guide=Guide)


@pytest.mark.parametrize(
    "guide",
    [
        AutoNormal,
        partial(AutoNormal, init_scale=0.2),
        lambda model: AutoNormal(model),
        lambda model: AutoGuideList(model),
    ],
)
def test_a_bare_autoguide_is_refused_however_it_is_made(guide, dm):
    message = r"guide=Auto\w+ alone has no parameters.*\['z'\].*partial\(guides.Amortized, rest=AutoNormal\)"
    with pytest.raises(ValueError, match=message):
        po.SVIModule(factors(dm), guide=guide)


def test_an_autoguide_made_already_is_refused(dm):
    model = factors(dm)
    with pytest.raises(ValueError, match="guide=AutoNormal alone has no parameters"):
        po.SVIModule(model, guide=AutoNormal(model))


# 9: latent weights --------------------------------------------------------------------------------------------------


def test_latent_weights_are_global(dm):
    model = scvi(dm)
    linear = model.decoder.heads["rho"]
    linear.weight = pyro.nn.PyroSample(dist.Normal(0.0, 1.0).expand(linear.weight.shape).to_event(2))
    svi = po.SVIModule(model)
    trace = poutine.trace(svi.model).get_trace(dm.example_batch())
    site = trace.nodes["decoder.heads.rho.weight"]
    assert site["fn"].batch_shape == ()
    assert not [frame for frame in site["cond_indep_stack"] if frame.vectorized]


# 10: KL warm-up -----------------------------------------------------------------------------------------------------


def test_warm_up_scales_latents_of_model_and_guide_alike(dm):
    svi = po.SVIModule(factors(dm)).eval()
    batch = dm.data[dm.rows("training")[:20]]

    @torch.no_grad()
    def terms(weight):
        with ScaleLatents(weight):
            torch.manual_seed(3)
            guide = poutine.trace(svi.guide).get_trace(batch)
            model = poutine.trace(poutine.replay(svi.model, trace=guide)).get_trace(batch)
        seen = float(model.log_prob_sum(lambda _, site: site["is_observed"]))
        latent = float(model.log_prob_sum(lambda _, site: not site["is_observed"]) - guide.log_prob_sum())
        return seen, latent

    whole, quarter = terms(1.0), terms(0.25)
    assert quarter[0] == pytest.approx(whole[0], rel=1e-6)
    assert quarter[1] == pytest.approx(0.25 * whole[1], rel=1e-5)


@pytest.mark.parametrize("bound", [Trace_ELBO(), Trace_ELBO(num_particles=3), TraceMeanField_ELBO()])
def test_train_elbo_is_at_full_weight_during_warm_up(dm, bound, monkeypatch):
    svi = po.SVIModule(factors(dm), elbo=bound).eval()
    batch = dm.data[dm.rows("training")[:20]]
    torch.manual_seed(5)
    full = -svi(batch).item()
    logged = {}
    monkeypatch.setattr(po.SVIModule, "kl_weight", 0.1)
    monkeypatch.setattr(po.SVIModule, "_log", lambda self, name, value, batch: logged.update({name: value.item()}))
    torch.manual_seed(5)
    loss = svi.training_step(batch, 0).item()
    assert loss != pytest.approx(-full, abs=1e-3)
    # The mean-field bound has its KL in closed form, and what is missing of it is estimated from the draws.
    assert logged["train_elbo"] == pytest.approx(full, rel=1e-4 if type(bound) is Trace_ELBO else 0.2)


def test_warm_up_rises_from_above_zero_to_one_within_half_of_the_training(dm):
    watch = Watch(lambda fit, svi: svi.kl_weight)
    fit = trainer(max_epochs=8, callbacks=[watch])
    fit.fit(po.SVIModule(factors(dm), kl_warmup_epochs=100), dm)
    assert min(watch.seen) > 0
    assert watch.seen == sorted(watch.seen)
    assert watch.seen[: len(watch.seen) // 2 - 2] < [1.0] * (len(watch.seen) // 2 - 2)
    assert set(watch.seen[len(watch.seen) // 2 :]) == {1.0}


def test_warm_up_is_a_quarter_of_the_training_by_default(dm):
    watch = Watch(lambda fit, svi: svi.kl_weight)
    trainer(max_epochs=8, callbacks=[watch]).fit(po.SVIModule(factors(dm)), dm)
    quarter = len(watch.seen) // 4
    # What is seen after a step is the weight of the next.
    assert watch.seen == pytest.approx([min(1.0, (step + 2) / quarter) for step in range(len(watch.seen))])


def test_a_weight_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        ScaleLatents(0.0)


# 11: scale of the loss ----------------------------------------------------------------------------------------------


def test_gradients_stay_below_the_clip_whatever_the_size_of_the_data(dm):
    import anndata as ad

    large = []
    for copies in (1, 40):
        x = np.tile(np.asarray(dm.adata.X), (copies, 1))
        many = po.CellDataModule(ad.AnnData(x), validation_size=0.0)
        torch.manual_seed(0)
        svi = po.SVIModule(scvi(many))
        svi(many.data[np.arange(50)]).backward()
        large.append(max(float(p.grad.abs().max()) for p in svi.parameters()))
    assert large[0] == pytest.approx(large[1], rel=0.5)
    assert max(large) < 10


def test_the_loss_that_is_trained_is_the_negative_elbo_per_observation(dm):
    losses = []

    class Loss(pl.Callback):
        def on_train_batch_end(self, trainer, svi, outputs, batch, batch_idx):
            losses.append(float(outputs["loss"]))

    whole = po.CellDataModule(dm.adata, batch_size=100)  # one step in an epoch
    fit = trainer(callbacks=[Loss()])
    fit.fit(po.SVIModule(factors(whole), kl_warmup_epochs=0), whole)
    assert losses[-1] == pytest.approx(-float(fit.callback_metrics["train_elbo"]), rel=1e-6)
    assert 5 < losses[-1] < 500  # nats for 7 genes of a cell, not for all cells


# 12: a model without globals, and one without latents ---------------------------------------------------------------


def test_a_model_without_globals_has_an_empty_rest(dm):
    assert po.SVIModule(scvi(dm)).guide.rest is None


# 14: ELBOs that cannot work -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bound", [RenyiELBO(), TraceGraph_ELBO(), ReweightedWakeSleep(), JitTrace_ELBO()], ids=lambda b: type(b).__name__
)
def test_elbos_that_cannot_be_differentiated_are_refused_by_name(dm, bound):
    with pytest.raises(ValueError, match=type(bound).__name__):
        po.SVIModule(scvi(dm), elbo=bound)


# 15: batch norm and leading dimensions ------------------------------------------------------------------------------


def test_batch_norm_over_leading_dimensions():
    norm = po.layers.BatchNorm(6)
    x = torch.randn(4, 6, 6)  # as many rows as features: nn.BatchNorm1d would take the wrong axis
    y = norm(x)
    assert torch.allclose(y.mean((0, 1)), torch.zeros(6), atol=1e-5)
    torch.testing.assert_close(y, (x - x.mean((0, 1))) / (x.var((0, 1), correction=0) + 1e-3).sqrt())


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_an_epoch_may_end_in_a_batch_of_one_row():
    import anndata as ad

    x = np.random.default_rng(0).poisson(3.0, (17, 5)).astype(np.float32)
    dm = po.CellDataModule(ad.AnnData(x), batch_size=16, validation_size=0)
    trainer().fit(po.SVIModule(scvi(dm)), dm)


# 16: optimizers -----------------------------------------------------------------------------------------------------


def test_pyro_s_optimizer_factory_is_refused(dm):
    svi = po.SVIModule(scvi(dm), optimizer=lambda params: pyro.optim.ClippedAdam({"lr": 1e-3}))
    with pytest.raises(TypeError, match=r"pyro.optim.clipped_adam.ClippedAdam"):
        svi.configure_optimizers()


@pytest.mark.parametrize(
    ("scheduler", "word"),
    [
        (partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 1.0), "replaces"),
        (partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9), "multiplies"),
    ],
)
def test_two_decays_of_the_learning_rate_warn(dm, scheduler, word):
    svi = po.SVIModule(scvi(dm), optimizer=partial(ClippedAdam, lr=1e-3, lrd=0.99), scheduler=scheduler)
    with pytest.warns(UserWarning, match=word):
        svi.configure_optimizers()


def test_resume_restores_the_learning_rate(dm, tmp_path):
    fit = trainer(max_epochs=2)
    fit.fit(po.SVIModule(scvi(dm), optimizer=partial(ClippedAdam, lr=1e-3, lrd=0.9)), dm)
    fit.save_checkpoint(tmp_path / "a.ckpt")
    rate = fit.optimizers[0].param_groups[0]["lr"]
    again = trainer(max_epochs=2)
    again.fit(po.SVIModule(scvi(dm), optimizer=partial(ClippedAdam, lr=5.0)), dm, ckpt_path=tmp_path / "a.ckpt",
              weights_only=True)  # fmt: skip
    assert again.optimizers[0].param_groups[0]["lr"] == rate


# 19: validation of arguments ----------------------------------------------------------------------------------------


def test_arguments_are_validated_in_the_first_step_only(dm):
    seen = []

    class Asked(PoissonFactors):
        def forward(self, batch):
            if torch.is_grad_enabled():
                seen.append(pyro.infer.util.is_validation_enabled())
            super().forward(batch)

    trainer(max_epochs=1).fit(po.SVIModule(Asked(dm.n_obs, dm.n_genes)), dm)
    assert seen[0]
    assert not any(seen[1:])
    assert pyro.infer.util.is_validation_enabled()


# What the module is for ---------------------------------------------------------------------------------------------


def test_data_of_another_size_are_refused(dm):
    model = PoissonFactors(dm.n_obs + 1, dm.n_genes)
    with pytest.raises(ValueError, match=f"n_obs={dm.n_obs + 1}.*have {dm.n_obs}"):
        trainer().fit(po.SVIModule(model), dm)


def test_a_model_without_an_example_takes_one_from_the_data(dm):
    class Blind(po.models.CountModel):
        local_sites = ("z",)

        def forward(self, batch):
            with self.plate(batch):
                z = pyro.sample("z", dist.Normal(torch.zeros(batch.x.shape[-1]), 1.0).to_event(1))
                pyro.sample("x", dist.Poisson(z.exp()).to_event(1), obs=batch.x)

    svi = po.SVIModule(Blind(dm.n_obs))
    fit = trainer()
    fit.fit(svi, dm)
    assert math.isfinite(float(fit.callback_metrics["val_elbo"]))
    again = copy.deepcopy(svi.model)
    torch.testing.assert_close(again.example_batch().x, dm.example_batch().x)
    with pytest.raises(NotImplementedError, match="n_genes"):
        Blind(dm.n_obs).example_batch()


def test_the_exact_family_reaches_the_evidence():
    """Normal-Normal: with a conjugate posterior in the guide's family, the fitted ELBO is the log evidence."""
    torch.manual_seed(0)
    n = 30
    x = torch.randn(n, 1) + 1.0
    model, _ = exact_pair(n)
    batch = po.sizes.Sizes(n, 1).example_batch()._replace(x=x, row=torch.arange(n), index=torch.arange(n))
    svi = po.SVIModule(model)
    optimizer = torch.optim.Adam(svi.parameters(), lr=0.02)
    for _ in range(1500):
        optimizer.zero_grad()
        svi(batch).backward()
        optimizer.step()
    cov = torch.eye(n) + 1.0
    evidence = torch.distributions.MultivariateNormal(torch.zeros(n), cov).log_prob(x[:, 0]) / n
    elbos = torch.tensor([svi.plain_elbo(batch) for _ in range(200)])
    assert float(elbos.mean()) == pytest.approx(float(evidence), abs=0.01)


# Corners --------------------------------------------------------------------------------------------------------------


def test_mean_field_is_right_at_constrained_globals():
    """Trap 13: mu ~ LogNormal(0, 1), x ~ Poisson(mu), against quadrature."""

    class Model(po.models.CountModel):
        n_genes = 1

        def forward(self, batch):
            mu = pyro.sample("mu", dist.LogNormal(0.0, 1.0))
            with self.plate(batch):
                pyro.sample("x", dist.Poisson(mu).expand([len(batch.index), 1]).to_event(1), obs=batch.x)

    x = torch.tensor([[2.0], [1.0]])
    batch = po.sizes.Sizes(2, 1).example_batch()._replace(x=x)
    grid = torch.linspace(-6, 4, 20001)
    log_p = dist.Normal(0.0, 1.0).log_prob(grid) + dist.Poisson(grid.exp()).log_prob(x).sum(0)
    exact = float((grid * torch.softmax(log_p, 0)).sum())
    svi = po.SVIModule(Model(2), elbo=TraceMeanField_ELBO(num_particles=8))
    optimizer = torch.optim.Adam(svi.parameters(), lr=0.02)
    for _ in range(400):
        optimizer.zero_grad()
        svi(batch).backward()
        optimizer.step()
    assert svi.guide.rest.locs.mu.item() == pytest.approx(exact, abs=0.05)


def test_vectorised_particles_are_refused_where_a_loop_is_something_else(dm):
    """Trap 15: ``z @ W`` takes the particles of W for something else."""
    vectorised = Trace_ELBO(num_particles=4, vectorize_particles=True)
    with pytest.raises(ValueError, match=r"vectorize_particles=True.*PoissonFactors.*row_product.*num_particles=4"):
        po.SVIModule(factors(dm), elbo=vectorised)
    many = {"num_particles": 200}
    model = scvi(dm, norm=po.layers.LayerNorm, dropout=0.0)
    batch = dm.data[dm.rows("training")[:8]]  # as many rows as hidden units
    loop = po.SVIModule(model, elbo=Trace_ELBO(**many))(batch).item()
    assert po.SVIModule(model, elbo=Trace_ELBO(vectorize_particles=True, **many))(batch).item() == pytest.approx(
        loop, rel=5e-3
    )
    po.testing.check_model(scvi(dm), dm, elbo=vectorised)


@pytest.mark.parametrize("kind", [Trace_ELBO, po.elbos.TraceELBO, TraceMeanField_ELBO])
def test_vectorised_particles_over_globals_are_a_loop_s(kind, dm):
    torch.manual_seed(0)
    model, batch = CountFactors.from_data(dm, n_latent=3), dm.data[dm.rows("training")[:8]]
    losses = {}
    for vectorised in (False, True):
        svi = po.SVIModule(model, elbo=kind(num_particles=300, vectorize_particles=vectorised)).eval()
        torch.manual_seed(0)
        losses[vectorised] = [value.item() for value in svi.adapter.step(svi.elbo, batch, 0.3)]
    assert losses[True] == pytest.approx(losses[False], rel=5e-3)
    model.train()
    svi = po.SVIModule(model, elbo=kind(num_particles=4, vectorize_particles=True))
    trainer().fit(svi, dm)
    po.testing.check_model(model, dm, elbo=kind(num_particles=4, vectorize_particles=True))


@pytest.mark.parametrize("limits", [{"max_epochs": 1000, "max_steps": 30}, {"max_epochs": -1, "max_steps": 30},
                                    {"max_epochs": 10, "accumulate_grad_batches": 3}])  # fmt: skip
def test_warm_up_lasts_its_epochs_however_training_is_limited(dm, limits):
    watch = Watch(lambda fit, svi: (fit.global_step, svi._warmup_steps))
    trainer(callbacks=[watch], **limits).fit(po.SVIModule(factors(dm), kl_warmup_epochs=3), dm)
    per_epoch = math.ceil(dm.n_obs / 16) / limits.get("accumulate_grad_batches", 1)
    assert {steps for _, steps in watch.seen} == {int(3 * per_epoch)}


def test_copies_are_of_the_same_classes(dm):
    import pickle

    model = scvi(dm, norm=po.layers.BatchNorm)
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert [type(m) for m in again.modules()] == [type(m) for m in model.modules()]
    assert type(copy.deepcopy(po.layers.LayerNorm(3))) is po.layers.LayerNorm


def test_data_of_other_genes_are_refused_at_every_stage(dm):
    svi = po.SVIModule(scvi(dm))
    trainer().fit(svi, dm)
    other = po.CellDataModule(dm.adata[:, ::-1].copy(), batch_size=16)
    for stage in (trainer().validate, trainer().predict, trainer().fit):
        with pytest.raises(ValueError, match="other genes"):
            stage(svi, datamodule=other)


def test_a_model_made_for_other_data_is_refused_before_training(dm):
    model = scvi(dm)
    for other, field in [
        (po.CellDataModule(dm.adata, batch_key="donor"), "n_batches=1"),
        (po.CellDataModule(dm.adata[:, :5].copy()), "n_genes=7"),
    ]:
        with pytest.raises(ValueError, match=field):
            trainer().fit(po.SVIModule(model), other)


@pytest.mark.parametrize(
    ("argument", "make"),
    [
        ("dispersion", lambda: po.dispersions.PerGene()),
        ("library", lambda: po.library_sizes.Latent()),
        ("prior", lambda: po.priors.StandardNormal()),
        ("decoder", lambda: po.layers.Decoder(3, {"rho": 7, "dropout_logits": 7})),
        ("encoder", lambda: po.layers.Encoder(7, 3)),
    ],
)
def test_a_part_belongs_to_one_model(dm, argument, make):
    part = make()

    def build():
        if argument == "dispersion":
            return scvi(dm, likelihood=po.likelihoods.NegativeBinomial(part))
        return scvi(dm, **{argument: part})

    before = copy.deepcopy(build().state_dict())
    with pytest.raises(ValueError, match="model already"):
        build()
    assert before


def test_wrong_parts_are_named(dm):
    wrong = [
        ({"likelihood": po.likelihoods.Poisson}, r"must be a Likelihood object; got the class Poisson: .*Poisson\(\)"),
        ({"likelihood": "nb"}, "likelihood must be a Likelihood.*'nb'"),
        ({"prior": po.priors.StandardNormal}, "prior must be a Prior object; got the class"),
        ({"library": "latent"}, "library must be"),
    ]
    for options, message in wrong:
        with pytest.raises(TypeError, match=message):
            scvi(dm, **options)
    with pytest.raises(TypeError, match="elbo must be an ELBO"):
        po.SVIModule(scvi(dm), elbo=Trace_ELBO)
    for argument, example in (
        ("guide", "guides.Amortized"),
        ("optimizer", "ClippedAdam"),
        ("scheduler", "lr_scheduler"),
    ):
        with pytest.raises(TypeError, match=f"{argument} must be a callable, such as .*{example}.*'Name'"):
            po.SVIModule(scvi(dm), **{argument: "Name"})
    with pytest.raises(TypeError, match=r"guide must make a PyroModule from a model.*made None"):
        po.SVIModule(scvi(dm), guide=lambda model: None)
    with pytest.raises(TypeError, match="model must be a CountModel"):
        po.SVIModule(dm)
    with pytest.raises(TypeError, match="dm must be a DataModule"):
        po.SCVI.from_data(dm.adata)
    with pytest.raises(TypeError, match=r"Posterior\(svi, dm\) must be given an SVIModule and a DataModule; got"):
        po.Posterior(scvi(dm), dm)
    with pytest.raises(ValueError, match="n_latent must be an integer"):
        po.SCVI.from_data(dm, n_latent=0)


def test_networks_of_the_wrong_shape_are_refused(dm):
    with pytest.raises(ValueError, match="'rho' of 7 genes"):
        po.SVIModule(scvi(dm, decoder=po.layers.Decoder(3, {"rho": 1, "dropout_logits": 1})))
    with pytest.raises(ValueError, match="'dropout_logits' of 7 genes"):
        po.SVIModule(scvi(dm, decoder=po.layers.Decoder(3, {"rho": 7})))
    with pytest.raises(ValueError, match="a location and a scale"):
        po.SVIModule(scvi(dm, encoder=torch.nn.Linear(7, 3)))
    with pytest.raises(ValueError, match=r"encoder of 'z' does not accept its inputs \(.*2x7 and 6x128.*n_in=7"):
        po.SVIModule(scvi(dm, encoder=po.layers.Encoder(6, 3)))
    with pytest.raises(ValueError, match="3 numbers for each"):
        po.SVIModule(scvi(dm, encoder=po.layers.Encoder(7, 2)))


# A penalty of a model's own -------------------------------------------------------------------------------------------


class Shy(PoissonFactors):
    """Latents near 0 are preferred in training, beyond what the prior says."""

    weight = 0.0

    def penalty(self, batch, latents):
        assert set(latents) == {"W", "z"}
        assert latents["z"].requires_grad and len(latents["z"]) == len(batch.index)
        return self.weight * latents["z"].square().mean()


class Heard(Messenger):
    """The values of z in the guide and in the model."""

    def __init__(self):
        super().__init__()
        self.values = []

    def _pyro_post_sample(self, msg):
        if msg["name"] == "z":
            self.values.append(msg["value"])


def test_any_model_may_declare_a_penalty(dm):
    def spread(weight):
        pl.seed_everything(0, verbose=False)
        model = Shy.from_data(dm)
        model.weight = weight
        svi = po.SVIModule(model)
        long = trainer(max_epochs=40)
        long.fit(svi, dm)
        assert "train_penalty" in long.callback_metrics
        return np.abs(po.Posterior(svi, dm).latent()).mean()

    assert spread(1e3) < 0.5 * spread(0.0)


def test_a_penalty_sees_the_draws_that_the_loss_is_of(dm):
    model = Shy.from_data(dm)
    seen = {}
    model.penalty = lambda batch, latents: seen.update(latents)  # returns None: no penalty
    svi = po.SVIModule(model)
    with Heard() as heard:
        svi(dm.example_batch())
    assert len(heard.values) == 2 and all(value is seen["z"] for value in heard.values)
    seen.clear()
    svi.eval()(dm.example_batch())
    assert not seen


@pytest.mark.parametrize("kind", ["scvi", "totalvi"])
def test_networks_in_16_bits(kind):
    """A fit with ``precision="bf16-mixed"``, and the ELBO of its pair in both precisions."""
    adata = counts(600, 80)
    adata.obsm["proteins"] = pd.DataFrame(
        np.random.default_rng(0).poisson(20, (600, 5)), index=adata.obs_names, columns=list("abcde")
    )
    dm = po.CellDataModule(adata, batch_size=100, protein_obsm_key="proteins" if kind == "totalvi" else None)
    torch.manual_seed(0)
    svi = po.SVIModule((po.SCVI if kind == "scvi" else po.TotalVI).from_data(dm, n_latent=3))
    trainer = quiet_trainer(5, precision="bf16-mixed")
    trainer.fit(svi, dm)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in svi.parameters())
    batch, found = dm.data[range(200)], []
    for sixteen in (False, True):
        torch.manual_seed(1)
        with torch.no_grad(), layers.eval_mode(svi), torch.autocast("cpu", torch.bfloat16, enabled=sixteen):
            found.append(svi.elbo(batch))
            heads = svi.model.decoder(torch.zeros(3, 3))
            assert {out.dtype for out in (*heads.values(), *svi.model.encode(batch))} == {torch.float32}
    assert found[1].dtype == torch.float32
    assert float(found[1]) == pytest.approx(float(found[0]), rel=5e-3)
    assert float(found[1]) != float(found[0])


@pytest.mark.parametrize("noise_seed", ["a", 1.5])
def test_a_noise_seed_that_is_no_integer_is_refused(dm, noise_seed):
    with pytest.raises(ValueError, match=f"noise_seed must be an integer, or None .*; got {noise_seed!r}"):
        po.SVIModule(factors(dm), noise_seed=noise_seed)


def test_weights_in_16_bits_are_refused_before_training(dm):
    trainer = quiet_trainer(1, precision="bf16-true")
    with pytest.raises(ValueError, match=r"precision='bf16-true'\) holds weights in 16 bits.*bf16-mixed"):
        trainer.fit(po.SVIModule(factors(dm)), dm)


# Whether it is trained ------------------------------------------------------------------------------------------------


def trained_by_lightning(svi, dm):
    trainer(max_epochs=1).fit(svi, dm)


def trained_by_hand(svi, dm):
    optimizer = torch.optim.Adam(svi.parameters(), lr=1e-3)
    svi(dm.example_batch()).backward()
    optimizer.step()


def loaded(svi, dm):
    svi.load_state_dict({name: value + 1 for name, value in svi.state_dict().items()})


def marked(svi, dm):
    svi.fitted = True


@pytest.mark.parametrize("change", [trained_by_lightning, trained_by_hand, loaded, marked])
def test_an_untrained_module_is_said_at_the_first_question(dm, change):
    svi = po.SVIModule(scvi(dm))
    with pytest.warns(UserWarning, match=r"has not been trained.*trainer.fit\(svi, dm\)"):
        po.Posterior(svi, dm)
    assert not svi.fitted and not copy.deepcopy(svi).fitted
    change(svi, dm)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        po.Posterior(svi, dm)
        po.Posterior(copy.deepcopy(svi), dm)
    svi.fitted = False
    assert not svi.fitted


def test_a_module_that_waits_for_data_has_no_answers(dm):
    class Waits(PoissonFactors):
        def example_batch(self):
            raise NotImplementedError

    with pytest.raises(ValueError, match=r"no guide yet.*trainer.fit\(svi, dm\)"):
        po.Posterior(po.SVIModule(Waits(dm.n_obs, dm.n_genes)), dm)
