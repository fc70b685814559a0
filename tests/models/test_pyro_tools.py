"""Pyro's own tools on every model and its guide as they come, under both settings of `module_local_params`.

PYRO_OMICS_WRITE_MATRIX=1 pytest tests/models/test_pyro_tools.py writes the table of docs/matrix.md anew.
"""

import copy
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pyro
import pytest
import torch
from own_model import CountFactors
from pyro_tools import TOOLS, Case

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
# What Pyro does not do, as it says it.
LIMITS = {}
NOTHING = {}


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
def test_a_tool_works_or_says_why_not(tool, name, local, built):
    if (tool, name) in NOTHING:
        return
    if (tool, name) not in LIMITS:
        TOOLS[tool](built(name, local))
        return
    with pytest.raises(Exception, match=LIMITS[tool, name]):
        TOOLS[tool](built(name, local))
