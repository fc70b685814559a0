"""Every part of a model reads global latents with dimensions in front as it reads those of one draw after the other."""

import copy
import inspect
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import quiet_trainer
from pyro_tools import Case, arviz, given_draws, particles, predictive

import pyro_omics as po

PRIORS = [
    prior
    for name in po.priors.__all__
    if isinstance(prior := getattr(po.priors, name), type)
    and issubclass(prior, po.priors.Prior)
    and prior is not po.priors.Prior
]
BY = [partial(po.dispersions.PerGene, by=by) for by in ("batch", "label")]
# Parts of SCVI and TotalVI, by argument; the default of each is in the tests of Pyro's tools.
CELLS = {
    "prior": PRIORS,
    "library": [po.library_sizes.SizeFactor, po.library_sizes.Latent],
    "likelihood": [
        po.likelihoods.Poisson,
        po.likelihoods.ZeroInflatedPoisson,
        *(partial(po.likelihoods.NegativeBinomial, dispersion=by()) for by in BY),
        partial(po.likelihoods.NegativeBinomial, dispersion=po.dispersions.PerGeneCell()),
    ],
    "norm": [lambda: po.layers.LayerNorm],
    "encode_covariates": [lambda: True],
}
PROTEINS = {
    "efficiency": [po.proteins.PointEfficiency],
    "background": [po.proteins.CellBackground, partial(po.proteins.Background, shared=True)],
    "prior": [po.priors.BatchMeans, po.priors.HierarchicalNormal],
    "protein_likelihood": [partial(po.likelihoods.NegativeBinomialMixture, dispersion=BY[0]())],
}
# Parameters that are made latent, by model.
LATENT = {
    "SCVI": ["decoder", "likelihood", "prior"],
    "TotalVI": ["decoder", "protein_decoder", "background", "protein_likelihood"],
    "SCANVI": ["prior", "decoder"],
    "DELCount": ["attention", "pose", "target_rate", "log_background", "target"],
    "HierarchicalDEL": ["own", "truncates", "matrix", "log_kappa", "target", "control"],
}


@pytest.fixture(autouse=True)
def _empty_store():
    pyro.clear_param_store()


@pytest.fixture(scope="module")
def data():
    """Cells of two batches, of which the second lacks a protein; a library with features and poses."""
    cite, _ = po.simulate.citeseq(n_obs=30, n_genes=6, n_proteins=4, n_batches=2, seed=0)
    rng = np.random.default_rng(0)
    cite.obs["type"] = rng.choice(["B", "T", "Unknown"], 30)
    cite.obs["size"] = rng.uniform(5, 20, 30)
    cite.obsm["protein_counts"] = cite.obsm["protein_counts"].astype(float)
    cite.obsm["protein_counts"].iloc[(cite.obs["batch"] == cite.obs["batch"].iloc[0]).to_numpy(), 1] = np.nan
    options = {"batch_key": "batch", "label_key": "type", "size_factor_key": "size", "validation_size": 0.0}
    adata, _ = po.simulate.del_library(cycles=(3, 3, 2), n_pre=1, seed=0)
    adata.obsm["fingerprint"] = rng.integers(0, 2, (18, 5)).astype(np.uint8)
    adata.obsm["poses"] = rng.normal(size=(18, 3, 4)).astype(np.float32)
    library = po.DELDataModule(adata, feature_key="fingerprint", pose_key="poses", validation_size=0.0)
    cells = po.CellDataModule(cite, **options)
    proteins = po.CellDataModule(cite, protein_obsm_key="protein_counts", **options)
    return {"SCVI": cells, "SCANVI": cells, "TotalVI": proteins, "DELCount": library, "HierarchicalDEL": library}


def made(name, dm, **options):
    torch.manual_seed(0)
    sizes = {"HierarchicalDEL": {}, "DELCount": {"n_hidden": 4}}.get(name, {"n_latent": 3, "n_hidden": 4})
    return getattr(po, name).from_data(dm, **sizes, **options)


def check(model, dm, seed=0):
    """Parameters that differ between rows, columns and levels, so that entries cannot be mistaken."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    case = Case(model, dm.data[dm.rows("training")[:5]], None)
    particles(case)
    for use in (given_draws, arviz):
        if case.latent:
            use(case)
    for parallel in (False, True):
        predictive(parallel)(case)


def _name(part):
    kind = getattr(part, "func", part)
    return f"{kind.__name__}-{'-'.join(map(str, getattr(part, 'keywords', {}).values()))}".strip("-")[:40]


@pytest.mark.parametrize(
    ("argument", "part"), [(argument, part) for argument, parts in CELLS.items() for part in parts],
    ids=lambda value: value if isinstance(value, str) else _name(value),
)  # fmt: skip
def test_parts_of_scvi(argument, part, data):
    check(made("SCVI", data["SCVI"], **{argument: _copy(part)}), data["SCVI"])


@pytest.mark.parametrize(
    ("argument", "part"), [(argument, part) for argument, parts in PROTEINS.items() for part in parts],
    ids=lambda value: value if isinstance(value, str) else _name(value),
)  # fmt: skip
def test_parts_of_totalvi(argument, part, data):
    check(made("TotalVI", data["TotalVI"], **{argument: _copy(part)}), data["TotalVI"])


def _copy(part):
    """A new part, of which no parameter belongs to a model yet."""
    return copy.deepcopy(part)() if not inspect.isclass(part) else part()


@pytest.mark.parametrize(("name", "path"), [(name, path) for name, paths in LATENT.items() for path in paths])
def test_latent_parameters(name, path, data):
    options = {"prior": po.priors.MixtureOfGaussians(3)} if (name, path) == ("SCVI", "prior") else {}
    if (name, path) == ("SCVI", "likelihood"):
        options = {"likelihood": po.likelihoods.NegativeBinomial(po.dispersions.PerGene(by="batch"))}
    model = made(name, data[name], **options)
    model = po.bayesianize(model, path, prior=dist.Normal(0.0, 0.3))
    model.default_guide = lambda: po.guides.Amortized
    check(model, data[name])


@pytest.mark.parametrize(
    "prior", [po.priors.Horseshoe(slab=1.0), po.priors.WeightNormal(0.3)], ids=lambda p: type(p).__name__
)
def test_priors_of_weights(prior, data):
    check(po.bayesianize(made("SCVI", data["SCVI"]), "decoder", prior=prior), data["SCVI"])


@pytest.mark.parametrize("order", [0, 1])
def test_truncates_and_known_yields(order, data):
    check(made("HierarchicalDEL", data["HierarchicalDEL"], order=order), data["HierarchicalDEL"])


@pytest.mark.parametrize("name", ["SCVI", "TotalVI", "DELCount", "HierarchicalDEL"])
def test_vectorised_particles_train(name, data):
    """In the mean their loss and ELBO are a loop's, at any weight of the KL; with penalties and warm starts."""
    dm, latent = data[name], {"SCVI": "decoder", "DELCount": "target_rate"}.get(name)
    model = made(name, dm) if latent is None else po.bayesianize(made(name, dm), latent, prior=dist.Normal(0.0, 0.1))
    found = {}
    for vectorised in (False, True):
        elbo = po.elbos.TraceELBO(60, max_plate_nesting=1, vectorize_particles=vectorised)
        torch.manual_seed(0)  # for the encoder
        svi = po.SVIModule(copy.deepcopy(model), elbo=elbo).eval()
        batch = dm.data[dm.rows("training")[:10]]
        found[vectorised] = [value.item() for value in svi.adapter.step(svi.elbo, batch, 0.5)]
    assert found[True] == pytest.approx(found[False], rel=0.1)  # their standard errors are some percent
    svi = po.SVIModule(model, elbo=po.elbos.TraceELBO(3, max_plate_nesting=1, vectorize_particles=True))
    trainer = quiet_trainer(2)
    trainer.fit(svi, dm)
    assert np.isfinite(float(trainer.callback_metrics["train_elbo"]))
    assert all(p.isfinite().all() for p in svi.parameters())
