"""The matrix of what goes with what: every pair of parts is tried in some model, trained a few steps or refused.

PYRO_OMICS_WRITE_MATRIX=1 pytest tests/test_matrix.py writes docs/matrix.md anew.
"""

import inspect
import itertools
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import quiet_trainer
from own_model import CountFactors
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    AutoStructured,
)

import pyro_omics as po

DOCS = Path(__file__).parents[1] / "docs" / "matrix.md"
GUIDES = {name: getattr(po.guides, name) for name in po.guides.__all__}
# What is sought for held-out rows takes as many steps as training.
GUIDES = {
    name: partial(guide, n_steps=3) if "n_steps" in inspect.signature(guide).parameters else guide
    for name, guide in GUIDES.items()
}
RESTS = {
    "AutoNormal": AutoNormal,
    "AutoDelta": AutoDelta,
    "AutoDiagonalNormal": AutoDiagonalNormal,
    "AutoMultivariateNormal": AutoMultivariateNormal,
    "AutoLowRankMultivariateNormal": partial(AutoLowRankMultivariateNormal, rank=2),
    "AutoIAFNormal": partial(AutoIAFNormal, hidden_dim=[200]),
    "AutoStructured": AutoStructured,
    "AutoLaplaceApproximation": AutoLaplaceApproximation,
}
PRIORS = {
    name: prior
    for name in po.priors.__all__
    if isinstance(prior := getattr(po.priors, name), type) and issubclass(prior, po.priors.Prior) and name != "Prior"
}
# In this order, and then those that are new; the mixture is of proteins.
LIKELIHOODS = dict.fromkeys(("Poisson", "NegativeBinomial", "ZeroInflatedPoisson", "ZeroInflatedNegativeBinomial"))
LIKELIHOODS |= {
    name: getattr(po.likelihoods, name)
    for name in po.likelihoods.__all__ if name not in ("Likelihood", "NegativeBinomialMixture")
}  # fmt: skip
ELBOS = {
    "Trace_ELBO": Trace_ELBO,
    "TraceMeanField_ELBO": TraceMeanField_ELBO,
    "TraceEnum_ELBO": partial(TraceEnum_ELBO, max_plate_nesting=1),
    "RenyiELBO(0.5)": partial(po.elbos.RenyiELBO, alpha=0.5, num_particles=2),
    "ImportanceWeightedELBO": partial(po.elbos.ImportanceWeightedELBO, num_particles=2),
}
# Of one bias of the decoder: without latents beside the rows' own, there would be nothing for ``rest`` to cover.
WEIGHTS = {"WeightNormal": po.priors.WeightNormal, "Horseshoe": po.priors.Horseshoe}
LATENT = "decoder.heads.rho.bias"
FACTORS = {
    "guide": GUIDES, "rest": RESTS, "prior": PRIORS, "likelihood": LIKELIHOODS, "elbo": ELBOS, "weights": WEIGHTS,
}  # fmt: skip
# What each model takes beside a guide, its rest and an ELBO; DELCount has no latents but its depths, and CountFactors
# is a model of a user's own, tests/own_model.py.
MODELS = {
    "SCVI": ("prior", "likelihood", "weights"),
    "TotalVI": ("prior", "likelihood", "weights"),
    "SCANVI": ("likelihood", "weights"),
    "DELCount": ("likelihood",),
    "HierarchicalDEL": ("likelihood",),
    "CountFactors": ("prior", "likelihood"),
}


def cells(model):
    """Cells in which every pair of parts is together at least once, chosen greedily."""
    names = ["guide", "rest", "elbo", *MODELS[model]]
    every = list(itertools.product(*(FACTORS[name] for name in names)))
    # Shuffled, or the first parts of each list would be in most cells.
    every = [every[i] for i in np.random.default_rng(0).permutation(len(every))]
    legal = [cell for cell in every if _legal(model, dict(zip(names, cell, strict=True)))]
    pairs = {cell: _pairs(cell) for cell in legal}
    chosen, left = [], set().union(*pairs.values())
    while left:
        best = max(legal, key=lambda cell: len(left & pairs[cell]))
        chosen.append(dict(zip(names, best, strict=True)))
        left -= pairs[best]
    return chosen


def _pairs(cell):
    return set(itertools.combinations(enumerate(cell), 2))


# Pairs (model or part, part) that are refused, and how: each is a test of its own below.
REFUSED = {
    ("SCVI", "Conditional"): "has no method conditional",
    ("TotalVI", "Conditional"): "has no method conditional",
    ("SCANVI", "Conditional"): "has no method conditional",
    ("DELCount", "Conditional"): "has no method conditional",
    ("CountFactors", "Conditional"): "has no method conditional",
    **{(model, "TraceEnum_ELBO"): "use Trace_ELBO" for model in MODELS if model != "SCANVI"},
    **{("SCANVI", elbo): "TraceEnum_ELBO" for elbo in ELBOS if elbo not in ("TraceEnum_ELBO", "RenyiELBO(0.5)",
       "ImportanceWeightedELBO")},
}  # fmt: skip


def _takes_rest(guide):
    return "rest" in inspect.signature(guide).parameters


def _legal(model, cell):
    parts = [model, *cell.values()]
    if not _takes_rest(GUIDES[cell["guide"]]) and cell["rest"] != "AutoNormal":
        return False
    return not any((a, b) in REFUSED for a, b in itertools.permutations(parts, 2))


@pytest.fixture(scope="module")
def data():
    cite, _ = po.simulate.citeseq(n_obs=40, n_genes=6, n_proteins=4, n_batches=2, seed=0)
    cite.obs["type"] = np.random.default_rng(0).choice(["B", "T", "Unknown"], 40)
    # An epoch is three steps: 32 of 40 cells, 48 compounds.
    options = {"batch_key": "batch", "batch_size": 11, "validation_size": 0.2}
    rna = po.CellDataModule(cite, **options)
    adata, _ = po.simulate.del_library(cycles=(4, 4, 3), seed=0)
    library = po.DELDataModule(adata, batch_size=16)
    return {
        "SCVI": rna,
        "CountFactors": rna,
        "TotalVI": po.CellDataModule(cite, protein_obsm_key="protein_counts", **options),
        "SCANVI": po.CellDataModule(cite, label_key="type", **options),
        "DELCount": library,
        "HierarchicalDEL": library,
    }


def made(model, cell, dm):
    """The SVIModule of a cell."""
    torch.manual_seed(0)
    parts = {name: FACTORS[name][cell[name]]() for name in MODELS[model]}
    weights = parts.pop("weights", None)
    if model == "CountFactors":
        program = CountFactors.from_data(dm, n_latent=2, **parts)
    elif model in ("DELCount", "HierarchicalDEL"):
        options = {"n_hidden": 4, "latent_depth": True} if model == "DELCount" else {}
        program = getattr(po.models, model).from_data(dm, **options, **parts)
    else:
        program = getattr(po.models, model).from_data(dm, n_latent=2, n_hidden=4, **parts)
    if weights is not None:
        program = po.bayesianize(program, LATENT, prior=weights)
    guide = GUIDES[cell["guide"]]
    if _takes_rest(guide):
        guide = partial(guide, rest=RESTS[cell["rest"]])
    return po.SVIModule(program, guide=guide, elbo=ELBOS[cell["elbo"]]())


# Pyro's, of AutoStructured, which orders the sites its own way; the KL of its Deltas is taken at the draw, and right.
@pytest.mark.filterwarnings("ignore:Failed to verify mean field restriction on the guide")
@pytest.mark.filterwarnings("ignore:AutoLaplaceApproximation. in .* not at a\\s+maximum")  # after three steps
@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_every_pair_of_parts_trains_in_some_cell(model, data):
    dm = data[model]
    failed = []
    for cell in cells(model):
        svi = made(model, cell, dm)
        in_table_only = cell["guide"] == "GammaMeanField"  # no held-out rows
        if _takes_rest(GUIDES[cell["guide"]]):
            assert svi.guide.rest is not None, "a rest that covers nothing shows nothing"
        trainer = quiet_trainer(1, num_sanity_val_steps=0, limit_val_batches=0 if in_table_only else None)
        trainer.fit(svi, dm)
        assert trainer.global_step == 3
        logged = ["train_elbo"] if in_table_only or not len(dm.rows("validation")) else ["train_elbo", "val_elbo"]
        numbers = [float(trainer.callback_metrics[name]) for name in logged]
        numbers += [float(p.detach().sum()) for p in svi.parameters()]
        if not np.isfinite(numbers).all():
            failed.append(cell)
    assert not failed


@pytest.mark.parametrize(("model", "part"), [pair for pair in REFUSED if pair[0] in MODELS])
def test_what_cannot_work_is_refused_by_name(model, part, data):
    cell = {"guide": "Amortized", "rest": "AutoNormal", "elbo": "TraceEnum_ELBO" if model == "SCANVI" else "Trace_ELBO"}
    cell |= {name: next(iter(FACTORS[name])) for name in MODELS[model]}
    cell[next(name for name, values in FACTORS.items() if part in values)] = part
    with pytest.raises((ValueError, TypeError), match=REFUSED[model, part]):
        made(model, cell, data[model])


@pytest.mark.parametrize(("model", "own"), [("SCVI", "Amortized"), ("HierarchicalDEL", "Conditional")])
def test_a_bare_autoguide_has_no_rows(model, own, data):
    with pytest.raises(ValueError, match=rf"guide=AutoNormal alone has no parameters.*guides.{own}, rest=AutoNormal"):
        po.SVIModule(getattr(po.models, model).from_data(data[model]), guide=AutoNormal)


def table():
    """The matrix as Markdown: what goes with each model."""
    columns = list(MODELS)
    lines = [
        "# What goes with what",
        "",
        "Written by `tests/test_matrix.py`, which trains a few steps of cells in which every pair of the parts below",
        "is together at least once (yes), and checks that the others are refused with the reason that is given.",
        "`CountFactors` is a model of a user's own, a page long: `tests/own_model.py`. A guide's rest covers the",
        "efficiencies, depths, yields or loadings of a model, and in the first three a latent bias of the decoder",
        "(weights). GammaMeanField takes no rest, and no held-out rows.",
        "",
        f"| | {' | '.join(columns)} |",
        f"| --- |{' --- |' * len(columns)}",
    ]
    for factor, values in FACTORS.items():
        lines.append(f"| **{factor}** |{' |' * len(columns)}")
        for value in values:
            marks = []
            for model in columns:
                takes = factor in ("guide", "rest", "elbo", *MODELS[model])
                refused = REFUSED.get((model, value))
                marks.append("-" if not takes else f"no: {refused}" if refused else "yes")
            lines.append(f"| {value} | {' | '.join(marks)} |")
    return "\n".join(lines) + "\n"


def test_the_table_in_the_docs_is_this_one():
    # Pyro's own tools are the section of tests/models/test_pyro_tools.py.
    ours, heading, theirs = DOCS.read_text().partition("\n## ")
    if os.environ.get("PYRO_OMICS_WRITE_MATRIX"):
        ours = table()
        DOCS.write_text(ours + heading + theirs)
    # A part that is new has its row once the table is written anew.
    rows = ours.splitlines()
    assert [line for line in table().splitlines() if line in rows or not line.startswith("| ")] == rows
