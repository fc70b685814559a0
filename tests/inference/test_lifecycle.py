"""A resumed fit is the fit that went on; signals, diverged trainings and wrong monitors end a fit as they should."""

import multiprocessing
import os
import signal
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from helpers import counts, donors, quiet_trainer, small
from pyro.infer.autoguide import AutoLaplaceApproximation
from pyro.optim.clipped_adam import ClippedAdam
from pytorch_lightning.callbacks import (
    Checkpoint,
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from pytorch_lightning.loggers import Logger
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

import pyro_omics as po

pytestmark = pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")

N = 60  # 54 training rows: four minibatches of 16, the last of 6


@pytest.fixture(scope="module")
def adata():
    return counts(N, 12, donor=donors(N, "d1", "d2"))


class Means(pl.Callback):
    """Records the logged means of each epoch."""

    def __init__(self):
        self.seen = {}

    def on_train_epoch_end(self, trainer, svi):
        self.seen[trainer.current_epoch] = {name: float(value) for name, value in trainer.callback_metrics.items()}


def fit(adata, ckpt=None, callbacks=(), svi=None, dm=None, epochs=3, scheduler=None, noise_seed=None, **trainer):
    """A fit from seed 0, or resumed in a session whose generators are elsewhere."""
    torch.manual_seed(0)
    dm = po.CellDataModule(adata, **{"batch_key": "donor", "batch_size": 16, **(dm or {})})
    module = po.SVIModule(small(dm, dropout=0.2), scheduler=scheduler, noise_seed=noise_seed, **(svi or {}))
    means = Means()
    saves = any(isinstance(callback, Checkpoint) for callback in callbacks)
    runner = quiet_trainer(epochs, callbacks=[means, *callbacks], enable_checkpointing=saves, **trainer)
    if ckpt is not None:
        torch.manual_seed(1234)
    runner.fit(module, dm, ckpt_path=ckpt, weights_only=True)
    return module, runner, means.seen


def assert_same_weights(first, second):
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def assert_same(one, other):
    (first, left, means), (second, right, again) = one, other
    assert left.global_step == right.global_step
    assert_same_weights(first, second)
    pairs = zip(left.optimizers[0].state.values(), right.optimizers[0].state.values(), strict=True)
    for state, other_state in pairs:
        for name, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(other_state[name])), name
    assert left.optimizers[0].param_groups[0]["lr"] == right.optimizers[0].param_groups[0]["lr"]
    assert {epoch: means[epoch]["train_elbo"] for epoch in again if "train_elbo" in again[epoch]} == {
        epoch: again[epoch]["train_elbo"] for epoch in again if "train_elbo" in again[epoch]
    }


EACH_STEP = {"filename": "{step}", "every_n_train_steps": 1, "save_top_k": -1}
EACH_EPOCH = {"filename": "{step}", "every_n_epochs": 1, "save_top_k": -1}
FITS = {
    "plain": {},
    "keyed noise": {"noise_seed": 3},
    "no validation": {"dm": {"validation_size": 0.0}},
    "schedule": {"scheduler": partial(CosineAnnealingLR, T_max=3)},
    "plateau": {"scheduler": partial(ReduceLROnPlateau, mode="max", patience=0, factor=0.5, threshold=1.0)},
    "accumulated": {"accumulate_grad_batches": 2},
    "long warm-up": {"svi": {"kl_warmup_epochs": 1}},
    "steps": {"epochs": -1, "max_steps": 11},
    "validation within epochs": {"val_check_interval": 0.5},
    "seldom validation": {"check_val_every_n_epoch": 2},
}


@pytest.mark.parametrize("options", FITS.values(), ids=FITS)
@pytest.mark.parametrize("when", [EACH_STEP, EACH_EPOCH], ids=["step", "epoch"])
def test_a_resumed_fit_is_the_uninterrupted_one(adata, tmp_path, options, when):
    whole = fit(adata, callbacks=[ModelCheckpoint(tmp_path, **when)], **options)
    saved = sorted(tmp_path.glob("*.ckpt"))
    assert saved
    for path in saved:
        assert_same(whole, fit(adata, ckpt=path, **options))


class Rows(Logger):
    """A logger that keeps what it is given: (step, values)."""

    name, version = "rows", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, *args, **kwargs):
        pass


def watched(adata, folder, ckpt=None, callbacks=(), monitor="val_elbo", **options):
    """A fit whose scheduler and callbacks watch the ELBO, and what they and its logger have seen."""
    stop = EarlyStopping(monitor, mode="max", patience=50)
    best = ModelCheckpoint(
        folder, "{epoch}-{step}", monitor=monitor, mode="max", save_top_k=2, enable_version_counter=False
    )
    scheduler = partial(ReduceLROnPlateau, mode="max", patience=0, factor=0.5, threshold=1.0)
    chosen = {"scheduler": scheduler, "epochs": 4, "logger": Rows(), "log_every_n_steps": 1, **options}
    history = po.evaluation.report.History()
    found = fit(adata, ckpt, [stop, history, best, *callbacks], **chosen)
    trainer = found[1]
    seen = {
        "stop": stop.state_dict(),
        # Lightning does not load current_score, the last that was saved, which nothing reads.
        "best": {name: value for name, value in best.state_dict().items() if name != "current_score"},
        "history": history.history,
        "schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "callback metrics": trainer.callback_metrics,
        "logged metrics": trainer.logged_metrics,
    }
    return found, seen, trainer.logger.rows


VALIDATIONS = {
    "each epoch": {},
    "twice an epoch": {"val_check_interval": 0.5},
    "each second epoch": {"check_val_every_n_epoch": 2},
    "by steps": {"val_check_interval": 3, "check_val_every_n_epoch": None},
    "none": {"monitor": "train_elbo", "dm": {"validation_size": 0.0}},
    "accumulated": {"accumulate_grad_batches": 3, "val_check_interval": 0.5},
    "limited steps": {"epochs": -1, "max_steps": 15},
}


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("options", VALIDATIONS.values(), ids=VALIDATIONS)
def test_what_follows_a_step_is_not_left_out_of_a_resumed_fit(adata, tmp_path, options):
    """Lightning would go on with the next step, without the validation or the end of the epoch between the two."""
    save = ModelCheckpoint(tmp_path / "steps", **EACH_STEP)
    whole, seen, rows = watched(adata, tmp_path / "best", callbacks=[save], **options)
    saved = sorted((tmp_path / "steps").glob("*.ckpt"))
    assert len(saved) >= 8
    for path in saved:
        if "max_steps" in options and path.name == "step=15.ckpt":
            continue  # a fit of 15 steps has ended there
        again, seen_again, rows_again = watched(adata, tmp_path / "best", ckpt=path, **options)
        assert_same(whole, again)
        assert again[2] == {epoch: whole[2][epoch] for epoch in again[2]}
        assert rows_again == rows[len(rows) - len(rows_again) :]
        for name, value in seen.items():
            assert str(seen_again[name]) == str(value), (path.name, name)


AVERAGES = {
    "swa": partial(StochasticWeightAveraging, 1e-2, swa_epoch_start=2, annealing_epochs=2),
    "swa, linear": partial(StochasticWeightAveraging, 1e-2, 0.5, annealing_epochs=9, annealing_strategy="linear"),
    "ema": EMAWeightAveraging,
}


@pytest.mark.filterwarnings("ignore:Swapping scheduler")
@pytest.mark.parametrize("make", AVERAGES.values(), ids=AVERAGES)
@pytest.mark.parametrize(
    "scheduler", [po.optim.Constant, partial(CosineAnnealingLR, T_max=4)], ids=["constant", "cosine"]
)
def test_averaged_weights_are_those_of_the_uninterrupted_fit(adata, tmp_path, make, scheduler):
    options = {"epochs": 4, "scheduler": scheduler}
    each = [ModelCheckpoint(tmp_path / "step", **EACH_STEP), ModelCheckpoint(tmp_path / "epoch", **EACH_EPOCH)]
    whole = fit(adata, callbacks=[make(), *each], **options)
    saved = sorted(tmp_path.rglob("*.ckpt"))
    assert len(saved) >= 20
    for path in saved:
        if make is not EMAWeightAveraging and path == tmp_path / "step" / "step=17.ckpt":
            with pytest.raises(ValueError, match=r"from before the last epoch.*got one of step 17"):
                fit(adata, ckpt=path, callbacks=[make()], **options)
            continue
        assert_same_weights(whole[0], fit(adata, ckpt=path, callbacks=[make()], **options)[0])


@pytest.mark.parametrize("batch_size", [16, 60])
def test_what_is_made_at_the_end_of_a_training_is_made_of_a_resumed_one(tmp_path, batch_size):
    """A Laplace approximation comes after the last checkpoint, and is of all minibatches."""

    def ended(ckpt=None, **options):
        dm = po.CellDataModule(counts(N), batch_size=batch_size)
        model = po.bayesianize(small(dm), "likelihood")
        svi = po.SVIModule(model, partial(po.guides.Amortized, rest=AutoLaplaceApproximation))
        quiet_trainer(2, **options).fit(svi, dm, ckpt_path=ckpt, weights_only=True)
        return svi

    each = [ModelCheckpoint(tmp_path / "step", **EACH_STEP), ModelCheckpoint(tmp_path / "epoch", **EACH_EPOCH)]
    whole = ended(callbacks=each, enable_checkpointing=True)
    assert whole.guide.rest.found
    for path in tmp_path.rglob("*.ckpt"):
        assert_same_weights(whole, ended(path))


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_fit_with_workers_is_resumed(adata, tmp_path, num_workers):
    save = ModelCheckpoint(tmp_path, **EACH_STEP)
    options = {"dm": {"num_workers": num_workers}, "epochs": 2}
    whole = fit(adata, callbacks=[save], **options)
    assert_same(whole, fit(adata, epochs=2))
    assert_same(whole, fit(adata, ckpt=tmp_path / "step=6.ckpt", **options))


def test_validation_does_not_change_the_training(adata):
    with_it = fit(adata, dm={"validation_indices": range(6)})
    assert_same(with_it, fit(adata, dm={"validation_indices": range(6)}, limit_val_batches=0))


def at_the_end(folder):
    """Saves end.ckpt where a fit is cut off, and only there."""
    return ModelCheckpoint(folder, "end", save_on_exception=True, every_n_epochs=100)


class Send(pl.Callback):
    """Sends this process a signal in a step, or in a validation."""

    def __init__(self, signum, step, hook="on_train_batch_start"):
        self.signum, self.step = signum, step
        setattr(self, hook, self.send)

    def send(self, trainer, *args):
        if trainer.global_step == self.step and not trainer.sanity_checking:
            os.kill(os.getpid(), self.signum)


@pytest.mark.parametrize("step", [2, 3, 4, 7])
@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_backward", "on_train_batch_end"])
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"])
def test_a_signal_ends_a_fit_between_steps(adata, tmp_path, step, hook, signum, status):
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    save = at_the_end(tmp_path)
    with pytest.raises(SystemExit) as end:
        fit(adata, callbacks=[Send(signum, step, hook), save])
    assert end.value.code == status
    assert {number: signal.getsignal(number) for number in before} == before
    assert_same(fit(adata), fit(adata, ckpt=tmp_path / "end.ckpt"))


def test_a_signal_in_a_validation_ends_the_fit_after_it(adata, tmp_path):
    save, stop = at_the_end(tmp_path), EarlyStopping("val_elbo", mode="max", patience=9)
    options = {"dm": {"validation_size": 0.5, "batch_size": 8}, "epochs": 3}
    with pytest.raises(SystemExit) as end:
        fit(adata, callbacks=[stop, Send(signal.SIGTERM, 4, "on_validation_batch_start"), save], **options)
    assert end.value.code == 143
    again = EarlyStopping("val_elbo", mode="max", patience=9)
    assert_same(fit(adata, **options), fit(adata, ckpt=tmp_path / "end.ckpt", callbacks=[again], **options))


def test_torch_does_not_raise_for_workers_that_the_signal_ends_too(adata):
    from pyro_omics.inference import interruption

    def of_torch(*args):
        raise RuntimeError("DataLoader worker is killed by signal")

    before = signal.getsignal(signal.SIGCHLD)
    try:
        of_torch.__module__ = "torch.utils.data._utils.signal_handling"
        signal.signal(signal.SIGCHLD, of_torch)
        interruption._let_workers_end()
        assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL
        signal.signal(signal.SIGCHLD, test_a_second_ctrl_c_ends_a_fit_at_once)
        interruption._let_workers_end()
        assert signal.getsignal(signal.SIGCHLD) is test_a_second_ctrl_c_ends_a_fit_at_once
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_worker_leaves_ctrl_c_to_the_fit(adata):
    with pytest.raises(SystemExit) as end:
        fit(adata, callbacks=[SendToGroup()], dm={"num_workers": 1})
    assert end.value.code == 130


class SendToGroup(pl.Callback):
    """Ctrl-C in a terminal: for all processes of the job."""

    def on_train_batch_start(self, trainer, svi, batch, batch_idx):
        if trainer.global_step == 2:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid, signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)


def test_a_second_ctrl_c_ends_a_fit_at_once(adata):
    class Twice(pl.Callback):
        def on_train_batch_start(self, trainer, *args):
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
            raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        fit(adata, callbacks=[Twice()])
    assert end.value.code == 1  # Lightning's


def test_an_epoch_that_was_begun_in_another_order_is_not_resumed(adata, tmp_path):
    fit(adata, callbacks=[ModelCheckpoint(tmp_path, **EACH_STEP)], epochs=1)
    for other in ({"batch_size": 8}, {"seed": 1, "validation_indices": range(6)}):
        with pytest.raises(ValueError, match=r"was saved within an epoch with|other"):
            fit(adata, ckpt=tmp_path / "step=2.ckpt", dm=other)


def test_a_checkpoint_of_lightning_alone_is_resumed(adata, tmp_path):
    """One of an earlier version, which has no random state."""
    fit(adata, callbacks=[ModelCheckpoint(tmp_path, **EACH_EPOCH)])
    checkpoint = torch.load(tmp_path / "step=4.ckpt", weights_only=True)
    del checkpoint["pyro_omics"]["training"], checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    assert fit(adata, ckpt=tmp_path / "old.ckpt")[1].global_step == 12


# Divergence -----------------------------------------------------------------------------------------------------------


class Spoil(pl.Callback):
    """Makes a parameter NaN before a step, as a learning rate that is too high does."""

    def __init__(self, step, value=float("nan")):
        self.step, self.value = step, value

    def on_train_batch_start(self, trainer, svi, batch, batch_idx):
        if trainer.global_step == self.step:
            with torch.no_grad():
                next(svi.model.decoder.parameters()).fill_(self.value)


def fail_to_fit(adata, *callbacks, **options):
    with (
        pytest.raises(FloatingPointError) as error,
        pytest.warns(UserWarning, match="Encountered NaN"),
    ):
        fit(adata, callbacks=callbacks, svi={"optimizer": partial(ClippedAdam, lr=0.02)}, **options)
    return str(error.value)


def test_a_training_stops_at_the_first_loss_that_is_not_finite(adata, tmp_path):
    save = ModelCheckpoint(tmp_path, "fit", enable_version_counter=False)
    message = fail_to_fit(adata, Spoil(6), save)
    for part in ("got nan at step 6", "learning rate 0.02", "'x' in the model", "lr=0.002"):
        assert part in message
    assert torch.load(tmp_path / "fit.ckpt", weights_only=True)["global_step"] == 4


def test_a_loss_on_another_device_is_read_later():
    from pyro_omics.inference.divergence import CHECK_EVERY, LossWatch

    class OnDevice(torch.Tensor):
        device = torch.device("cuda")

    watch = LossWatch()
    for step in range(CHECK_EVERY - 1):
        loss = torch.tensor(1.0 if step != 3 else float("inf")).as_subclass(OnDevice)
        assert watch.first_bad(loss, step) is None
    assert watch.first_bad(torch.tensor(float("nan")).as_subclass(OnDevice), CHECK_EVERY) == (3, float("inf"))
    assert watch.read() is None


def test_parameters_that_are_not_finite_do_not_replace_a_checkpoint(adata, tmp_path):
    class SpoilLast(pl.Callback):
        def on_train_batch_end(self, trainer, svi, outputs, batch, batch_idx):
            if trainer.global_step == 8:
                Spoil(8).on_train_batch_start(trainer, svi, batch, batch_idx)

    save = ModelCheckpoint(tmp_path, "fit", enable_version_counter=False)
    with pytest.raises(FloatingPointError, match=r"step 7.* parameters are not finite, such as 'elbo"):
        fit(adata, callbacks=[SpoilLast(), save], limit_val_batches=0)
    assert torch.load(tmp_path / "fit.ckpt", weights_only=True)["global_step"] == 4


# Monitors -------------------------------------------------------------------------------------------------------------


class Keeper(pl.Callback):
    """A callback of another package, known by its attributes alone."""

    def __init__(self, monitor, mode="min"):
        self.monitor, self.mode = monitor, mode


@pytest.mark.parametrize("monitor", ["val_elbo", "train_elbo", "test_elbo"])
@pytest.mark.parametrize("make", [EarlyStopping, ModelCheckpoint, Keeper])
def test_an_elbo_that_is_to_fall_is_refused(adata, monitor, make):
    message = rf"{make.__name__}\(monitor='{monitor}'\) must have mode='max'.*got mode='min'"
    with pytest.raises(ValueError, match=message):
        fit(adata, callbacks=[make(monitor=monitor)])
    fit(adata, callbacks=[Keeper(monitor, mode="max")], epochs=1)


def test_a_loss_that_is_to_rise_is_refused(adata):
    with pytest.raises(ValueError, match="must have mode='min'"):
        fit(adata, callbacks=[EarlyStopping("val_loss", mode="max")])


def test_val_loss_is_the_negative_of_val_elbo(adata, tmp_path):
    best = [
        ModelCheckpoint(tmp_path / "elbo", "{epoch}", monitor="val_elbo", mode="max"),
        ModelCheckpoint(tmp_path / "loss", "{epoch}", monitor="val_loss"),
    ]
    _, trainer, _ = fit(adata, callbacks=best)
    assert trainer.callback_metrics["val_loss"] == -trainer.callback_metrics["val_elbo"]
    assert best[0].best_model_score == -best[1].best_model_score
    assert [path.name for path in (tmp_path / "elbo").iterdir()] == [p.name for p in (tmp_path / "loss").iterdir()]


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("options", [{}, {"dm": {"validation_size": 0.0}}, {"limit_val_batches": 0}])
def test_a_plateau_scheduler_watches_the_elbo_the_right_way(adata, mode, options):
    scheduler = partial(ReduceLROnPlateau, mode=mode, patience=0, factor=0.1)
    slow = {"optimizer": partial(torch.optim.SGD, lr=0.0)}  # nothing is learned: the ELBO only fluctuates
    _, trainer, means = fit(adata, scheduler=scheduler, svi=slow, epochs=8, **options)
    name = "train_elbo" if options else "val_elbo"
    best, bad = -float("inf"), 0
    for epoch in range(8):
        elbo = means[epoch].get(name)
        if elbo > best + 1e-4 * abs(best) if best > -float("inf") else True:
            best = elbo
        else:
            bad += 1
    assert bad > 0
    plateau = trainer.lr_scheduler_configs[0].scheduler
    assert plateau.last_epoch == 8
    assert plateau.best == pytest.approx(best if mode == "max" else -best)


def test_checkpoints_are_renamed_to_their_path(adata, tmp_path, monkeypatch):
    path = tmp_path / "fit.ckpt"
    _, trainer, _ = fit(adata, epochs=1)
    trainer.save_checkpoint(path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.write_bytes", full)
        with pytest.raises(OSError, match="No space"):
            trainer.save_checkpoint(path)
    with monkeypatch.context() as patched:
        patched.setattr("shutil.move", full)  # from a temporary folder on another filesystem it would copy
        trainer.save_checkpoint(tmp_path / "again.ckpt")
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.ckpt", "fit.ckpt"]


def test_a_fit_that_ended_early_has_no_further_steps(adata, tmp_path):
    """EarlyStopping's end is not in what Lightning restores: the fit would go on until it lost its patience again."""

    def stopping():
        return EarlyStopping("val_elbo", mode="max", patience=2, min_delta=1e6)

    held_out = {"validation_size": 0.2}
    whole = fit(adata, callbacks=[stopping(), ModelCheckpoint(tmp_path, save_last=True)], dm=held_out, epochs=20)
    assert 0 < whole[1].current_epoch < 19
    again = fit(adata, tmp_path / "last.ckpt", [stopping()], dm=held_out, epochs=20)
    assert again[1].global_step == whole[1].global_step
    assert_same_weights(whole[0], again[0])
