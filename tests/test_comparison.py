"""`compare`: configurations on one split, paired by rows, resumed where they were cut off."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

import pyro_omics as po
from pyro_omics import cli, comparison


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


def test_a_comparison_that_was_cut_off_goes_on(dm, tmp_path, monkeypatch):
    whole = configurations(dm)

    def fails():
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError, match="cut off"):
        po.compare({"nb": whole["nb"], "poisson": fails}, dm, max_epochs=2, folder=tmp_path, num_particles=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nb"]
    trained = []
    fit = comparison.pl.Trainer.fit
    monkeypatch.setattr(comparison.pl.Trainer, "fit", lambda self, *a: (trained.append(1), fit(self, *a)))
    table = po.compare(whole, dm, max_epochs=2, folder=tmp_path, num_particles=4)
    assert len(trained) == 1, "the first is read"
    again = po.compare(whole, dm, max_epochs=2, folder=tmp_path, num_particles=4)
    assert len(trained) == 1
    pd.testing.assert_frame_equal(table, again)
    po.compare(whole, dm, max_epochs=3, folder=tmp_path, num_particles=4)
    assert len(trained) == 3, "other epochs are other fits"
    assert isinstance(po.load(tmp_path / "nb" / "model").model, po.SCVI)


def test_what_cannot_be_told_apart_is_fitted_anew(dm, tmp_path, monkeypatch):
    trained = []
    fit = comparison.pl.Trainer.fit
    monkeypatch.setattr(comparison.pl.Trainer, "fit", lambda self, *a: (trained.append(1), fit(self, *a)))

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


def test_what_cannot_be_compared_is_said(dm, tmp_path):
    adata, _ = po.simulate.cells(n_obs=30, n_genes=5, seed=0)
    with pytest.raises(ValueError, match="no rows are held out to compare on"):
        po.compare({}, po.CellDataModule(adata, validation_size=0.0))
    with pytest.raises(TypeError, match=r"'scvi' must make an SVIModule.*made a SCVI"):
        po.compare({"scvi": lambda: po.SCVI.from_data(dm, n_latent=2)}, dm)
    with pytest.raises(ValueError, match="'a/b' cannot be the name of a folder"):
        po.compare({"a/b": configurations(dm)["nb"]}, dm)
    (tmp_path / "nb").mkdir()
    (tmp_path / "nb" / "mine.txt").write_text("mine")
    made = []
    with pytest.raises(FileExistsError, match="is no fit of a comparison"):
        po.compare(configurations(dm, made), dm, max_epochs=1, folder=tmp_path, num_particles=2)
    assert not made, "before any training"
    (tmp_path / "nb" / "metrics.json").write_text('{"val_elbo": -1.0}')  # of pyro-omics fit
    with pytest.raises(FileExistsError, match="is no fit of a comparison"):
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
        (["zinb.yaml", "zinb.yaml"], "two files are called 'zinb'"),
        (["zinb.yaml", "nb.yaml", "--trainer.max_epochs", "2"], "with an equals sign"),
    ):
        with pytest.raises(SystemExit, match=message):
            cli.main(["compare", *args])


def test_weights_are_made_latent_by_a_value_of_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    adata, _ = po.simulate.cells(n_obs=40, n_genes=6, seed=0)
    adata.write_h5ad("cells.h5ad")
    write(tmp_path / "a.yaml")
    monkeypatch.setattr("sys.argv", ["pyro-omics"])
    cli.main(["fit", "--config", "a.yaml", "--bayesianize=decoder", "--out", "out"])
    svi = po.load("out/model")
    assert "decoder.heads.rho.weight" in po.Posterior(svi, po.CellDataModule(adata)).samples(num_samples=1)
    assert yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())["bayesianize"] == "decoder"
