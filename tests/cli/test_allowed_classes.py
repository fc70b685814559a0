"""What a configuration may name, and what of it is run."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from anndata import AnnData
from jsonargparse import _common

from pyro_omics import cli
from pyro_omics.cli.allowed_classes import allowed_classes, split_allowed

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu", "--report.umap=false"]


@pytest.fixture(autouse=True)
def folder(working_folder):
    """A working folder with cells.h5ad in it."""
    AnnData(np.random.default_rng(0).poisson(2.0, (40, 8)).astype("f4")).write_h5ad("cells.h5ad")
    return working_folder


PLACES = [
    "data.init_args.adata",
    "data.init_args.protein_mask",
    "data.init_args.protein_names",
    "model.guide",
    "model.guide.init_args.rest",
    "model.model.init_args.prior",
    "model.model.init_args.likelihood",
    "model.optimizer",
    "model.scheduler",
    "model.elbo",
    "weight_prior",
    "trainer.callbacks",
    "trainer.logger",
    "trainer.strategy",
    "report.color",
]
CALLS = {
    "os.system": {"command": "touch ran"},
    "pathlib.Path.touch": {"self": "ran"},
    "pyro_omics.cli.commands.os.system": {"command": "touch ran"},
    "subprocess.run": {"args": ["touch", "ran"]},
    "mine.Part": {},
}


@pytest.mark.parametrize(
    ("place", "call"), [*((place, "os.system") for place in PLACES), *((PLACES[0], call) for call in list(CALLS)[1:])]
)
def test_no_other_function_is_called_from_any_place(place, call, folder):
    (folder / "mine.py").write_text("open('ran', 'w').close()\nclass Part: pass\n")
    config = {
        "data": {"class_path": "pyro_omics.CellDataModule", "init_args": {"adata": "cells.h5ad"}},
        "model": {"model": {"class_path": "pyro_omics.SCVI"}},
        "trainer": {"max_epochs": 0},
    }
    *parents, last = place.split(".")
    at = config
    for name in parents:
        at = at.setdefault(name, {} if name != "guide" else {"class_path": "pyro_omics.guides.Amortized"})
    found = {"class_path": call, "init_args": CALLS[call]}
    at[last] = [found] if last == "callbacks" else found
    Path("evil.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit):
        cli.main(["fit", "--config", "evil.yaml", "--out", "out", *QUIET])
    assert not Path("ran").exists()
    assert not Path("out").exists()


def test_a_class_of_ones_own_needs_to_be_allowed(capsys):
    with pytest.raises(SystemExit):
        cli.main(["fit", "--data.adata=cells.h5ad", "--model.model=mine.Model", *QUIET])
    assert "got 'mine.Model': for code of your own, which is then run, pass --allow mine" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["fit", "--data.adata=cells.h5ad", "--model.optimizer=os.system", *QUIET])
    assert "got 'os.system': choose one of these" in capsys.readouterr().err


def test_a_path_is_a_path(folder):
    """Not the module of the same name, which jsonargparse would import."""
    (folder / "cells.py").write_text("open('ran', 'w').close()\n")
    cli.main(["fit", "--data.adata=cells.h5ad", "--trainer.max_epochs=1", "--report.num_particles=0", *QUIET])
    assert not Path("ran").exists()


def test_jsonargparses_settings_are_restored():
    before = {name: dict(v) if isinstance(v, dict) else v for name, v in _common.parsing_settings.items()}
    with allowed_classes(["mine"]):
        assert _common.parsing_settings["import_path_verdicts"]["mine"]
    assert _common.parsing_settings == before


@pytest.mark.parametrize("args", [["--allow", "a", "--allow=b.c"], ["--allow=a,b.c"], ["--allow", "a, b.c"]])
def test_allow_is_repeatable(args):
    assert split_allowed(["fit", *args, "--out", "x"]) == (["a", "b.c"], ["fit", "--out", "x"])


def test_what_is_allowed_must_be_a_name():
    with pytest.raises(SystemExit, match="--allow must be the name of a package"):
        cli.main(["fit", "--allow", "mine.py/x"])
