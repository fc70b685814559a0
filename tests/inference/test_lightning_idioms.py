"""What Lightning's tutorials do: checkpoints that load by themselves, the tuner, compiled modules, double precision."""

import copy
import logging
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from helpers import cells_with_proteins, counts, donors, protein_data, quiet_trainer, small, totalvi
from own_model import CountFactors
from pyro.infer.autoguide import AutoLaplaceApproximation, AutoNormal, AutoStructured
from pytorch_lightning.tuner import Tuner

import pyro_omics as po
from pyro_omics.models.base import CountModel


@pytest.fixture(scope="module")
def dm():
    return po.CellDataModule(counts(72, donor=donors(72, "d1", "d2")), batch_key="donor", batch_size=16)


def checkpoint(pair, path):
    """A checkpoint of a trained pair, without training it further."""
    trainer = quiet_trainer(1)
    trainer.strategy.connect(pair.svi)
    trainer.save_checkpoint(path)
    return path


def same(one, two, dm):
    """Whether two pairs have the same weights and the same draws."""
    ours, theirs = one.state_dict(), two.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    first, second = (po.Posterior(svi, dm).samples(num_samples=2) for svi in (one, two))
    return all(np.allclose(first[name], second[name], rtol=1e-5, atol=1e-6) for name in first)


# Checkpoints ----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_loads_by_itself(fitted_pair, tmp_path):
    svi, dm = fitted_pair
    path = checkpoint(fitted_pair, tmp_path / "a.ckpt")
    own = [CountFactors] if isinstance(svi.model, CountFactors) else []
    found = po.SVIModule.load_from_checkpoint(path, classes=own)
    assert found.schema == svi.schema and type(found.guide) is type(svi.guide)
    assert found.kl_warmup_epochs == svi.kl_warmup_epochs
    assert same(svi, found, dm)


def test_what_is_passed_takes_the_place_of_what_is_described(dm, tmp_path):
    svi = po.SVIModule(small(dm), guide=po.guides.PerObservation, noise_seed=3, kl_warmup_epochs=4)
    trainer = quiet_trainer(1)
    trainer.fit(svi, dm)
    trainer.save_checkpoint(path := tmp_path / "a.ckpt")
    with path.open("rb") as file:
        found = po.SVIModule.load_from_checkpoint(file, model=small(dm), kl_warmup_epochs=1)
    assert same(svi, found, dm)
    assert (found.noise_seed, found.kl_warmup_epochs, type(found.guide)) == (3, 1, po.guides.PerObservation)
    with pytest.raises(ValueError, match="guide must be the class that was saved, PerObservation"):
        po.SVIModule.load_from_checkpoint(path, guide=po.guides.Amortized)
    with pytest.raises(TypeError, match="cannot be called on an instance"):
        svi.load_from_checkpoint(path)


def test_numbers_and_texts_of_numpy_come_back(dm, tmp_path):
    prior = po.priors.MixtureOfGaussians(np.int64(3))
    model = small(dm, dropout=np.float64(0.25), n_latent=np.int32(3), prior=prior)
    svi = po.SVIModule(model, kl_warmup_epochs=np.int64(2), noise_seed=np.int64(5))
    trainer = quiet_trainer(1)
    trainer.fit(svi, dm)
    trainer.save_checkpoint(path := tmp_path / "a.ckpt")
    found = po.SVIModule.load_from_checkpoint(path)
    assert (found.model.dropout, found.kl_warmup_epochs, found.noise_seed) == (0.25, 2, 5)
    assert same(svi, found, dm)


def test_what_to_pass_is_said(dm, fitted_own_model, fitted_scvi, tmp_path):
    own = checkpoint(fitted_own_model, tmp_path / "own.ckpt")
    with pytest.raises(ValueError, match=r"CountFactors.*classes=\[CountFactors\]"):
        po.SVIModule.load_from_checkpoint(own)
    content = torch.load(checkpoint(fitted_scvi, tmp_path / "old.ckpt"), weights_only=True)
    for name in ("model", "guide", "kl_warmup_epochs", "noise_seed"):
        del content["pyro_omics"][name]  # as earlier versions wrote it
    torch.save(content, tmp_path / "old.ckpt")
    with pytest.raises(ValueError, match=r"pass them, SVIModule.load_from_checkpoint\(path, model=MODEL.*svi.save"):
        po.SVIModule.load_from_checkpoint(tmp_path / "old.ckpt")
    svi, cells = fitted_scvi
    assert same(svi, po.SVIModule.load_from_checkpoint(tmp_path / "old.ckpt", model=small(cells)), cells)


class Waiting(CountModel):
    """A model without an example batch."""

    def __init__(self, n_obs):
        super().__init__(n_obs)


def test_a_model_without_an_example_asks_for_one(fitted_own_model, tmp_path):
    path = checkpoint(fitted_own_model, tmp_path / "a.ckpt")
    with pytest.raises(ValueError, match=r"model.given_example = dm.example_batch\(\)"):
        po.SVIModule.load_from_checkpoint(path, model=Waiting(10))


# The tuner ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:The number of training batches")
def test_the_rate_that_is_found_is_used(dm, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    svi = po.SVIModule(small(dm), warm_start=False)
    before = copy.deepcopy(svi.state_dict())
    trainer = quiet_trainer(1)
    found = Tuner(trainer).lr_find(svi, datamodule=dm, num_training=20)
    # More steps than an epoch has, and the weights and the number of epochs as they were.
    assert len(found.results["lr"]) == 20 and found.suggestion() == svi.lr
    assert trainer.max_epochs == 1
    assert all(torch.equal(value, before[name]) for name, value in svi.state_dict().items())
    trainer.fit(svi, dm)
    assert (trainer.current_epoch, trainer.global_step) == (1, 5)
    assert trainer.optimizers[0].param_groups[0]["initial_lr"] == svi.lr
    assert not list(tmp_path.iterdir())


def test_a_rate_replaces_the_optimizers_own_before_the_scheduler_is_made(dm):
    svi = po.SVIModule(small(dm), scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))
    svi.lr = 0.25
    trainer = quiet_trainer(2)
    trainer.fit(svi, dm)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0625)


def test_the_batch_size_can_be_scaled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dm = po.CellDataModule(counts(60), batch_size=4)
    found = Tuner(quiet_trainer(1)).scale_batch_size(po.SVIModule(small(dm)), datamodule=dm, max_trials=3, init_val=4)
    assert dm.batch_size == found > 4


# torch.compile --------------------------------------------------------------------------------------------------------


compiled = partial(torch.compile, backend="eager")


def test_a_compiled_module_is_refused_and_goes_on_as_it_was(dm):
    svi = po.SVIModule(small(dm))
    for ask in (pl.Trainer.fit, pl.Trainer.validate):
        with pytest.raises(ValueError, match=r"torch.compile\(svi\) cannot compile .*: pass svi itself"):
            ask(quiet_trainer(1), compiled(svi), datamodule=dm)
    quiet_trainer(1).fit(svi, dm)
    assert po.Posterior(copy.deepcopy(svi), dm).latent().shape == (72, 3)
    for ask in (lambda: po.Posterior(compiled(svi), dm), lambda: po.SVIModule(compiled(svi.model))):
        with pytest.raises(TypeError, match=r"got torch.compile\(...\), which cannot .*: pass the module itself"):
            ask()


# Loaders --------------------------------------------------------------------------------------------------------------


class Seen(pl.Callback):
    """The rows of each minibatch of training and validation, by epoch."""

    def __init__(self):
        self.training, self.validation = [], []

    def on_train_batch_start(self, trainer, svi, batch, batch_idx):
        self.training.append((trainer.current_epoch, batch.row.tolist()))

    def on_validation_batch_start(self, trainer, svi, batch, batch_idx, dataloader_idx=0):
        self.validation.append(batch.row.tolist())


@pytest.mark.parametrize("n_batches", [2, 0.5])
@pytest.mark.parametrize("backed", [False, True])
def test_overfitting_takes_the_same_minibatches_of_training_rows(n_batches, backed, tmp_path):
    counts(60).write_h5ad(tmp_path / "cells.h5ad")
    dm = po.CellDataModule(
        tmp_path / "cells.h5ad", batch_size=9, validation_size=0.4, backed=backed
    )  # 4 and 3 minibatches
    seen = Seen()
    trainer = quiet_trainer(3, overfit_batches=n_batches, callbacks=[seen], num_sanity_val_steps=0)
    trainer.fit(po.SVIModule(small(dm)), dm)
    first, held_out = ([dm.rows(split)[i : i + 9].tolist() for i in (0, 9)] for split in ("training", "validation"))
    assert [rows for _, rows in seen.training] == first * 3
    assert seen.validation == held_out[: 2 if n_batches == 2 else 1] * 3


@pytest.mark.parametrize(("share", "rows"), [(0.3, "3 minibatches of validation"), (0.1, "4 minibatches of training")])
def test_overfitting_less_than_a_minibatch_is_refused_by_its_own_name(share, rows):
    """Lightning names limit_val_batches, which overfit_batches overrides."""
    dm = po.CellDataModule(counts(60), batch_size=9, validation_size=0.4)
    message = rf"overfit_batches must take a minibatch or more; got {share} of the {rows} rows: pass a number"
    with pytest.raises(ValueError, match=message):
        quiet_trainer(1, overfit_batches=share, num_sanity_val_steps=0).fit(po.SVIModule(small(dm)), dm)
    quiet_trainer(1, overfit_batches=1).fit(po.SVIModule(small(dm)), dm)


@pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero")
@pytest.mark.parametrize("option", ["overfit_batches", "limit_val_batches"])
def test_a_share_of_the_minibatches_where_no_rows_are_held_out(option):
    dm, seen = po.CellDataModule(counts(60), batch_size=6, validation_size=0), Seen()
    quiet_trainer(2, callbacks=[seen], **{option: 0.3}).fit(po.SVIModule(small(dm)), dm)
    assert len(seen.training) == 2 * (3 if option == "overfit_batches" else 10) and not seen.validation


@pytest.mark.parametrize(
    "options",
    [
        {"limit_train_batches": 2},
        {"reload_dataloaders_every_n_epochs": 1},
        {"val_check_interval": 2},
        {"limit_val_batches": 1, "val_check_interval": 0.5},
    ],
)
def test_other_ways_of_a_trainer_train_on_training_rows_and_validate_on_the_others(options):
    dm = po.CellDataModule(counts(60), batch_size=12, validation_size=0.2)
    seen = Seen()
    quiet_trainer(3, callbacks=[seen], num_sanity_val_steps=0, **options).fit(po.SVIModule(small(dm)), dm)
    orders = [[rows for epoch, rows in seen.training if epoch == n] for n in range(3)]
    assert len({str(order) for order in orders}) == 3
    assert all({len(rows) for rows in order} == {12} for order in orders)
    assert {row for order in orders for rows in order for row in rows} <= set(dm.rows("training"))
    assert seen.validation and all(rows == dm.rows("validation").tolist() for rows in seen.validation)


@pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`")
def test_what_is_no_datamodule_is_refused(dm):
    svi = po.SVIModule(small(dm))
    for ask in (pl.Trainer.fit, pl.Trainer.validate):
        with pytest.raises(TypeError, match=r"trainer.fit\(svi, CellDataModule\(adata\)\).*got one of a AnnData"):
            ask(quiet_trainer(1, num_sanity_val_steps=0), svi, dm.adata)


# Precision ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def scvi():
    dm = po.CellDataModule(counts(48), batch_size=16, validation_size=0.2)
    return small(dm, prior=po.priors.VampPrior(4), library=po.library_sizes.Latent()), dm


def total():
    dm = protein_data(cells_with_proteins("nan"), validation_size=0.2)
    return totalvi(dm), dm


def scanvi():
    adata = counts(60, 20)
    dm = po.CellDataModule(adata, label_key="group", batch_size=16, validation_size=0.2)
    return po.SCANVI.from_data(dm, n_latent=3, n_hidden=8, unlabeled_category=None), dm


def library():
    return po.DELDataModule(po.simulate.del_library(cycles=(4, 5, 6), depth=8.0, seed=2)[0], validation_size=0.2)


def hierarchical():
    dm = library()
    return po.HierarchicalDEL.from_data(dm), dm


def regression():
    dm = library()
    return po.DELCount.from_data(dm, n_hidden=8, latent_depth=True), dm


MAKERS = [scvi, total, scanvi, hierarchical, regression]


def ask_everything(svi, dm):
    """Every kind of answer, all finite."""
    post = po.Posterior(svi, dm)
    answers = [post.elbo("validation"), post.log_likelihood(num_particles=3), post.predictive(num_samples=2)]
    answers += [post.query(name, num_samples=2) for name in svi.model.queries]
    if svi.model.local_sites:
        answers.append(post.latent())
    flat = [part for answer in answers for part in (answer if isinstance(answer, tuple) else [answer])]
    for part in flat:
        values = part.to_array().values if hasattr(part, "to_array") else np.asarray(part)
        assert np.isfinite(values).all()


@pytest.mark.parametrize("make", MAKERS)
def test_a_session_in_double_precision(in_double, make):
    model, dm = make()
    svi = po.SVIModule(model)
    quiet_trainer(2).fit(svi, dm)
    assert {p.dtype for p in svi.parameters()} == {torch.float64}
    assert next(iter(dm.train_dataloader())).x.dtype == torch.float64
    assert svi(dm.example_batch()).dtype == torch.float64
    ask_everything(svi, dm)


@pytest.mark.parametrize("rest", [AutoNormal, AutoStructured])
def test_a_start_from_the_data_keeps_the_precision_of_the_guide(in_double, rest):
    dm = library()
    svi = po.SVIModule(po.HierarchicalDEL.from_data(dm), guide=partial(po.guides.Conditional, rest=rest))
    quiet_trainer(1).fit(svi, dm)
    assert {p.dtype for p in svi.parameters()} == {torch.float64}


@pytest.mark.parametrize("make", MAKERS)
def test_a_trainer_in_double_precision(make):
    model, dm = make()
    svi = po.SVIModule(model)
    quiet_trainer(2, precision="64-true").fit(svi, dm)
    assert {p.dtype for p in svi.parameters()} == {torch.float64}
    ask_everything(svi, dm)
    quiet_trainer(1, precision="64-true").fit(svi, dm)  # from weights that are double before it starts
    quiet_trainer(1).validate(svi, dm, verbose=False)


def test_hooks_at_the_end_of_a_fit_get_the_precision_of_the_weights():
    dm = po.CellDataModule(counts(48), batch_size=16)
    guide = partial(po.guides.Amortized, rest=AutoLaplaceApproximation)
    svi = po.SVIModule(po.bayesianize(small(dm), "likelihood.dispersion"), guide=guide)
    quiet_trainer(2, precision="64-true").fit(svi, dm)
    assert bool(svi.guide.rest.found) and svi.guide.rest.scale_tril.dtype == torch.float64


# The other package ----------------------------------------------------------------------------------------------------

OTHER = """
import pyro_omics as po  # the names, and with them Lightning, are imported at their first use
import lightning.pytorch as pl, numpy as np, anndata as ad
dm = po.CellDataModule(ad.AnnData(np.random.default_rng(0).poisson(1.0, (64, 20)).astype("f4")), batch_size=32)
svi = po.SVIModule(po.SCVI.from_data(dm, n_latent=3))
assert isinstance(svi, pl.LightningModule) and isinstance(dm, pl.LightningDataModule)
quiet = dict(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
history = po.report.History()
trainer = pl.Trainer(max_epochs=2, callbacks=[history], **quiet)
trainer.fit(svi, dm)
trainer.save_checkpoint("a.ckpt")
assert len(history.curves["train_elbo"]) == 2
again = po.SVIModule.load_from_checkpoint("a.ckpt")
np.testing.assert_allclose(po.Posterior(again, dm).latent(), po.Posterior(svi, dm).latent(), rtol=1e-5, atol=1e-6)
"""


@pytest.mark.slow
def test_a_trainer_of_lightning_pytorch(tmp_path):
    """`lightning.pytorch` is `pytorch_lightning` under another name; this one is made of the installed one."""
    source = Path(pl.__file__).parent
    for path in (*source.rglob("*.py"), source / "version.info"):
        copied = tmp_path / "lightning" / "pytorch" / path.relative_to(source)
        copied.parent.mkdir(parents=True, exist_ok=True)
        copied.write_text(path.read_text().replace("pytorch_lightning", "lightning.pytorch"))
    (tmp_path / "lightning" / "__init__.py").write_text("")
    environment = {"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}", "PATH": ""}
    done = subprocess.run([sys.executable, "-c", OTHER], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
