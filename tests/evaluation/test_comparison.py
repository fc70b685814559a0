"""`compare`: configurations on one split, paired by rows, resumed where they were cut off."""

import functools
import importlib
import io
import json
import logging
import os
import re
import subprocess
import sys
from types import MethodType

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
import yaml

import pyro_omics as po
from pyro_omics import cli
from pyro_omics.evaluation import comparison
from pyro_omics.evaluation.fingerprint import fingerprint
from pyro_omics.evaluation.source import source_digest


@pytest.fixture(scope="module")
def dm():
    adata, _ = po.simulate.cells(n_obs=120, n_genes=12, seed=0)
    return po.CellDataModule(adata, batch_size=60, validation_size=0.25)


def configurations(dm, made=None):
    def one(name, likelihood):
        def make():
            if made is not None:
                made.append(name)
            return po.SVIModule(po.SCVI.from_data(dm, n_latent=2, n_hidden=8, likelihood=likelihood()))

        return make

    return {"nb": one("nb", po.likelihoods.NegativeBinomial), "poisson": one("poisson", po.likelihoods.Poisson)}


def test_the_table_is_of_the_held_out_rows_paired(dm):
    table = po.compare(configurations(dm), dm, max_epochs=3, num_particles=10)
    assert list(table.index) == ["nb", "poisson"]
    torch.manual_seed(0)
    best = table["log_likelihood"].idxmax()
    assert table.loc[best, "difference"] == table.loc[best, "difference_se"] == 0
    other = table.drop(best).iloc[0]
    assert other["difference"] == pytest.approx(other["log_likelihood"] - table.loc[best, "log_likelihood"])
    assert 0 < other["difference_se"] < 2 * table["se"].max()
    assert (table["val_elbo"] <= table["log_likelihood"] + 0.5).all()
    svi = configurations(dm)["poisson"]()
    assert table.loc["poisson", "parameters"] == sum(p.numel() for p in svi.parameters())
    again = po.compare(configurations(dm), dm, max_epochs=3, num_particles=10)
    pd.testing.assert_frame_equal(table.drop(columns="seconds"), again.drop(columns="seconds"))
    assert po.plots.comparison(table).axes[0].get_yticklabels()[0].get_text() == "nb"


def test_standard_errors_are_those_of_paired_means():
    rng = np.random.default_rng(0)
    cells = rng.normal(-100, 20, 50)
    rows = [f"c{i}" for i in range(50)]
    values = {"a": cells, "b": cells - rng.normal(1, 0.5, 50)}
    fits = {
        name: comparison.Fit(pd.DataFrame({"elbo": v - 1, "log_likelihood": v}, index=rows), 1.0, 3)
        for name, v in values.items()
    }
    table = comparison.table(fits)
    assert table.loc["b", "difference_se"] == pytest.approx(np.std(values["b"] - values["a"], ddof=1) / 50**0.5)
    assert table.loc["a", "se"] == pytest.approx(np.std(cells, ddof=1) / 50**0.5)
    fits["b"].scores.index = rows[::-1]
    with pytest.raises(ValueError, match="'b' was scored on other held-out rows than 'a'"):
        comparison.table(fits)


def test_a_comparison_that_was_cut_off_goes_on(dm, tmp_path, trained):
    whole = configurations(dm)

    def fails():
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        po.compare({"nb": whole["nb"], "poisson": fails}, dm, max_epochs=2, folder=tmp_path, num_particles=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nb"]
    trained.clear()
    table = po.compare(whole, dm, max_epochs=2, folder=tmp_path, num_particles=4)
    assert len(trained) == 1, "the first is read"
    again = po.compare(whole, dm, max_epochs=2, folder=tmp_path, num_particles=4)
    assert len(trained) == 1
    pd.testing.assert_frame_equal(table, again)
    po.compare(whole, dm, max_epochs=3, folder=tmp_path, num_particles=4)
    assert len(trained) == 3, "other epochs are other fits"
    assert isinstance(po.load(tmp_path / "nb" / "model").model, po.SCVI)


def test_another_optimizer_or_trainer_is_another_fit(dm, tmp_path, trained):

    def compared(rate, **trainer):
        def make():
            model = po.SCVI.from_data(dm, n_latent=2, n_hidden=4)
            return po.SVIModule(model, optimizer=lambda parameters: torch.optim.Adam(parameters, lr=rate))

        return po.compare({"own": make}, dm, max_epochs=1, folder=tmp_path, num_particles=2, **trainer)

    assert compared(1e-3).loc["own", "val_elbo"] != compared(1e-1).loc["own", "val_elbo"]
    assert len(trained) == 2, "two functions are not the same optimizer"
    plain = {"nb": configurations(dm)["nb"]}
    for trainer in ({}, {}, {"gradient_clip_val": 0.1}):
        po.compare(plain, dm, max_epochs=1, folder=tmp_path, num_particles=2, **trainer)
    assert len(trained) == 4, "another trainer is another fit"


@pytest.fixture
def trained(monkeypatch):
    """Grows by one with each training."""
    done = []
    fit = comparison.pl.Trainer.fit

    @functools.wraps(fit)
    def counted(*args, **options):
        done.append(1)
        return fit(*args, **options)

    monkeypatch.setattr(comparison.pl.Trainer, "fit", counted)
    return done


OWN = """
import pyro
import pyro.distributions as dist
import torch
from pyro_omics.models import CountModel

def rate(z):
    return (RATE * z).exp()

class Own(CountModel):
    local_sites = ("z",)

    def __init__(self, n_obs, n_genes):
        super().__init__(n_obs=n_obs)
        self.n_genes = n_genes
        self.lin = torch.nn.Linear(2, n_genes)

    def forward(self, batch):
        with self.plate(batch):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), PRIOR).to_event(1))
            pyro.sample("x", dist.Poisson(rate(self.lin(z))).to_event(1), obs=batch.x)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Imports a class from a file of one's own, as it is at one state of the file and of another that it imports."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))

    def imported(prior="1.0", rate="0.5", more="", factor="1.0"):
        text = OWN.replace("PRIOR", prior).replace("(RATE", f"(own_helper.FACTOR * {rate}")
        (tmp_path / "own_of_fits.py").write_text(f"import own_helper\n{text}{more}")
        (tmp_path / "own_helper.py").write_text(f"FACTOR = {factor}\n")
        for name in ("own_of_fits", "own_helper"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module("own_of_fits").Own

    return imported


def changed_encoder(svi):
    svi.model.encoders["z"] = torch.nn.Sequential(svi.model.encoders["z"])


def changed_values(svi):
    with torch.no_grad():
        next(svi.model.decoder.parameters()).mul_(0.5)


def changed_penalty(svi):
    svi.model.penalty = MethodType(lambda self, batch, latents: latents["z"].square().mean(), svi.model)


CHANGES = {
    "encoder": changed_encoder,
    "values": changed_values,
    "frozen": lambda svi: svi.model.decoder.requires_grad_(False),
    "noise": lambda svi: setattr(svi, "noise_seed", 3),
    "warm-up": lambda svi: setattr(svi, "kl_warmup_epochs", 3),
    "attribute": lambda svi: setattr(svi.model, "offset", torch.ones(3)),
}


SAID = {
    "encoder": "start", "values": "start", "frozen": "start", "noise": "noise_seed", "warm-up": "kl_warmup_epochs",
    "attribute": "attributes",
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_looks_the_same_and_is_not_is_fitted_anew(dm, change, tmp_path, trained, caplog):
    def plain():
        return po.SVIModule(po.SCVI.from_data(dm, n_latent=2, n_hidden=4))

    def other():
        svi = plain()
        CHANGES[change](svi)
        return svi

    with caplog.at_level(logging.INFO):
        for make, fits in ((plain, 1), (plain, 1), (other, 2), (other, 2), (plain, 3)):
            po.compare({"a": make}, dm, max_epochs=1, folder=tmp_path, num_particles=2)
            assert len(trained) == fits
    assert f"is fitted again: it was fitted with other {SAID[change]}" in caplog.text


def test_code_of_ones_own_is_part_of_a_fit(dm, tmp_path, trained, own, caplog):
    def compared(cls):
        make = {"own": lambda: po.SVIModule(cls.from_data(dm))}
        return po.compare(make, dm, max_epochs=1, folder=tmp_path / "fits", num_particles=2).loc["own", "val_elbo"]

    first = compared(own())
    assert compared(own(more="# a comment")) == first and len(trained) == 1
    assert compared(own(prior="2.0")) != first and len(trained) == 2, "forward was edited"
    compared(own())
    assert compared(own(rate="0.1")) != first and len(trained) == 4, "what forward calls was edited"
    compared(own())
    with caplog.at_level(logging.INFO):
        assert compared(own(factor="0.1")) != first and len(trained) == 6, "another file was edited, which this imports"
    assert "it was fitted with other code" in caplog.text


def test_a_file_that_is_edited_and_not_imported_again_is_not_the_code_that_runs(dm, own):
    cls = own()
    before = described(po.SVIModule(cls.from_data(dm)), dm)["code"]
    edited = own(prior="2.0")
    assert described(po.SVIModule(cls.from_data(dm)), dm)["code"] == before
    assert described(po.SVIModule(edited.from_data(dm)), dm)["code"] != before


def described(svi, dm, **trainer):
    """The fingerprint of a pair from one seed."""
    return fingerprint(svi, dm, trainer)


def test_code_that_cannot_be_read_is_fitted_again(dm, tmp_path, trained, caplog):
    """As of a class that was typed in."""
    space = {"__name__": "typed_in"}
    exec(OWN.replace("PRIOR", "1.0").replace("(RATE", "(0.5"), space)
    make = {"own": lambda: po.SVIModule(space["Own"].from_data(dm))}
    with caplog.at_level(logging.INFO):
        for _ in range(2):
            po.compare(make, dm, max_epochs=1, folder=tmp_path, num_particles=2)
    assert len(trained) == 2
    assert (
        "parts that cannot be compared are in its code (a class Own, whose source file cannot be read)" in caplog.text
    )


def test_a_fingerprint_says_what_a_fit_is_made_of(dm):
    def made(**options):
        torch.manual_seed(0)
        return po.SVIModule(po.SCVI.from_data(dm, n_latent=2, n_hidden=4), **options)

    one = described(made(), dm, max_epochs=1)
    assert one == described(made(), dm, max_epochs=1)
    assert one["model"]["class"] == "pyro_omics.SCVI" and one["guide"] == {
        "partial": "pyro_omics.guides.Amortized", "arguments": {},
    }  # fmt: skip
    for part, other in (
        ("trainer", described(made(), dm, max_epochs=2)),
        ("guide", described(made(guide=po.guides.SemiAmortized), dm, max_epochs=1)),
        ("elbo", described(made(elbo=po.elbos.RenyiELBO(0.5, 2)), dm, max_epochs=1)),
        ("elbo", described(made(elbo=pyro.infer.TraceMeanField_ELBO(num_particles=2)), dm, max_epochs=1)),
        ("optimizer", described(made(optimizer=functools.partial(torch.optim.Adam, lr=0.1)), dm, max_epochs=1)),
        ("scheduler", described(made(scheduler=STEPS), dm, max_epochs=1)),
        ("data", described(made(), po.CellDataModule(dm.adata, batch_size=30, validation_size=0.25), max_epochs=1)),
    ):
        assert part in {name for name in one if one[name] != other[name]}


STEPS = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=2)


def test_settings_that_are_objects_are_compared(dm):
    """Pyro's own ELBOs and Lightning's callbacks record no arguments: their attributes are compared."""
    means = [pyro.infer.TraceMeanField_ELBO(num_particles=k) for k in (1, 1, 2)]
    stops = [comparison.pl.callbacks.EarlyStopping("val_elbo", patience=k) for k in (1, 1, 2)]
    for values, ask in ((means, lambda value: {"elbo": value}), (stops, lambda value: {"callbacks": [value]})):
        found = []
        for value in values:
            torch.manual_seed(0)
            pair = ask(value)
            svi = po.SVIModule(po.SCVI.from_data(dm, n_latent=2, n_hidden=4), elbo=pair.get("elbo"))
            found.append(described(svi, dm, **{k: v for k, v in pair.items() if k != "elbo"}))
        assert found[0] == found[1] != found[2]
        assert "unknown" not in json.dumps(found)


PRINTS = """
import hashlib, json
import torch
from functools import partial
import pyro_omics as po
from pyro_omics.evaluation.fingerprint import fingerprint
torch.manual_seed(0)
dm = po.CellDataModule(po.simulate.cells(n_obs=20, n_genes=5, seed=0)[0], validation_size=0.25)
model = po.bayesianize(po.SCVI.from_data(dm, n_latent=2, n_hidden=4), "decoder")
svi = po.SVIModule(model, guide=po.guides.PerObservation, optimizer=partial(torch.optim.Adam, lr=1e-3))
found = fingerprint(svi, dm, {"max_epochs": 2})
assert "unknown" not in json.dumps(found), found
print(hashlib.sha256(json.dumps(found).encode()).hexdigest())
"""


def test_another_process_has_the_same_fingerprint():
    def printed(seed):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        return subprocess.run([sys.executable, "-c", PRINTS], env=environment, capture_output=True, check=True).stdout

    first = printed("1")
    assert len(first) > 60 and printed("2") == first


def streaming(svi):
    object.__setattr__(svi.model, "stream", (i for i in range(3)))


def reading(svi):
    svi.model.file = io.StringIO()


def with_a_lambda(svi):
    svi.make_optimizer = lambda parameters: torch.optim.Adam(parameters, lr=1e-3)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (streaming, "attributes (a builtins.generator)"),
        (reading, "attributes (a _io.StringIO)"),
        (changed_penalty, "attributes (a builtins.method)"),
        (with_a_lambda, "optimizer (a builtins.function)"),
    ],
)
def test_what_cannot_be_compared_is_fitted_again_and_said(dm, change, part, tmp_path, trained, caplog):
    def make():
        svi = po.SVIModule(po.SCVI.from_data(dm, n_latent=2, n_hidden=4))
        change(svi)
        return svi

    with caplog.at_level(logging.INFO):
        for _ in range(2):
            po.compare({"a": make}, dm, max_epochs=1, folder=tmp_path, num_particles=2)
    assert len(trained) == 2
    assert f"is fitted again: parts that cannot be compared are in its {part}" in caplog.text


class Blind(po.models.CountModel):
    """A model that knows no shapes: its pair is made in ``setup``, from the data."""

    local_sites = ("z",)

    def __init__(self, n_obs: int, scale: float = 1.0):
        super().__init__(n_obs=n_obs)
        self.scale = scale

    def forward(self, batch):
        with self.plate(batch):
            z = pyro.sample("z", pyro.distributions.Normal(torch.zeros(1), self.scale).to_event(1))
            pyro.sample("x", pyro.distributions.Poisson(z.exp().expand(batch.x.shape)).to_event(1), obs=batch.x)


def test_a_model_without_an_example_batch_is_compared_too(dm, tmp_path, trained):
    for scale, fits in ((1.0, 1), (1.0, 1), (2.0, 2)):
        make = {"a": lambda scale=scale: po.SVIModule(Blind.from_data(dm, scale=scale))}
        po.compare(make, dm, max_epochs=1, folder=tmp_path, num_particles=2)
        assert len(trained) == fits


def test_other_models_are_read_again(tmp_path, trained):
    """Their bounds, guides and parts are all described."""
    cite, _ = po.simulate.citeseq(n_obs=40, n_genes=6, n_proteins=4, n_batches=2, seed=0)
    cite.obs["type"] = np.random.default_rng(0).choice(["B", "T", "Unknown"], 40)
    library, _ = po.simulate.del_library(cycles=(4, 4, 3), seed=0)
    options = {"batch_key": "batch", "batch_size": 20, "validation_size": 0.2}
    data = {
        "TotalVI": po.CellDataModule(cite, protein_obsm_key="protein_counts", **options),
        "SCANVI": po.CellDataModule(cite, label_key="type", **options),
        "DELCount": po.DELDataModule(library, batch_size=24, validation_size=0.2),
    }
    for name, dm in data.items():
        for _ in range(2):
            make = {name: lambda name=name, dm=dm: po.SVIModule(getattr(po, name).from_data(dm, n_hidden=4))}
            po.compare(make, dm, max_epochs=1, folder=tmp_path, num_particles=2)
    assert len(trained) == len(data)


def test_other_data_of_the_same_counts_are_other_fits(tmp_path, trained):
    adata, _ = po.simulate.cells(n_obs=60, n_genes=8, n_batches=2, seed=0)
    for _ in range(2):
        dm = po.CellDataModule(adata, batch_key="batch", batch_size=30, validation_size=0.25)
        make = {"a": lambda dm=dm: po.SVIModule(po.SCVI.from_data(dm, n_latent=2, n_hidden=4))}
        for _ in range(2):
            po.compare(make, dm, max_epochs=1, folder=tmp_path, num_particles=2)
        adata = adata.copy()
        adata.obs["batch"] = adata.obs["batch"].to_numpy()[::-1].copy()
    assert len(trained) == 2


def test_callbacks_are_fresh_in_each_fit(dm, tmp_path, trained):
    class Stop(comparison.pl.Callback):
        def __init__(self, after):
            self.after = after

        def on_train_epoch_end(self, trainer, pl_module):
            self.after -= 1
            trainer.should_stop = self.after <= 0

    make = configurations(dm)["nb"]
    options = {"max_epochs": 4, "num_particles": 2, "folder": tmp_path}
    stop = Stop(2)
    table = po.compare({"a": make, "b": make}, dm, callbacks=[stop], **options)
    assert stop.after == 2 and table.loc["a", "val_elbo"] == table.loc["b", "val_elbo"]
    po.compare({"a": make, "b": make}, dm, callbacks=Stop(2), **options)
    assert len(trained) == 4, "a list of one is another argument"
    po.compare({"a": make, "b": make}, dm, callbacks=Stop(2), **options)
    assert len(trained) == 4
    assert (po.compare({"a": make}, dm, callbacks=[Stop(1)], **options)["val_elbo"] < table.loc["a", "val_elbo"]).all()
    assert len(trained) == 5


def test_differences_are_to_the_reference(dm):
    options = {"max_epochs": 2, "num_particles": 5}
    best = po.compare(configurations(dm), dm, **options)
    worst = best["log_likelihood"].idxmin()
    table = po.compare(configurations(dm), dm, reference=worst, **options)
    assert table.loc[worst, "difference"] == table.loc[worst, "difference_se"] == 0
    assert table["difference"].max() == pytest.approx(-best["difference"].min())
    assert po.plots.comparison(table).axes[0].get_xlabel().endswith(f"against {worst}")
    assert po.plots.comparison(best).axes[0].get_xlabel().endswith("the best")
    made = []
    with pytest.raises(
        ValueError, match=r"reference must be one of the configurations \['nb', 'poisson'\]; got 'zinb'"
    ):
        po.compare(configurations(dm, made), dm, reference="zinb", **options)
    assert not made


def test_what_cannot_be_compared_is_said(dm, tmp_path):
    adata, _ = po.simulate.cells(n_obs=30, n_genes=5, seed=0)
    with pytest.raises(ValueError, match="no rows are held out to compare on"):
        po.compare({}, po.CellDataModule(adata, validation_size=0.0))
    with pytest.raises(TypeError, match=r"'scvi' must make an SVIModule.*made a SCVI"):
        po.compare({"scvi": lambda: po.SCVI.from_data(dm, n_latent=2)}, dm)
    with pytest.raises(ValueError, match="must be names of folders; got 'a/b'"):
        po.compare({"a/b": configurations(dm)["nb"]}, dm)
    (tmp_path / "nb").mkdir()
    (tmp_path / "nb" / "mine.txt").write_text("mine")
    made = []
    with pytest.raises(FileExistsError, match="is not a fit of a comparison"):
        po.compare(configurations(dm, made), dm, max_epochs=1, folder=tmp_path, num_particles=2)
    assert not made, "before any training"
    (tmp_path / "nb" / "metrics.json").write_text('{"val_elbo": -1.0}')  # of pyro-omics fit
    with pytest.raises(FileExistsError, match="is not a fit of a comparison"):
        po.compare(configurations(dm, made), dm, max_epochs=1, folder=tmp_path, num_particles=2)
    assert (tmp_path / "nb" / "mine.txt").read_text() == "mine"


def write(path, **model):
    init = {"n_latent": 2, "n_hidden": 4, **model.pop("init", {})}
    config = {
        "data": {"init_args": {"adata": "cells.h5ad", "validation_size": 0.25}},
        "model": {"model": {"class_path": "pyro_omics.SCVI", "init_args": init}, **model},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False},
        "report": {"umap": False, "num_particles": 3},
    }
    path.write_text(yaml.safe_dump(config))


def test_files_are_compared_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    adata, _ = po.simulate.cells(n_obs=60, n_genes=8, seed=0)
    adata.write_h5ad("cells.h5ad")
    write(tmp_path / "zinb.yaml")
    write(tmp_path / "nb.yaml", init={"likelihood": {"class_path": "pyro_omics.likelihoods.NegativeBinomial"}})
    cli.main(["compare", "zinb.yaml", "nb.yaml", "--out", "both"])
    assert re.search(r"zinb +-?\d", capsys.readouterr().out)
    table = pd.read_csv("both/comparison.csv", index_col=0)
    assert list(table.index) == ["zinb", "nb"] and (tmp_path / "both" / "comparison.png").stat().st_size > 5000
    written = (tmp_path / "both" / "nb" / "metrics.json").stat().st_mtime_ns
    cli.main(["compare", "zinb.yaml", "nb.yaml", "--out", "both"])
    assert (tmp_path / "both" / "nb" / "metrics.json").stat().st_mtime_ns == written
    cli.main(["compare", "zinb.yaml", "nb.yaml", "--out", "both", "--trainer.max_epochs=2"])
    assert json.loads((tmp_path / "both" / "nb" / "metrics.json").read_text())["epochs"] == 2
    for args, message in (
        (["zinb.yaml"], "two files or more"),
        (["zinb.yaml", "none.yaml"], "'none.yaml' does not exist"),
        (["zinb.yaml", "zinb.yaml"], "must have different names.*got 'zinb' twice"),
        (["zinb.yaml", "nb.yaml", "--trainer.max_epochs", "2"], "with an equals sign"),
    ):
        with pytest.raises(SystemExit, match=message):
            cli.main(["compare", *args])


def test_files_of_other_data_or_code_are_fitted_again(tmp_path, monkeypatch, capsys, trained):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))
    adata, _ = po.simulate.cells(n_obs=60, n_genes=8, seed=0)
    adata.write_h5ad("cells.h5ad")
    adam = {"class_path": "pyro.optim.clipped_adam.ClippedAdam", "init_args": {"lr": 0.01}}
    for name in ("a", "b"):
        write(tmp_path / f"{name}.yaml", optimizer=adam, guide={"class_path": "pyro_omics.guides.Amortized"})
    config = yaml.safe_load((tmp_path / "a.yaml").read_text())
    config["model"]["model"] = {"class_path": "own_of_compare.Own"}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(config))

    def compared(*names, prior="1.0"):
        (tmp_path / "own_of_compare.py").write_text(OWN.replace("PRIOR", prior).replace("(RATE", "(0.5"))
        sys.modules.pop("own_of_compare", None)
        importlib.invalidate_caches()
        given = [f"{name}.yaml" for name in names]
        cli.main(["compare", *given, "--out", "out", "--reference=a", "--allow", "own_of_compare"])
        return pd.read_csv("out/comparison.csv", index_col=0)

    first = compared("a", "own")
    assert len(trained) == 2 and first.loc["a", "difference"] == 0
    assert compared("a", "own").equals(first) and len(trained) == 2
    assert "is fitted already" in capsys.readouterr().out
    compared("a", "own", prior="2.0")
    assert len(trained) == 3, "the file of one's own was edited"
    adata.X = np.asarray(adata.X) + 1.0
    adata.write_h5ad("cells.h5ad")
    both = compared("a", "b", "own", prior="2.0")
    assert len(trained) == 6, "the data were rewritten"
    assert both.loc["a", "val_elbo"] == both.loc["b", "val_elbo"] != first.loc["a", "val_elbo"]
    kept = json.loads((tmp_path / "out" / "a" / ".compared").read_text())["data"]
    assert {"training", "validation", "counts"} <= set(kept)
    with pytest.raises(SystemExit, match=r"reference must be one of the configurations \['a', 'b'\]; got 'c'"):
        cli.main(["compare", "a.yaml", "b.yaml", "--out", "out", "--reference", "c"])
    adata.X = np.asarray(adata.X) + 1.0
    adata.write_h5ad("others.h5ad")
    config = yaml.safe_load((tmp_path / "a.yaml").read_text())
    config["data"]["init_args"]["adata"] = "others.h5ad"
    (tmp_path / "b.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit, match="'b' was fitted to other counts than 'a'"):
        compared("a", "b")


def test_weights_are_made_latent_by_a_value_of_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adata, _ = po.simulate.cells(n_obs=40, n_genes=6, seed=0)
    adata.write_h5ad("cells.h5ad")
    write(tmp_path / "a.yaml")
    monkeypatch.setattr("sys.argv", ["pyro-omics"])
    cli.main(["fit", "--config", "a.yaml", "--bayesianize=decoder", "--out", "out"])
    svi = po.load("out/model")
    dm = po.CellDataModule(adata, validation_size=0)
    assert "decoder.heads.rho.weight" in po.Posterior(svi, dm).samples(num_samples=1)
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["bayesianize"] == "decoder"


def test_a_module_that_is_imported_anew_is_other_code(tmp_path, monkeypatch):
    """The digest is of the code that runs: an edited file counts once it is imported again."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "scale_of_mine.py").write_text("def scale():\n    return 1.0\n")
    (tmp_path / "part_of_mine.py").write_text(
        "import scale_of_mine\n\n\nclass Part:\n    scale = scale_of_mine.scale\n"
    )
    part, scale = (importlib.import_module(name) for name in ("part_of_mine", "scale_of_mine"))
    first = source_digest(part.Part)
    (tmp_path / "scale_of_mine.py").write_text("def scale():\n    return 30.0\n")
    assert source_digest(part.Part) == first
    importlib.reload(scale)
    assert source_digest(part.Part) != first


def test_what_makes_no_module_is_refused_before_a_fit(fitted_scvi):
    svi, dm = fitted_scvi
    with pytest.raises(TypeError, match=r"'a' must be a callable .*got a SVIModule: pass \{'a': lambda: po.SVIModule"):
        po.compare({"a": svi}, dm)
    with pytest.raises(TypeError, match=r"configurations must be a mapping of names .*got a list"):
        po.compare([svi], dm)
