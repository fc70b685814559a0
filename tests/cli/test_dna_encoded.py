"""DNA-encoded libraries from the command line: `pyro-omics del`, and `pyro-omics fit` with their models."""

import json
import os
import pickle
import shutil
import signal
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
import yaml
from helpers import quiet_trainer

import pyro_omics as po
from pyro_omics import cli
from pyro_omics.cli.option_messages import as_option
from pyro_omics.data.dna_encoded.errors import Argument, ArgumentError
from pyro_omics.schema import DELSchema

CONFIGS = Path(po.__file__).parents[1] / "configs"
FIGURES = ["calibration.png", "cube.png", "replicates.png", "synthons.png", "target_against_control.png",
           "training_curve.png"]  # fmt: skip
LEFT = sorted([*FIGURES, "compounds.csv", "config.yaml", "disynthons.csv", "hits.csv", "metrics.json",
               "model/config.json", "model/rows.safetensors", "model/weights.safetensors", "synthons.csv"])  # fmt: skip


@pytest.fixture(autouse=True)
def folder(working_folder):
    """A working folder."""
    return working_folder


def table(adata):
    """The table of an AnnData, as a sequencing service hands it over."""
    counts = pd.DataFrame(adata.X.toarray().astype(int), index=adata.obs_names, columns=adata.var_names)
    return pd.concat([adata.obs, counts], axis=1).rename_axis("compound_id").reset_index()


def small(**options):
    """The table of a library of 4 x 4 x 4 compounds."""
    adata, _ = po.simulate.del_library(**{"cycles": (4, 4, 4), "n_target": 2, "n_control": 0, "depth": 8, **options})
    return table(adata)


def run(*options, table="counts.csv", out="out", epochs=1):
    cli.main(["del", table, f"--out={out}", f"--max_epochs={epochs}", *options])


def read(path, index=0):
    return pd.read_csv(path, index_col=index)


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


# What it leaves -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A run on 8 x 8 x 8 compounds, as one would type it: its folder, what it printed, and the same fit in Python."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("ran")
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["pyro-omics"])
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.setenv("PL_SEED_WORKERS", "0")
        adata, _ = po.simulate.del_library(cycles=(8, 8, 8), n_target=2, n_control=0, depth=8, seed=3)
        table(adata).assign(smiles="C").to_csv("counts.csv", index=False)
        printed = Printed()
        patch.setattr(sys, "stdout", printed)
        run("--seed=5", "--fdr=0.2", "--threshold=3", epochs=3)
        patch.undo()
        dm = po.DELDataModule(str(folder / "counts.csv"), seed=5)
        pl.seed_everything(5, verbose=False)
        svi = po.SVIModule(po.HierarchicalDEL.from_data(dm))
        quiet_trainer(3).fit(svi, dm)
        return folder, printed.text, po.Posterior(svi, dm)


class Printed:
    """Keeps what is written to it."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return False


def test_it_leaves_its_results(ran):
    assert files(ran[0] / "out") == LEFT
    for name in FIGURES:
        assert (ran[0] / "out" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore:there are no control selections")
def test_the_hit_list_is_that_of_the_same_fit_in_python(ran):
    folder, _, post = ran
    found, expected = read(folder / "out/hits.csv"), post.hits(fdr=0.2, threshold=np.log(3), seed=5)
    assert found.index.name == "compound" and list(found.index) == list(expected.index) and len(found) > 2
    np.testing.assert_allclose(found[expected.columns], expected, rtol=1e-5, atol=1e-8)
    obs = post.dm.adata.obs.loc[found.index]
    assert (found[["A", "B", "C", "smiles"]] == obs[["A", "B", "C", "smiles"]].astype(str)).all().all()
    assert list(found["counts_target"]) == list(post.dm.adata[found.index].X.toarray().sum(1))


def test_all_compounds_are_ranked(ran):
    folder, _, post = ran
    found, expected = read(folder / "out/compounds.csv"), post.enrichment(threshold=np.log(3), seed=5)
    assert sorted(found.index) == sorted(expected.index)
    np.testing.assert_allclose(found[expected.columns], expected.loc[found.index], rtol=1e-5, atol=1e-8)
    assert found["p_enriched"].is_monotonic_decreasing
    hits = read(folder / "out/hits.csv")
    assert list(found.index[: len(hits)]) == list(hits.index)


@pytest.mark.parametrize("name", ["hits", "compounds"])
def test_folds_are_beside_the_logs(ran, name):
    found = read(ran[0] / f"out/{name}.csv")
    for fold, log in (("fold", "median"), ("fold_lower", "lower"), ("fold_upper", "upper")):
        np.testing.assert_allclose(found[fold], np.exp(found[log]), rtol=1e-4)


def test_building_blocks_and_their_pairs(ran):
    folder, _, post = ran
    found, expected = read(folder / "out/synthons.csv", [0, 1]), post.synthons(seed=5)
    assert list(found.index) == list(expected.index) and len(found) == 24
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    pairs = read(folder / "out/disynthons.csv", [0, 1, 2, 3])
    assert pairs.index.names == ["cycle_1", "synthon_1", "cycle_2", "synthon_2"] and len(pairs) == 3 * 64
    assert pairs["log_enrichment"].is_monotonic_decreasing
    of_two = pairs.xs(("A", "C"), level=("cycle_1", "cycle_2"))
    expected = post.synthons(["A", "C"], seed=5)
    np.testing.assert_allclose(of_two.loc[expected.index], expected, rtol=1e-5)


def test_the_saved_model_is_the_one_that_was_fitted(ran):
    folder, _, post = ran
    svi = po.load(folder / "out/model")
    ours = po.Posterior(svi, po.DELDataModule(str(folder / "counts.csv"), seed=5))
    pd.testing.assert_frame_equal(ours.query("log_enrichment"), post.query("log_enrichment"))


def test_the_metrics(ran):
    folder, _, _ = ran
    metrics = json.loads((folder / "out/metrics.json").read_text())
    assert metrics["n_compounds"] == 512 and metrics["selections"] == {"target": 2}
    assert metrics["n_hits"] == len(read(folder / "out/hits.csv"))
    assert (metrics["fdr"], metrics["threshold"], metrics["epochs"], metrics["seed"]) == (0.2, 3.0, 3, 5)
    assert metrics["model"] == "HierarchicalDEL" and metrics["notes"] == []
    assert -50 < metrics["train_elbo"] < 0


def test_the_summary_names_the_best(ran):
    folder, printed, _ = ran
    hits, ranked = read(folder / "out/hits.csv"), read(folder / "out/compounds.csv")
    assert "512 compounds of 8 x 8 x 8 building blocks; selections: 2 target\n" in printed
    assert f"{len(hits)} hits, more than 3-fold enriched, at a false discovery rate of 0.2\nThat rate is the" in printed
    assert "the model's own expectation: it held in libraries drawn from the model's prior, and was exceeded" in printed
    assert "\nNote: there are no control selections, so that compounds that bind the matrix count as hits" in printed
    assert "(folds are multiples of the library's background; in the tables log_enrichment, median, lower" in printed
    lines = printed.split("The first 5 of the ranking")[1].splitlines()[2:7]
    for line, (name, row) in zip(lines, ranked.head(5).iterrows(), strict=True):
        assert line.split() == [name, f"{np.exp(row['median']):.3g}", f"{np.exp(row['lower']):.3g}", "to",
                                f"{np.exp(row['upper']):.3g}", f"{row['p_enriched']:.3f}"]  # fmt: skip
    assert all(f"out/{name}\n" in printed for name in ("hits.csv", "model", "cube.png", "metrics.json", "config.yaml"))


# Options --------------------------------------------------------------------------------------------------------------


def test_a_path_of_the_hit_list_conditions_and_building_blocks_by_name(folder, capsys):
    """Two cycles, all arms, columns of any name: the options in a file, and one of them on the command line."""
    adata, _ = po.simulate.del_library(cycles=(5, 6), n_target=2, n_control=1, n_pre=1, depth=8)
    names = dict(zip(adata.var_names, ["s1", "s2", "beads", "naive"], strict=True))
    table(adata).rename(columns={"A": "amine", "B": "acid", **names}).to_csv("mine.csv", index=False)
    (folder / "options.yaml").write_text("table: other.csv\nmax_epochs: 1\nfdr: 0.3\nsynthon_keys: [amine, acid]\n")
    arms = "--conditions=s1=target,s2=target,beads=control,naive=pre-selection"
    cli.main(["del", "mine.csv", arms, "--out=found.csv", "--fdr=0.4", "--config=options.yaml"])
    assert "no control selections" not in capsys.readouterr().out
    assert files(folder / "found") == [name for name in LEFT if name != "hits.csv"]
    ranked, hits = read("found/compounds.csv"), read("found.csv")
    assert list(hits.columns[:5]) == ["amine", "acid", "counts_target", "counts_control", "counts_pre-selection"]
    given = pd.read_csv("mine.csv", index_col="compound_id").loc[ranked.index]
    np.testing.assert_array_equal(ranked["counts_target"], given["s1"] + given["s2"])
    np.testing.assert_array_equal(ranked["counts_control"], given["beads"])
    assert {"ratio", "ratio_lower", "p_matrix"} <= set(ranked)
    metrics = json.loads((folder / "found/metrics.json").read_text())
    assert (metrics["fdr"], metrics["epochs"], metrics["table"]) == (0.4, 1, "mine.csv")
    assert metrics["selections"] == {"target": 2, "control": 1, "pre-selection": 1}
    # The options that it leaves make the same again, in a folder and from a mapping this time.
    options = yaml.safe_load((folder / "found/config.yaml").read_text())
    assert (options["fdr"], options["synthon_keys"], options["table"]) == (0.4, ["amine", "acid"], "mine.csv")
    mapping = "--conditions={s1: target, s2: target, beads: control, naive: pre-selection}"
    cli.main(["del", "--config=found/config.yaml", mapping, "--out=again"])
    assert (folder / "again/hits.csv").read_bytes() == (folder / "found.csv").read_bytes()


def test_an_anndata_in_four_cycles_has_no_cube(folder):
    adata, _ = po.simulate.del_library(cycles=(2, 3, 2, 2), n_target=1, n_control=0, depth=8)
    adata.write_h5ad("library.h5ad")
    run(table="library.h5ad")
    assert files("out") == [name for name in LEFT if name not in ("cube.png", "replicates.png")]  # nor a second target
    assert len(read("out/compounds.csv")) == 24


def test_doubts_are_said_and_an_empty_hit_list_is_a_result(folder, capsys):
    """One shallow selection, reads by its name, without the compounds that have none."""
    frame = small(n_target=1, depth=0.3)
    frame[frame["target_1"] > 0].rename(columns={"target_1": "reads"}).to_csv("counts.csv", index=False)
    missing = int((frame["target_1"] == 0).sum())
    run("--conditions.reads=target", "--fdr=1e-6")
    hits = read("out/hits.csv")
    assert len(hits) == 0 and {"A", "log_enrichment", "lower", "upper", "p_enriched", "fdr"} <= set(hits.columns)
    assert len(read("out/compounds.csv")) == 64
    printed = capsys.readouterr().out
    for said in (
        f"Note: read_del: {missing} of the 64 compounds in the full grid are not in the table and are added with "
        "counts of zero (--complete=false leaves them out)",
        "Note: the column 'reads' looks like reads by its name",
        "Note: there is one target selection, 'reads'",
        "Note: the sequencing is too shallow for a hit list",
        "0 hits, more than 2-fold enriched, at a false discovery rate of 1e-06",
        "That is a result, not an error",
    ):
        assert said in printed
    assert "Warning" not in printed
    metrics = json.loads((folder / "out/metrics.json").read_text())
    assert metrics["n_hits"] == 0 and len(metrics["notes"]) == 4


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def refused(folder, capsys, monkeypatch):
    """What a run says that must not train, nor leave anything."""
    small(cycles=(2, 2)).to_csv("counts.csv", index=False)
    monkeypatch.setattr(pl.Trainer, "fit", lambda *_: pytest.fail("it was trained"))

    def start(*options, **where):
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        with pytest.raises(SystemExit) as end:
            run(*options, **where)
        assert end.value.code not in (0, None)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        message = f"{end.value.code}\n{''.join(capsys.readouterr())}"
        assert "Traceback" not in message
        return message

    return start


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--fdr=1.5", "pyro-omics: error: fdr must be a rate between 0 and 1, such as 0.1; got 1.5"),
        ("--threshold=0.5", "threshold must be a fold enrichment over the background, 1 or more; got 0.5"),
        ("--max_epochs=0", "max_epochs must be a number of passes over the compounds, 1 or more; got 0"),
        ("--conditions=target_1", "conditions must be COLUMN=CONDITION,COLUMN=CONDITION; got 'target_1'"),
        (
            "--conditions=nowhere=target",
            "conditions must have columns of counts as keys, 'target_1', 'target_2'; got 'nowhere'",
        ),
        ("--conditions.target_1=Target", "--conditions target_1=Target: the condition looks misspelt: pass 'target'"),
        ("--synthon_keys=A,Z", "synthon_keys must be columns of the table, "),
        ("--layout=kindel", "--layout=kindel needs the columns"),
        ("--layout=excel", "excel"),
        ("--counts=some", "some"),
        ("--epochs=3", "epochs"),
        ("--config=nowhere.yaml", "nowhere.yaml"),
        ("--out=counts.csv", "out must not replace the table 'counts.csv'"),
        ("--out=taken", "out must be a folder; got 'taken', and taken is a file"),
        ("--out=full", "out must not replace other files; got 'full', and full/model is not a saved model"),
        ("--out=taken/below", "taken"),
    ],
)
def test_a_wrong_option_is_named_before_training(refused, folder, option, said):
    (folder / "taken").write_text("a file")
    (folder / "full/model").mkdir(parents=True)
    (folder / "full/model/mine.txt").write_text("of mine")
    assert said in refused(option)


def test_a_missing_table_is_named(refused):
    assert "'nowhere.csv' is not a file" in refused(table="nowhere.csv")


def test_counts_that_are_none_are_named(refused, folder):
    frame = small(cycles=(2, 2))
    frame["target_2"] = -1
    frame.to_csv("wrong.csv", index=False)
    said = refused(table="wrong.csv")
    assert "counts of 'target_2': row 0 (counted from 0; line 2 of 'wrong.csv') has -1, which is negative" in said


def test_a_table_whose_selections_are_unknown_is_asked_about(refused):
    small(cycles=(2, 2)).rename(columns={"target_1": "s1", "target_2": "s2"}).to_csv("plain.csv", index=False)
    said = "pass the condition of each, --conditions 's1=target or control,...'"
    assert said in refused(table="plain.csv")
    said = refused("--conditions=s1=target or control", table="plain.csv")
    assert "must be one of the two: pass 'target' or 'control'" in said


def test_doubts_are_said_where_an_error_ends_it(refused):
    small(cycles=(2, 2)).rename(columns={"A": "amine", "B": "acid"}).to_csv("plain.csv", index=False)
    said = refused(table="plain.csv")
    assert "Note: no building blocks are recognised among the columns" in said
    assert "pass their columns, --synthon_keys COLUMN,...; columns of text are 'amine', 'acid'" in said
    assert "synthon_keys must be the building-block columns" in said


@pytest.mark.parametrize(
    ("argument", "python", "option"),
    [
        (Argument("conditions", {"S1": "target"}), "conditions={'S1': 'target'}", "--conditions S1=target"),
        (Argument("conditions", {"S1": "target", "b c": "control"}), "conditions={'S1': 'target', 'b c': 'control'}",
         "--conditions 'S1=target,b c=control'"),
        (Argument("conditions", {"S1": "competitor"}, more=True), "conditions={'S1': 'competitor', ...}",
         "--conditions S1=competitor,..."),
        (Argument("conditions", {"}": "target"}, more=True), "conditions={'}': 'target', ...}",
         "--conditions '}=target,...'"),
        (Argument("synthon_keys", ...), "synthon_keys=[...]", "--synthon_keys COLUMN,..."),
        (Argument("synthon_keys", ["A", "B"]), "synthon_keys=['A', 'B']", "--synthon_keys A,B"),
        (Argument("layout", "deli"), "layout='deli'", "--layout=deli"),
        (Argument("counts", "raw"), "counts='raw'", "--counts=raw"),
        (Argument("complete", False), "complete=False", "--complete=false"),
    ],
)  # fmt: skip
def test_an_argument_is_worded_in_python_and_as_an_option(argument, python, option):
    error = ArgumentError("say which, ", argument, "; the column \"counts='raw'\" stays")
    assert str(error) == f"say which, {python}; the column \"counts='raw'\" stays"
    assert error.worded(as_option) == f"say which, {option}; the column \"counts='raw'\" stays"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_table_is_completed_as_asked(folder):
    frame = small(cycles=(3, 3), n_target=1)
    frame.iloc[1:].to_csv("counts.csv", index=False)
    run("--complete=true")
    assert len(read("out/compounds.csv")) == 9
    run("--complete=false")
    assert len(read("out/compounds.csv")) == 8


@pytest.mark.parametrize(
    "option", ["--layout=plain", "--counts=raw", "--conditions=target_1=target", "--complete=false"]
)
def test_how_a_table_is_read_is_not_asked_of_an_anndata(refused, option):
    po.simulate.del_library(cycles=(2, 2), depth=8)[0].write_h5ad("library.h5ad")
    assert "must be left out for an AnnData such as 'library.h5ad'" in refused(option, table="library.h5ad")


def test_a_failing_run_leaves_the_last_results_alone(ran, folder, monkeypatch):
    small(cycles=(4, 4)).to_csv("counts.csv", index=False)
    shutil.copytree(ran[0] / "out", "out")
    before = {name: (folder / "out" / name).read_bytes() for name in files("out")}

    def interrupted(self, path, **options):
        Path(path).write_text("half")
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(pd.DataFrame, "to_csv", interrupted)
    with pytest.raises(RuntimeError, match="the disk is gone"):
        run()
    assert {name: (folder / "out" / name).read_bytes() for name in files("out")} == before


def test_a_signal_ends_a_run_with_its_status(ran, folder, monkeypatch, capsys):
    small(cycles=(4, 4)).to_csv("counts.csv", index=False)
    shutil.copytree(ran[0] / "out", "out")
    before = {name: (folder / "out" / name).read_bytes() for name in files("out")}
    with monkeypatch.context() as patched:
        patched.setattr("pyro_omics.evaluation.report.History.on_train_batch_start",
                        lambda *args: os.kill(os.getpid(), signal.SIGTERM), raising=False)  # fmt: skip
        with pytest.raises(SystemExit) as end:
            run()
    assert end.value.code == 143
    assert "Run the command again" in capsys.readouterr().err
    assert {name: (folder / "out" / name).read_bytes() for name in files("out")} == before


def test_what_an_earlier_run_left_is_removed(ran, folder):
    small(cycles=(4, 4)).to_csv("counts.csv", index=False)
    shutil.copytree(ran[0] / "out", "out")
    metrics = json.loads((folder / "out/metrics.json").read_text())
    assert set(metrics["files"]) | {"config.yaml"} == {name.partition("/")[0] for name in files("out")}
    for name in ("of_that_run.png", "checkpoint.ckpt", "mine.txt"):
        (folder / "out" / name).write_text("old")
    (folder / "out/metrics.json").write_text(json.dumps({**metrics, "files": [*metrics["files"], "of_that_run.png"]}))
    run()
    assert "mine.txt" in files("out")
    assert not {"of_that_run.png", "checkpoint.ckpt"} & set(files("out"))


def test_help_mentions_the_command(capsys):
    for arguments, said in ((["--help"], "pyro-omics del COUNTS.csv"), (["del", "--help"], "--synthon_keys")):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 0
        assert said in capsys.readouterr().out


# With fit -------------------------------------------------------------------------------------------------------------

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.max_epochs=1"]


def lightning(command, config, *options, out="out"):
    cli.main([command, f"--config={config}", *QUIET, f"--out={out}", *options])


@pytest.mark.filterwarnings("ignore:there are no control selections")
def test_fit_of_a_hierarchical_model(folder):
    small(cycles=(3, 4)).to_csv("counts.csv", index=False)
    lightning("fit", CONFIGS / "del_hierarchical.yaml", "--data.adata=counts.csv", "--model.model.order=1")
    assert files("out") == ["adata.h5ad", "checkpoint.ckpt", "config.yaml", "enrichment.csv", "hits.csv",
                            "metrics.json", "model/config.json", "model/rows.safetensors", "model/weights.safetensors",
                            "synthons.csv", "training_curve.png"]  # fmt: skip
    svi, dm = po.load("out/model"), po.DELDataModule("counts.csv")
    assert svi.model.order == 1
    post = po.Posterior(svi, dm)
    found, expected = read("out/enrichment.csv"), post.enrichment()
    assert list(found.index) == list(expected.index)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert list(read("out/hits.csv").index) == list(post.hits().index)
    assert len(read("out/synthons.csv")) == 7
    latent = ad.read_h5ad("out/adata.h5ad").obsm["X_own_excess"]
    np.testing.assert_allclose(latent, post.latent(), rtol=1e-5)
    metrics = json.loads((folder / "out/metrics.json").read_text())
    assert (metrics["n_obs"], metrics["n_synthons"], metrics["n_validation"]) == (12, [3, 4], 0)
    assert metrics["unit"] == "nats per observation" and "n_genes" not in metrics
    lightning("predict", "out/config.yaml", "--ckpt_path=out/checkpoint.ckpt", out="new")
    assert ad.read_h5ad("new/predictions.h5ad").obsm["X_own_excess"].shape == (12, 1)
    for command in ("validate", "test"):
        with pytest.raises(SystemExit, match="no rows are held out"):
            lightning(command, "out/config.yaml", "--ckpt_path=out/checkpoint.ckpt")


def test_fit_of_a_model_of_features_that_has_no_latent(folder):
    small(n_control=1).to_csv("counts.csv", index=False)
    options = ["--data.adata=counts.csv", "--data.validation_size=0.25"]
    lightning("fit", CONFIGS / "del_count.yaml", *options, "--model.model.n_hidden=8")
    svi = po.load("out/model")
    assert type(svi.model) is po.DELCount and svi.model.log_background.item() != 0
    found = read("out/enrichment.csv")
    np.testing.assert_array_equal(found["lower"], found["upper"])
    assert not ad.read_h5ad("out/adata.h5ad").obsm
    metrics = json.loads((folder / "out/metrics.json").read_text())
    assert (metrics["n_obs"], metrics["n_validation"]) == (48, 16)
    assert metrics["val_log_likelihood"] == pytest.approx(metrics["val_elbo"], rel=1e-5)  # nothing is latent
    lightning("validate", "out/config.yaml", "--ckpt_path=out/checkpoint.ckpt")
    with pytest.raises(SystemExit, match="DELCount has no local sites, so its rows have no latent to predict"):
        lightning("predict", "out/config.yaml", "--ckpt_path=out/checkpoint.ckpt")


def test_what_a_table_means_is_said_in_yaml(folder):
    small(cycles=(3, 3)).rename(columns={"target_1": "s1", "target_2": "beads"}).to_csv("counts.csv", index=False)
    reading = {"path_or_frame": "counts.csv", "conditions": {"s1": "target", "beads": "control"}}
    data = {"adata": {"class_path": "pyro_omics.read_del", "init_args": reading}}
    given = {"data": {"class_path": "pyro_omics.DELDataModule", "init_args": data}, "model": {
        "model": {"class_path": "pyro_omics.DELCount", "init_args": {"n_hidden": 8}}}}  # fmt: skip
    (folder / "given.yaml").write_text(yaml.safe_dump(given))
    with pytest.warns(UserWarning, match="there is one target selection"):
        lightning("fit", "given.yaml")
    checkpoint = torch.load("out/checkpoint.ckpt", weights_only=True)
    assert DELSchema.from_dict(checkpoint["pyro_omics"]["schema"]).controls == ("beads",)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (["--data=pyro_omics.DELDataModule", "--data.adata=c.csv"], {"batch_size": None, "validation_size": 0.0}),
        (["--model.model=pyro_omics.TotalVI", "--data.adata=c.h5ad"], {"n_hidden": 256, "n_layers": 2, "dropout": 0.2}),
        (["--model.model=pyro_omics.DELCount", "--data.adata=c.h5ad"], {"norm": "pyro_omics.layers.LayerNorm"}),
        (["--data.adata=c.h5ad"], {"validation_size": 0.1, "n_latent": 10}),
    ],
)
def test_a_class_that_is_chosen_has_its_own_defaults(capsys, options, wanted):
    with pytest.raises(SystemExit):
        cli.main(["fit", *options, "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    found = {**config["data"]["init_args"], **config["model"]["model"]["init_args"]}
    assert {name: found[name] for name in wanted} == wanted


OWN = """
import pyro_omics as po

class OfGenes(po.models.CountModel):
    def __init__(self, n_obs: int, n_genes: int, n_labels: int = 7):
        super().__init__(n_obs)
"""


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("pyro_omics.SCVI", "the model needs Sizes, but these data have DELSizes: choose a model"),
        ("of_genes.OfGenes", "OfGenes needs n_genes, which these data do not have: choose a model"),
    ],
)
def test_a_model_of_other_data_is_refused(folder, monkeypatch, model, said):
    small(cycles=(2, 2)).to_csv("counts.csv", index=False)
    (folder / "of_genes.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(folder))
    with pytest.raises(SystemExit, match=said):
        lightning(
            "fit", CONFIGS / "del_count.yaml", "--allow=of_genes", "--data.adata=counts.csv", f"--model.model={model}"
        )
    sys.modules.pop("of_genes", None)
