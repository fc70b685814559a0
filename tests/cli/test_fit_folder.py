"""The folder of `pyro-omics fit`: one fit in it, whole, whatever cuts the next one off; and how a fit goes on."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import counts, donors

import pyro_omics as po
from pyro_omics import cli
from pyro_omics.cli.fit_folder import FitFolder

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
SMALL = ["--model.model.n_latent=2", "--model.model.n_hidden=8", "--data.batch_size=16", "--report.num_particles=2"]
RESULTS = ["adata.h5ad", "config.yaml", "metrics.json", "model", "training_curve.png", "validation_scores.csv"]


@pytest.fixture(autouse=True)
def folder(working_folder):
    """A working folder with cells.h5ad in it."""
    counts(60, 10, donor=donors(60, "d1", "d2")).write_h5ad("cells.h5ad")
    return working_folder


def fit(*options, out="out", epochs=3):
    cli.main(["fit", "--data.adata=cells.h5ad", f"--out={out}", f"--trainer.max_epochs={epochs}", "--report.umap=false",
              *QUIET, *SMALL, *options])  # fmt: skip


def read(folder):
    """The content of every file of a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def state(path):
    return torch.load(path, weights_only=True)["state_dict"]


def send(monkeypatch, signum, step, hook="on_train_batch_start"):
    """Sends this process a signal in a step of the next fit."""

    def kill(self, trainer, *args):
        if trainer.global_step == step:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(FitFolder, hook, kill, raising=False)


CALLBACK = "--trainer.callbacks=pytorch_lightning.callbacks.ModelCheckpoint"


@pytest.mark.parametrize("callback", [[], [CALLBACK, "--trainer.callbacks.every_n_epochs=1"]], ids=["default", "own"])
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"])
@pytest.mark.parametrize("step", [1, 6])
def test_a_fit_that_a_signal_ends_goes_on_exactly(folder, monkeypatch, capsys, callback, signum, status, step):
    fit(*callback, out="whole")
    with monkeypatch.context() as patched:
        send(patched, signum, step)
        with pytest.raises(SystemExit) as end:
            fit(*callback)
    assert end.value.code == status
    assert {"config.yaml", "last.ckpt"} <= set(os.listdir("out")) <= {
        "config.yaml", "last.ckpt", "checkpoint.ckpt", "checkpoints"}  # fmt: skip
    said = capsys.readouterr().err
    assert f"after step {step + 1}" in said
    (command,) = [line.split() for line in said.splitlines() if "--ckpt_path last" in line]
    cli.main(command[1:])
    for name in ("weights.safetensors", "config.json"):
        assert (folder / "out/model" / name).read_bytes() == (folder / "whole/model" / name).read_bytes()
    whole, metrics = (json.loads((folder / name / "metrics.json").read_text()) for name in ("whole", "out"))
    for name in ("train_elbo", "val_elbo", "val_log_likelihood", "epochs"):
        assert metrics[name] == whole[name]
    assert sorted(os.listdir("out")) == sorted(os.listdir("whole"))


@pytest.mark.parametrize(("hook", "step"), [("on_train_batch_end", 2), ("on_validation_batch_start", 4)])
def test_a_worker_that_the_signal_ends_first_does_not_hide_it(folder, monkeypatch, capsys, hook, step):
    """The loader then raises an error, before Lightning ends the fit."""

    def lose_a_worker(self, trainer, *args):
        if trainer.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("DataLoader worker (pid 1) exited unexpectedly")

    with monkeypatch.context() as patched:
        patched.setattr(FitFolder, hook, lose_a_worker, raising=False)
        with pytest.raises(SystemExit) as end:
            fit()
    assert end.value.code == 143
    assert f"after step {step}; its checkpoint is out/last.ckpt" in capsys.readouterr().err
    fit("--ckpt_path=last")
    fit(out="whole")
    weights = "model/weights.safetensors"
    assert (folder / "out" / weights).read_bytes() == (folder / "whole" / weights).read_bytes()


def test_the_command_that_goes_on_allows_what_was_allowed(folder, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        send(patched, signal.SIGTERM, 1)
        with pytest.raises(SystemExit):
            fit("--allow=mine.parts", out="an out")
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.strip() == "pyro-omics fit --config 'an out/config.yaml' --ckpt_path last --allow mine.parts"


def test_ckpt_path_last_begins_a_first_fit(folder, capsys):
    fit("--ckpt_path=last", epochs=1)
    assert "No checkpoint in out yet" in capsys.readouterr().out
    fit("--ckpt_path=last", epochs=2)
    assert "goes on from out/checkpoint.ckpt" in capsys.readouterr().out
    assert json.loads((folder / "out/metrics.json").read_text())["epochs"] == 2


def test_the_config_of_a_resumed_fit_begins_afresh(folder):
    fit(epochs=1)
    fit("--ckpt_path=out/checkpoint.ckpt", epochs=2)
    assert "ckpt_path: null" in (folder / "out/config.yaml").read_text()


def test_a_half_written_checkpoint_is_not_the_last(folder):
    fit(epochs=1)
    (folder / "out/.checkpoint.ckpt-x").mkdir()
    (folder / "out/.checkpoint.ckpt-x/checkpoint.ckpt").write_bytes(b"half")
    fit("--ckpt_path=last", epochs=2)


def test_what_an_earlier_fit_left_is_removed(folder):
    fit("--report.umap=true", epochs=1)
    (folder / "out/my_notes.txt").write_text("mine")
    assert (folder / "out/umap.png").is_file()
    fit(epochs=1)
    assert sorted(os.listdir("out")) == sorted([*RESULTS, "checkpoint.ckpt", "my_notes.txt"])
    fit(CALLBACK, epochs=1)
    assert sorted(os.listdir("out")) == sorted([*RESULTS, "checkpoints", "my_notes.txt"])


def test_an_interrupted_fit_is_not_mixed_with_an_earlier_one(folder, monkeypatch):
    fit(epochs=1)
    with monkeypatch.context() as patched:
        send(patched, signal.SIGTERM, 5)
        with pytest.raises(SystemExit):
            fit("--model.model.n_hidden=6")
    assert sorted(os.listdir("out")) == ["checkpoint.ckpt", "config.yaml", "last.ckpt"]
    assert "n_hidden: 6" in (folder / "out/config.yaml").read_text()
    assert state("out/checkpoint.ckpt").keys() == state("out/last.ckpt").keys()


def full(*args):
    raise OSError(28, "No space left on device")


def test_a_fit_that_cannot_be_written_leaves_the_earlier_one(folder, monkeypatch):
    fit(epochs=1)
    before = read(folder / "out")
    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.write_bytes", full)
        with pytest.raises(SystemExit, match="No space left"):
            fit("--model.model.n_hidden=6")
    assert read(folder / "out") == before


def goes_on(capsys, out="out"):
    """Runs the command that was printed, literally, and compares the results with those of an uninterrupted fit."""
    (command,) = [shlex.split(line) for line in capsys.readouterr().err.splitlines() if "--ckpt_path last" in line]
    cli.main(command[1:])
    weights, metrics = "model/weights.safetensors", ("train_elbo", "val_elbo", "val_log_likelihood", "epochs")
    found, whole = (json.loads(Path(name, "metrics.json").read_text()) for name in (out, "whole"))
    assert {name: found[name] for name in metrics} == {name: whole[name] for name in metrics}
    assert Path(out, weights).read_bytes() == Path("whole", weights).read_bytes()


@pytest.mark.parametrize("ended", [None, signal.SIGTERM, signal.SIGINT], ids=["fit", "term", "int"])
def test_a_full_disk_leaves_the_last_checkpoint_and_says_how_to_go_on(folder, monkeypatch, capsys, ended):
    fit(out="whole")
    write, handlers = Path.write_bytes, [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def until_full(path, content):
        if (folder / "out/checkpoint.ckpt").exists():
            raise OSError(28, "No space left on device")
        return write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", until_full)
        if ended:
            send(patched, ended, 5)
        with pytest.raises(SystemExit, match=r"No space left on device: '.*/out/(checkpoint|last).ckpt'"):
            fit()
    assert state("out/checkpoint.ckpt") and sorted(os.listdir("out")) == ["checkpoint.ckpt", "config.yaml"]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
    goes_on(capsys)


KILLED_AT = ["pyro_omics.inference.checkpoint_io.atomic_write", "pathlib.Path.write_bytes", "os.replace"]


@pytest.mark.slow
@pytest.mark.parametrize("moment", KILLED_AT)
def test_a_killed_process_leaves_the_last_checkpoint(folder, moment):
    """By SIGKILL, the second time that a checkpoint is written."""
    fit(out="whole")
    code = f"""
import os, signal, sys
from pkgutil import resolve_name
from pathlib import Path
import torch
from pyro_omics import cli
torch.set_num_threads({torch.get_num_threads()})  # with others, sums round otherwise
owner, name = "{moment}".rsplit(".", 1)
owner, done = resolve_name(owner), getattr(resolve_name(owner), name)
def kill(*args, **kwargs):
    if Path("out/checkpoint.ckpt").exists() and Path("out/config.yaml").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return done(*args, **kwargs)
setattr(owner, name, kill)
options, sys.argv = sys.argv[1:], sys.argv[:1]
cli.main(options)
"""
    options = ["--data.adata=cells.h5ad", "--out=out", "--trainer.max_epochs=3", "--report.umap=false", *QUIET, *SMALL]
    killed = subprocess.run([sys.executable, "-c", code, "fit", *options], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert torch.load("out/checkpoint.ckpt", weights_only=True)["global_step"] == 4
    fit("--ckpt_path=last")
    weights = "model/weights.safetensors"
    assert (folder / "out" / weights).read_bytes() == (folder / "whole" / weights).read_bytes()


STOP = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val_loss", "--trainer.callbacks.patience=1",
        "--trainer.callbacks.min_delta=1e6"]  # fmt: skip


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["term", "int"])
@pytest.mark.parametrize(
    ("hook", "step"),
    [("on_train_batch_start", 5), ("on_train_batch_end", 8), ("on_validation_batch_start", 8), ("on_train_end", 8)],
)
def test_a_fit_that_stops_early_goes_on_to_the_same_end(folder, monkeypatch, capsys, signum, status, hook, step):
    """A signal before the last step, in it, in the validation that stops the fit, and after it."""
    fit(*STOP, out="whole", epochs=9)
    assert sorted(os.listdir("whole")) == sorted([*RESULTS, "checkpoint.ckpt"])
    with monkeypatch.context() as patched:
        send(patched, signum, step, hook)
        with pytest.raises(SystemExit) as end:
            fit(*STOP, epochs=9)
    assert end.value.code == status
    goes_on(capsys)
    fit(*STOP, "--ckpt_path=last", epochs=9)  # it had ended
    assert json.loads((folder / "out/metrics.json").read_text())["epochs"] == 2


def test_a_report_that_cannot_be_written_leaves_none(folder, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("anndata.AnnData.write_h5ad", full)
        with pytest.raises(SystemExit, match="No space left"):
            fit(epochs=1)
    assert sorted(os.listdir("out")) == ["checkpoint.ckpt", "config.yaml"]


@pytest.mark.filterwarnings("ignore:Encountered NaN")
def test_a_training_that_diverges_leaves_the_earlier_fit(folder):
    fit(epochs=1)
    before = read(folder / "out")
    high = ["--model.optimizer=pyro.optim.clipped_adam.ClippedAdam", "--model.optimizer.lr=1e30"]
    with pytest.raises(SystemExit, match=r"the training diverged.*at step 1, with the learning rate 1e\+30.*'"):
        fit(*high)
    assert read(folder / "out") == before


def test_a_signal_in_the_report_says_how_to_go_on(folder, monkeypatch, capsys):
    before = signal.getsignal(signal.SIGTERM)

    def kill(*args):
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr("anndata.AnnData.write_h5ad", kill)
        with pytest.raises(SystemExit) as end:
            fit(epochs=1)
    assert end.value.code == 143
    assert "--ckpt_path last" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


# A ModelCheckpoint in the configuration -------------------------------------------------------------------------------


def test_a_configured_checkpoint_is_obeyed(folder):
    best = ["--trainer.callbacks.monitor=val_elbo", "--trainer.callbacks.mode=max", "--trainer.callbacks.filename=best"]
    fit(CALLBACK, *best)
    assert os.listdir("out/checkpoints") == ["best.ckpt"]
    assert not (folder / "out/checkpoint.ckpt").exists()
    callbacks = torch.load("out/checkpoints/best.ckpt", weights_only=True)["callbacks"]
    (saved,) = [value for key, value in callbacks.items() if key.startswith("ModelCheckpoint")]
    assert saved["monitor"] == "val_elbo"
    fit(CALLBACK, *best, "--trainer.callbacks.dirpath=mine", out="other")
    assert os.listdir("mine") == ["best.ckpt"]
    fit(CALLBACK, *best, "--trainer.callbacks.dirpath=mine", "--ckpt_path=last", out="other", epochs=4)
    assert json.loads((folder / "other/metrics.json").read_text())["epochs"] == 4


def test_a_configured_checkpoint_that_watches_the_wrong_way_is_refused():
    with pytest.raises(SystemExit, match=r"ModelCheckpoint\(monitor='val_elbo'\) must have mode='max'"):
        fit(CALLBACK, "--trainer.callbacks.monitor=val_elbo")
    assert not os.path.exists("out")


def test_no_checkpoint_is_no_checkpoint(folder):
    fit(epochs=1)
    fit("--trainer.enable_checkpointing=false", epochs=1)
    assert sorted(os.listdir("out")) == RESULTS
    assert po.load("out/model").model.n_latent == 2


def test_a_comparison_that_a_signal_ends_is_begun_again(folder, monkeypatch, capsys):
    for name in ("a", "b"):
        (folder / f"{name}.yaml").write_text("data: {init_args: {adata: cells.h5ad}}\n")
    options = ["--trainer.max_epochs=3", "--report.umap=false", *QUIET, *SMALL]
    command = ["compare", "a.yaml", "b.yaml", "--out=out", *options]
    with monkeypatch.context() as patched:
        send(patched, signal.SIGTERM, 5)
        with pytest.raises(SystemExit) as end:
            cli.main(command)
    assert end.value.code == 143
    assert "the same command" in capsys.readouterr().err
    cli.main(command)
    assert (folder / "out/comparison.csv").is_file()


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "pyro_omics.cli", "--help"], capture_output=True, text=True, check=True
    )
    assert "fit" in done.stdout
