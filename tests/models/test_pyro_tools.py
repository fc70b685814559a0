"""Pyro's own tools on every model and its guide as they come, under both settings of `module_local_params`.

PYRO_OMICS_WRITE_MATRIX=1 pytest tests/models/test_pyro_tools.py writes the table of docs/matrix.md anew.
"""

import copy
import os
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pyro
import pytest
import torch
from own_model import CountFactors
from pyro_tools import LIMITS, TOOLS, Case, limit

import pyro_omics as po

DOCS = Path(__file__).parents[2] / "docs" / "matrix.md"
HEADING = "## Pyro's own tools"
# CountFactors is a model of a user's own.
MODELS = {
    **{
        name: cls
        for name in po.models.__all__
        if isinstance(cls := getattr(po.models, name), type)
        and issubclass(cls, po.models.CountModel)
        and cls is not po.models.CountModel
    },
    "CountFactors": CountFactors,
}
OPTIONS = {
    "SCVI": {"n_latent": 2, "n_hidden": 4},
    "TotalVI": {"n_latent": 2, "n_hidden": 4},
    "SCANVI": {"n_latent": 2, "n_hidden": 4},
    "DELCount": {"n_hidden": 4, "latent_depth": True},
    "CountFactors": {"n_latent": 2, "likelihood": po.likelihoods.NegativeBinomial},
}


@pytest.fixture(scope="module")
def data():
    """40 cells of two batches and 32 genes, which the kernels take; a library of 48 compounds."""
    cite, _ = po.simulate.citeseq(n_obs=40, n_genes=32, n_proteins=9, n_batches=2, seed=0)
    cite.obs["type"] = np.random.default_rng(0).choice(["B", "T", "Unknown"], 40)
    options = {"batch_key": "batch", "batch_size": 16, "validation_size": 0.0}
    adata, _ = po.simulate.del_library(cycles=(4, 4, 3), n_pre=1, seed=0)
    return {
        "cells": po.CellDataModule(cite, **options),
        "TotalVI": po.CellDataModule(cite, protein_obsm_key="protein_counts", **options),
        "SCANVI": po.CellDataModule(cite, label_key="type", **options),
        "library": po.DELDataModule(adata, batch_size=16, validation_size=0.0),
    }


@pytest.fixture(scope="module")
def built(data):
    """(model, setting) -> a case, of which each test gets a copy."""
    made = {}

    def build(name, local):
        if (name, local) not in made:
            kind = MODELS[name]
            of_library = get_type_hints(kind.__init__).get("sizes") is po.sizes.DELSizes
            dm = data["library"] if of_library else data.get(name, data["cells"])
            torch.manual_seed(0)
            options = {key: value() if callable(value) else value for key, value in OPTIONS.get(name, {}).items()}
            model = kind.from_data(dm, **options)
            rows = dm.rows("training")
            made[name, local] = model, dm.data[rows[:16]], dm.data[rows]
        model, batch, whole = made[name, local]
        return Case(copy.deepcopy(model), batch, whole)

    return build


@pytest.fixture(params=[False, True], ids=["global", "local"])
def local(request):
    """Pyro's setting, with an empty parameter store."""
    pyro.clear_param_store()
    with pyro.settings.context(module_local_params=request.param):
        yield request.param
    pyro.clear_param_store()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tool", TOOLS)
def test_a_tool_works_or_pyro_says_why_not(tool, name, local, built):
    case = built(name, local)
    known = limit(tool, case, local)
    if known is None:
        TOOLS[tool](case)
    elif known.error is not None:
        with pytest.raises(Exception, match=known.error):
            TOOLS[tool](case)


def section(built):
    """The table as Markdown, with a note for each limit that a model meets."""
    reasons = [one.why for one in LIMITS if one.error is not None]
    lines = [
        HEADING,
        "",
        "Written by `tests/models/test_pyro_tools.py`, which uses Pyro's own tools on each model and its guide as they",
        "come, with Pyro's setting `module_local_params` off, as Pyro has it, and on, and checks what comes out.",
        "yes: under both settings; a number: see below; -: there is nothing to do. All limits are Pyro's own.",
        "",
        f"| | {' | '.join(MODELS)} |",
        f"| --- |{' --- |' * len(MODELS)}",
    ]
    for tool in TOOLS:
        marks = []
        for name in MODELS:
            off, on = (limit(tool, built(name, setting), setting) for setting in (False, True))
            mark = "yes" if off is None else "-" if off.error is None else f"no ({1 + reasons.index(off.why)})"
            marks.append(f"yes ({1 + reasons.index(on.why)})" if off is None and on is not None else mark)
        lines.append(f"| {tool} | {' | '.join(marks)} |")
    return "\n".join([*lines, "", *(f"{i}. {why}." for i, why in enumerate(reasons, 1))]) + "\n"


def test_the_section_in_the_docs_is_this_one(built):
    before, _, written = DOCS.read_text().partition(HEADING)
    if os.environ.get("PYRO_OMICS_WRITE_MATRIX"):
        written = section(built).removeprefix(HEADING)
        DOCS.write_text(before.rstrip() + "\n\n" + HEADING + written)
    assert HEADING + written == section(built), "write docs/matrix.md anew: see the head of this file"
