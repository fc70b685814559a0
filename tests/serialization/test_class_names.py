"""Every class that a saved file may hold has a public name, and every part comes back from a saved file."""

import importlib
import inspect
import json
import pkgutil

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from helpers import quiet_trainer
from own_model import CountFactors
from pyro.nn import PyroModule

import pyro_omics as po
from pyro_omics.guides.base import LocalGuide
from pyro_omics.parts.base import Part
from pyro_omics.parts.priors.label_mixture import LabelMixture
from pyro_omics.serialization.arguments import PARTS, RecordsArguments, decode, encode, resolve
from pyro_omics.serialization.class_names import class_name, public_classes

# Bases that users do not need, and what SCANVI makes for itself: never an argument, so never in a file.
NOT_SAVED = {Part, LocalGuide, LabelMixture}


def recording():
    """Every class of the package that records its arguments."""
    for module in pkgutil.walk_packages(po.__path__, "pyro_omics."):
        importlib.import_module(module.name)
    found, left = set(), [RecordsArguments]
    while left:
        new = [cls for cls in type.__subclasses__(left.pop()) if cls not in found]
        found.update(new)
        left += new
    return sorted((cls for cls in found if cls.__module__.startswith("pyro_omics.")), key=class_name)


@pytest.mark.parametrize("cls", recording(), ids=lambda cls: cls.__name__)
def test_every_part_model_and_guide_has_a_public_name(cls):
    if cls in NOT_SAVED or cls.__name__.startswith("_"):
        assert cls not in public_classes().values()
        return
    path = class_name(cls)
    found = po
    for name in path.split(".")[1:]:
        found = getattr(found, name)
    assert found is cls
    assert encode(cls) == {"type": path} and resolve(path, {}) is cls
    assert not any(name.startswith("_") for name in path.split("."))


def test_names_are_those_that_users_write():
    for cls, path in (
        (po.SCVI, "pyro_omics.SCVI"),
        (po.priors.VampPrior, "pyro_omics.priors.VampPrior"),
        (po.library_sizes.Latent, "pyro_omics.library_sizes.Latent"),
        (po.layers.LayerNorm, "pyro_omics.layers.LayerNorm"),
        (torch.nn.Linear, "torch.nn.modules.linear.Linear"),
        (CountFactors, "own_model.CountFactors"),
    ):
        assert class_name(cls) == path


def public(module, kind, but=()):
    """Name -> class, of the classes of a public module of that kind."""
    found = {name: value for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, kind)}
    return {name: cls for name, cls in found.items() if cls in public_classes().values() and cls not in but}


PRIORS = public(po.priors, po.priors.Prior, but=[po.priors.Prior])
LIKELIHOODS = public(po.likelihoods, po.likelihoods.Likelihood, but=[po.likelihoods.Likelihood])
DISPERSIONS = public(po.dispersions, po.dispersions.Dispersion, but=[po.dispersions.Dispersion])
LIBRARY_SIZES = public(po.library_sizes, po.library_sizes.Library, but=[po.library_sizes.Library])
WEIGHT_PRIORS = public(po.priors, po.priors.WeightPrior, but=[po.priors.WeightPrior])
GUIDES = public(po.guides, PyroModule)
MODELS = public(po.models, po.models.CountModel, but=[po.models.CountModel])
# Likelihoods of two means are of the proteins of TotalVI; efficiencies and backgrounds are its parts too.
OF_PROTEINS = public(po.proteins, Part)
OF_DEL = {"GammaMeanField", "Conditional"}


@pytest.fixture(scope="module")
def data():
    cite, _ = po.simulate.citeseq(n_obs=40, n_genes=6, n_proteins=4, n_batches=2, seed=0)
    cite.obs["type"] = np.random.default_rng(0).choice(["B", "T", "Unknown"], 40)
    cite.obs["size"] = np.random.default_rng(0).uniform(0.5, 2.0, 40)
    options = {"batch_key": "batch", "batch_size": 20, "validation_size": 0.2}
    library, _ = po.simulate.del_library(cycles=(4, 4, 3), seed=0)
    rna = po.CellDataModule(cite, **options)
    proteins = po.CellDataModule(cite, protein_obsm_key="protein_counts", **options)
    compounds = po.DELDataModule(library, batch_size=24)
    return {
        "SCVI": rna,
        "TotalVI": proteins,
        "SCANVI": po.CellDataModule(cite, label_key="type", **options),
        "SizeFactor": po.CellDataModule(cite, size_factor_key="size", **options),
        "DELCount": compounds,
        "HierarchicalDEL": compounds,
    }


def made(model, dm, **options):
    """A model for the data, small."""
    torch.manual_seed(0)
    small = {} if model is po.HierarchicalDEL else {"n_hidden": 4}
    if issubclass(model, po.SCVI):
        small |= {"n_latent": 2}
    return model.from_data(dm, **small, **options)


def comes_back(program, dm, path, guide=None, **options):
    """A pair is the same after it is trained, saved and loaded; returns both."""
    svi = po.SVIModule(program, guide=guide)
    quiet_trainer(1, limit_val_batches=0).fit(svi, dm)
    torch.manual_seed(1)
    found = po.load(svi.save(path / "model"), **options)
    assert {k: str(v) for k, v in vars(found.model).get("constructor_arguments", {}).items()}.keys() == set(
        svi.model.constructor_arguments
    )
    assert encode(found.model) == encode(svi.model) and "unknown" not in json.dumps(encode(svi.model))
    batch = dm.example_batch()
    losses = []
    for pair in (svi, found):
        torch.manual_seed(2)
        losses.append(float(pair.eval()(batch).detach()))
    assert losses[0] == losses[1] and np.isfinite(losses[0])
    return svi, found


@pytest.mark.parametrize("name", PRIORS)
def test_priors_come_back(name, data, tmp_path):
    _, found = comes_back(made(po.SCVI, data["SCVI"], prior=PRIORS[name]()), data["SCVI"], tmp_path)
    assert type(found.model.prior) is PRIORS[name]


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_likelihoods_come_back(name, data, tmp_path):
    likelihood = LIKELIHOODS[name]()
    argument = "likelihood" if name != "NegativeBinomialMixture" else "protein_likelihood"
    model = po.SCVI if argument == "likelihood" else po.TotalVI
    _, found = comes_back(made(model, data[model.__name__], **{argument: likelihood}), data[model.__name__], tmp_path)
    assert type(getattr(found.model, argument)) is LIKELIHOODS[name]


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in DISPERSIONS), ("PerGene", {"by": "batch"}), ("PerGene", {"by": "label"})],
)
def test_dispersions_come_back(name, options, data, tmp_path):
    dm = data["SCANVI" if options.get("by") == "label" else "SCVI"]
    likelihood = po.likelihoods.NegativeBinomial(DISPERSIONS[name](**options))
    _, found = comes_back(made(po.SCVI, dm, likelihood=likelihood), dm, tmp_path)
    dispersion = found.model.likelihood.dispersion
    assert type(dispersion) is DISPERSIONS[name]
    assert dispersion.constructor_arguments.get("by") == options.get("by")


@pytest.mark.parametrize("name", LIBRARY_SIZES)
def test_library_sizes_come_back(name, data, tmp_path):
    dm = data["SizeFactor" if name == "SizeFactor" else "SCVI"]
    _, found = comes_back(made(po.SCVI, dm, library=LIBRARY_SIZES[name]()), dm, tmp_path)
    assert type(found.model.library) is LIBRARY_SIZES[name]


@pytest.mark.parametrize("name", OF_PROTEINS)
def test_parts_of_proteins_come_back(name, data, tmp_path):
    part = OF_PROTEINS[name]()
    argument = "efficiency" if issubclass(OF_PROTEINS[name], po.proteins.Efficiency) else "background"
    _, found = comes_back(made(po.TotalVI, data["TotalVI"], **{argument: part}), data["TotalVI"], tmp_path)
    assert type(getattr(found.model, argument)) is OF_PROTEINS[name]


@pytest.mark.parametrize("name", WEIGHT_PRIORS)
def test_priors_of_weights_come_back(name, data, tmp_path):
    model = po.bayesianize(made(po.SCVI, data["SCVI"]), "decoder.heads.rho.bias", prior=WEIGHT_PRIORS[name]())
    _, found = comes_back(model, data["SCVI"], tmp_path)
    assert type(found.model.constructor_edits[0]["prior"]) is WEIGHT_PRIORS[name]


@pytest.mark.parametrize("name", GUIDES)
def test_guides_come_back(name, data, tmp_path):
    model = po.HierarchicalDEL if name in OF_DEL else po.SCVI
    dm = data[model.__name__]
    _, found = comes_back(made(model, dm), dm, tmp_path, guide=GUIDES[name])
    assert type(found.guide) is GUIDES[name]


@pytest.mark.parametrize("name", MODELS)
def test_models_come_back(name, data, tmp_path):
    _, found = comes_back(made(MODELS[name], data[name]), data[name], tmp_path)
    assert type(found.model) is MODELS[name]


class Shifted(po.priors.Prior):
    """z ~ Normal(loc, I_k): a prior of a user's own."""

    def __init__(self, loc, n_latent=None):
        super().__init__(n_latent)
        self.loc = loc

    def complete(self, n_latent):
        self.scale = torch.nn.Parameter(torch.ones(n_latent))

    def forward(self, batch=None):
        return dist.Normal(self.loc + torch.zeros_like(self.scale), self.scale).to_event(1)


def test_a_users_own_prior_comes_back_in_any_model(data, tmp_path):
    for model in (po.SCVI, po.TotalVI):
        dm = data[model.__name__]
        program = made(model, dm, prior=Shifted(0.5))
        _, found = comes_back(program, dm, tmp_path / model.__name__, classes=[Shifted])
        assert type(found.model.prior) is Shifted and found.model.prior.loc == 0.5
    own = CountFactors.from_data(data["SCVI"], prior=Shifted(0.5))
    comes_back(own, data["SCVI"], tmp_path / "own", classes=[Shifted, CountFactors])


def test_a_users_own_prior_keeps_the_contract(data):
    """`check_model` saves and loads the pair, with every class in it."""
    po.testing.check_model(made(po.SCVI, data["SCVI"], prior=Shifted(0.5)), data["SCVI"])


def test_every_public_class_that_takes_no_arguments_is_made_again():
    for path, cls in public_classes().items():
        wanted = list(inspect.signature(cls.__init__).parameters.values())[1:]
        if issubclass(cls, RecordsArguments) and all(p.default is not p.empty or p.kind in (2, 4) for p in wanted):
            assert type(decode(json.loads(json.dumps(encode(cls()))))) is cls, path
            assert issubclass(cls, PARTS)
