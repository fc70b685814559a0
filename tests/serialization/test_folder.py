"""`svi.save`, `load` and Lightning's checkpoints: the same model comes back, and nothing else is ever made or run."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import pytorch_lightning as pl
import torch
from helpers import counts, donors, fitted, quiet_trainer, small
from jsonargparse import ArgumentParser
from own_model import CountFactors, PoissonFactors
from pyro.infer.autoguide import AutoDelta, AutoMultivariateNormal, AutoNormal
from pyro.nn import PyroModule
from safetensors import SafetensorError

import pyro_omics as po
from pyro_omics import layers
from pyro_omics.parts import dispersions, library_sizes, likelihoods, priors
from pyro_omics.schema import Schema
from pyro_omics.serialization import arguments
from pyro_omics.sizes import DELSizes, Sizes

N, G = 60, 12


@pytest.fixture(scope="module")
def dm():
    return po.CellDataModule(counts(N, G, donor=donors(N, "d1", "d2")), batch_key="donor", batch_size=16)


class ShiftedGuide(po.guides.Amortized):
    """A guide of one's own that is made as ours are."""


class PlainGuide(PyroModule):
    """A guide of one's own that records nothing of how it was made."""

    def __init__(self, model):
        super().__init__()
        self._model = (model,)
        self.shift = torch.nn.Parameter(torch.zeros(model.n_latent))

    def forward(self, batch):
        model = self._model[0]
        with model.plate(batch):
            z = batch.x[:, : model.n_latent].log1p() + self.shift
            pyro.sample("z", dist.Normal(z, 0.5).to_event(1))


def trained(dm, model, guide=None):
    svi = po.SVIModule(model, guide=guide)
    quiet_trainer(1).fit(svi, dm)
    return svi


def factors(dm, guide=None, **options):
    torch.manual_seed(0)
    return trained(dm, PoissonFactors.from_data(dm, **options), guide)


def same(one, other, dm):
    """The two answer alike, to the bit."""
    a, b = po.Posterior(one, dm), po.Posterior(other, dm)
    np.testing.assert_array_equal(a.latent(), b.latent())
    np.testing.assert_array_equal(a.elbo(seed=3), b.elbo(seed=3))
    return True


def edited(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


# There and back -------------------------------------------------------------------------------------------------------

CONFIGURATIONS = {
    "defaults": lambda: {},
    "negative binomial by batch": lambda: {"likelihood": likelihoods.NegativeBinomial(dispersions.PerGene(by="batch"))},
    "dispersion by cell": lambda: {
        "likelihood": likelihoods.ZeroInflatedNegativeBinomial(dispersion=dispersions.PerGeneCell())
    },
    "Poisson": lambda: {"likelihood": likelihoods.Poisson()},
    "latent library": lambda: {"library": library_sizes.Latent()},
    "logistic normal": lambda: {"prior": priors.LogisticNormal()},
    "mixture of Gaussians": lambda: {"prior": priors.MixtureOfGaussians(4)},
    "VampPrior": lambda: {"prior": priors.VampPrior(4), "encode_covariates": True},
    "flow": lambda: {"prior": priors.FlowPrior(n_transforms=2, n_hidden=8)},
    "scales": lambda: {"prior": priors.HierarchicalNormal()},
    "means of batches": lambda: {"prior": priors.BatchMeans()},
    "prior with its size": lambda: {"prior": priors.StandardNormal(n_latent=3)},
    "layer norm": lambda: {"norm": layers.LayerNorm, "n_layers": 2, "dropout": 0.2},
    "no norm": lambda: {"norm": None},
    "covariates for the encoder": lambda: {"encode_covariates": True},
    "own encoder of our layers": lambda: {"encoder": layers.Encoder(G, 3, n_hidden=7, norm=layers.LayerNorm)},
    "own decoder of our layers": lambda: {
        "decoder": layers.Decoder(3, {"rho": G, "dropout_logits": G}, n_hidden=5, n_cov=2)
    },
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_saved_model_comes_back(dm, tmp_path, name):
    svi = fitted(dm, epochs=1, **CONFIGURATIONS[name]())
    found = po.load(svi.save(tmp_path / "model"))
    assert same(svi, found, dm)
    assert found.schema == svi.schema and found.n_obs == svi.n_obs
    assert found.training


def test_the_fitted_pair_of_each_model_comes_back(fitted_pair, tmp_path):
    svi, dm = fitted_pair
    found = po.load(svi.save(tmp_path / "model"), classes=[CountFactors])
    assert type(found.model) is type(svi.model) and found.schema == svi.schema
    ours, theirs = (po.Posterior(each, dm) for each in (svi, found))
    np.testing.assert_array_equal(ours.elbo(num_samples=2, seed=3), theirs.elbo(num_samples=2, seed=3))
    assert ours.predictive(num_samples=1).equals(theirs.predictive(num_samples=1))


@pytest.mark.parametrize("rest", [AutoMultivariateNormal, AutoDelta, partial(AutoNormal, init_scale=0.3)])
def test_a_guide_for_the_rest_comes_back(dm, tmp_path, rest):
    svi = factors(dm, partial(po.guides.Amortized, rest=rest), n_latent=3)
    found = po.load(svi.save(tmp_path / "model"), model=PoissonFactors)
    assert same(svi, found, dm)
    assert type(found.guide.rest) is type(svi.guide.rest)


def test_the_warm_up_comes_back(dm, tmp_path):
    svi = po.SVIModule(small(dm), kl_warmup_epochs=3)
    assert po.load(svi.save(tmp_path / "model")).kl_warmup_epochs == 3


def test_sizes_of_numpy_come_back(dm, tmp_path):
    svi = po.SVIModule(small(dm, n_latent=np.int64(4), dropout=np.float32(0.25)))
    found = po.load(svi.save(tmp_path / "model"))
    assert found.model.n_latent == 4


def test_a_loaded_model_trains_on_and_saves_again(fitted_scvi, tmp_path):
    dm, svi = fitted_scvi.dm, po.load(fitted_scvi.svi.save(tmp_path / "one"))
    before = po.Posterior(svi, dm).latent()
    quiet_trainer(1).fit(svi.train(), dm)
    assert (po.Posterior(svi, dm).latent() != before).any()
    assert same(svi, po.load(svi.save(tmp_path / "two")), dm)


def test_a_loaded_model_aligns_new_data_by_name(fitted_scvi, tmp_path):
    svi, dm = fitted_scvi
    found = po.load(svi.save(tmp_path / "model"))
    backwards = dm.adata[:, ::-1].copy()
    new = po.CellDataModule(backwards, batch_key="donor")
    np.testing.assert_allclose(po.Posterior(found, new).latent(), po.Posterior(svi, dm).latent(), rtol=1e-5, atol=1e-6)


def test_saving_leaves_the_model_as_it_was(dm, tmp_path):
    svi = fitted(dm, epochs=1)
    svi.train()
    before = {name: value.clone() for name, value in svi.state_dict().items()}
    state = torch.get_rng_state()
    svi.save(tmp_path / "model")
    assert svi.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in svi.state_dict().items())
    quiet_trainer(1).fit(svi, dm)


# Own classes ----------------------------------------------------------------------------------------------------------


def test_an_own_model_needs_its_class(dm, tmp_path):
    folder = factors(dm).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"Factors.*load\(path, classes=\[PoissonFactors\]\)"):
        po.load(folder)


def test_an_own_model_comes_back_by_its_class(dm, tmp_path):
    svi = factors(dm, n_latent=4)
    found = po.load(svi.save(tmp_path / "model"), model=PoissonFactors)
    assert found.model.n_latent == 4
    assert same(svi, found, dm)
    assert same(svi, po.load(tmp_path / "model", classes=[PoissonFactors]), dm)


def test_an_own_model_comes_back_in_an_instance(dm, tmp_path):
    svi = factors(dm, n_latent=4)
    model = PoissonFactors(svi.n_obs, G, n_latent=4)
    found = po.load(svi.save(tmp_path / "model"), model=model)
    assert found.model is model
    assert same(svi, found, dm)


def test_an_instance_that_was_built_otherwise_is_refused(dm, tmp_path):
    folder = factors(dm, n_latent=4).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"the model must be made as .* with n_latent=4; got n_latent=2"):
        po.load(folder, model=PoissonFactors(dm.n_obs, G, n_latent=2))


def test_a_model_with_an_own_part_asks_for_its_class(dm, tmp_path):
    class Halved(likelihoods.Poisson):
        pass

    svi = fitted(dm, epochs=1, likelihood=Halved())
    folder = svi.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"Halved.*load\(path, classes=\[Halved\]\)"):
        po.load(folder)
    found = po.load(folder, model=small(dm, likelihood=Halved()))
    assert isinstance(found.model.likelihood, Halved)
    for options in ({}, {"model": po.SCVI}, {"guide": po.guides.Amortized}):
        found = po.load(folder, classes=[Halved], **options)
        assert isinstance(found.model.likelihood, Halved)
        assert same(svi, found, dm)


class Wide(priors.StandardNormal):
    """z ~ Normal(0, scale^2), with an argument of its own."""

    def __init__(self, scale, n_latent=None):
        super().__init__(n_latent)
        self.scale = scale

    def forward(self, batch=None):
        return dist.Normal(torch.zeros(self.n_latent), self.scale).to_event(1)


class Tight(po.priors.WeightNormal):
    """A prior of weights of one's own."""


class PointGuide(AutoDelta):
    """A guide for the rest of one's own."""


class SeveralOwn(PoissonFactors):
    """A model of one's own that takes a prior."""

    def __init__(self, n_obs: int, n_genes: int, n_latent: int = 3, prior=None):
        super().__init__(n_obs, n_genes, n_latent)
        self.prior = prior
        self.prior.build(Sizes(n_obs, n_genes, n_latent=n_latent))


def test_own_classes_anywhere_in_the_pair_come_back(dm, tmp_path):
    model = po.bayesianize(small(dm, prior=Wide(scale=2.0)), "decoder.heads.rho.bias", prior=Tight(0.5))
    svi = trained(dm, model, partial(ShiftedGuide, rest=PointGuide))
    folder = svi.save(tmp_path / "model")
    own = [Wide, Tight, ShiftedGuide, PointGuide]
    for missing in own:
        with pytest.raises(ValueError, match=rf"classes=\[{missing.__name__}\]"):
            po.load(folder, classes=[cls for cls in own if cls is not missing])
    found = po.load(folder, classes=own)
    assert found.model.prior.scale == 2.0 and found.model.constructor_edits[0]["prior"].scale == 0.5
    assert type(found.guide) is ShiftedGuide and type(found.guide.rest) is PointGuide
    assert same(svi, found, dm)


def test_classes_go_with_an_own_model(dm, tmp_path):
    svi = trained(dm, SeveralOwn.from_data(dm, prior=Wide(scale=0.7)))
    folder = svi.save(tmp_path / "model")
    for options in ({"classes": [Wide, SeveralOwn]}, {"model": SeveralOwn, "classes": [Wide]}):
        assert same(svi, po.load(folder, **options), dm)


def test_a_guide_that_records_nothing_is_made_by_its_class(dm, tmp_path):
    svi = trained(dm, small(dm), PlainGuide)
    assert same(svi, po.load(svi.save(tmp_path / "model"), classes=[PlainGuide]), dm)


def test_a_class_is_known_by_its_last_name_elsewhere(dm, tmp_path):
    """A script's class is of ``__main__`` there, and of a module's name where it is imported."""
    svi = fitted(dm, epochs=1, prior=Wide(scale=2.0))
    folder = svi.save(tmp_path / "model")

    def moved(config):
        config["model"]["arguments"]["prior"]["class"] = "__main__.Wide"

    edited(folder, moved)
    assert same(svi, po.load(folder, classes=[Wide]), dm)
    with pytest.raises(ValueError, match=r"__main__\.Wide.*classes=\[Wide\]"):
        po.load(folder, classes=[Tight])


@pytest.mark.parametrize("classes", [Wide, [Wide(scale=1.0)], ["Wide"]])
def test_what_is_no_list_of_classes_is_refused(dm, tmp_path, classes):
    folder = po.SVIModule(small(dm)).save(tmp_path / "model")
    with pytest.raises(TypeError, match=r"classes must be a list of classes, such as \[MyPrior\]"):
        po.load(folder, classes=classes)


def test_a_class_of_a_script_comes_back(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for task in ("save", "load"):
        subprocess.run([sys.executable, script, task, tmp_path / "model"], env=environment, check=True)
    assert "__main__.Mine" in (tmp_path / "model" / "config.json").read_text()


SCRIPT = """
import sys
import pyro_omics as po
from pyro_omics.sizes import DELSizes, Sizes

class Mine(po.priors.StandardNormal):
    pass

if sys.argv[1] == "save":
    model = po.SCVI(sizes=Sizes(n_obs=20, n_genes=5), n_latent=2, n_hidden=4, prior=Mine())
    po.SVIModule(model).save(sys.argv[2])
else:
    assert type(po.load(sys.argv[2], classes=[Mine]).model.prior) is Mine
"""


def test_a_model_with_a_plain_network_asks_for_the_model(dm, tmp_path):
    def network():
        return torch.nn.Sequential(torch.nn.Linear(G, 6), Halves())

    svi = fitted(dm, epochs=1, encoder=network())
    folder = svi.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"Sequential.*load\(path, model=MODEL\)"):
        po.load(folder)
    assert same(svi, po.load(folder, model=small(dm, encoder=network())), dm)


class Halves(torch.nn.Module):
    """Location and scale from the two halves of its input."""

    def forward(self, h):
        loc, scale = h.chunk(2, -1)
        return loc, scale.exp()


@pytest.mark.parametrize("guide", [ShiftedGuide, PlainGuide])
def test_an_own_guide_comes_back_by_its_class(dm, tmp_path, guide):
    svi = trained(dm, small(dm), guide)
    folder = svi.save(tmp_path / "model")
    mend = {"ShiftedGuide": r"classes=\[ShiftedGuide\]", "PlainGuide": "guide=PlainGuide"}[guide.__name__]
    with pytest.raises(ValueError, match=rf"{guide.__name__}.*load\(path, {mend}\)"):
        po.load(folder)
    found = po.load(folder, guide=guide)
    assert type(found.guide) is guide
    assert same(svi, found, dm)


def test_an_own_guides_arguments_come_back_with_its_class(dm, tmp_path):
    # As an own model's do.
    svi = factors(dm, partial(ShiftedGuide, rest=AutoMultivariateNormal))
    found = po.load(svi.save(tmp_path / "model"), model=PoissonFactors, guide=ShiftedGuide)
    assert same(svi, found, dm)


def test_a_callable_makes_the_guide_as_it_says(dm, tmp_path):
    guide = partial(ShiftedGuide, rest=AutoMultivariateNormal)
    svi = factors(dm, guide)
    assert same(svi, po.load(svi.save(tmp_path / "model"), model=PoissonFactors, guide=guide), dm)


def test_a_guide_of_a_function_asks_for_the_guide(dm, tmp_path):
    def rest(program):
        return AutoNormal(program, init_scale=0.2)

    guide = partial(po.guides.Amortized, rest=rest)
    svi = factors(dm, guide)
    folder = svi.save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"load\(path, guide="):
        po.load(folder, model=PoissonFactors)
    assert same(svi, po.load(folder, model=PoissonFactors, guide=guide), dm)


# What a folder may not do ---------------------------------------------------------------------------------------------


def test_the_folder_holds_no_pickle(fitted_scvi, tmp_path):
    folder = fitted_scvi.svi.save(tmp_path / "model")
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "rows.safetensors", "weights.safetensors"]
    assert json.loads((folder / "config.json").read_text())["pyro_omics"] == po.__version__


# Also names that modules of the package merely import, and classes that are no part of a pair.
@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "subprocess.Popen",
        "pyro_omics_evil.Model",
        "builtins.eval",
        "torch.nn.modulesx.Linear",
        "torch.hub.load",
        "pyro_omics.nowhere.Model",
        "pyro_omics.NoSuchModel",
        "pyro_omics.inference.loading.load",
        "pyro_omics.inference.loading.Path",
        "pyro_omics.cli.LightningCLI",
        "pyro_omics.cli.OmicsCLI",
        "pyro_omics.data.single_cell.module.CellDataModule",
        "pyro_omics.posterior.Posterior",
        "pyro_omics.priors.Encoder",
        "pyro_omics.models.base.Prior",
        "pyro_omics.SVIModule",
        "pyro_omics.report.Report",
        "pyro_omics.serialization.class_names.ModuleType",
        "pyro_omics.libraries.NegativeBinomial",
    ],
)
def test_other_classes_are_refused(path):
    with pytest.raises(ValueError, match=path.rpartition(".")[2]):
        arguments.resolve(path, {})


@pytest.mark.parametrize(
    ("path", "cls"),
    [
        ("pyro_omics.batch.Sizes", Sizes),
        ("pyro_omics.batch.DELSizes", DELSizes),
        ("pyro_omics.libraries.Latent", library_sizes.Latent),
        ("pyro_omics.likelihoods.Poisson", likelihoods.Poisson),
        ("pyro_omics.guides.mean_field.GammaMeanField", po.guides.GammaMeanField),
        ("pyro_omics.models.scvi.SCVI", po.SCVI),
        ("pyro_omics.models.hierarchical_del.HierarchicalDEL", po.HierarchicalDEL),
        ("pyro_omics.priors.LogisticNormal", priors.LogisticNormal),
        ("pyro_omics.priors.vamp.VampPrior", priors.VampPrior),
        ("pyro_omics.priors.weights.Horseshoe", priors.Horseshoe),
        ("pyro_omics.proteins.CellBackground", po.proteins.CellBackground),
    ],
)
def test_paths_of_modules_that_earlier_versions_wrote_are_read(path, cls):
    assert arguments.resolve(path, {}) is cls


def test_a_folder_of_an_earlier_version_is_read(dm, tmp_path):
    svi = fitted(dm, epochs=1, prior=priors.VampPrior(4), library=library_sizes.Latent())
    saved = svi.save(tmp_path / "model")
    text = (saved / "config.json").read_text()
    for now, before in (
        ("pyro_omics.SCVI", "pyro_omics.models.scvi.SCVI"),
        ("pyro_omics.priors.VampPrior", "pyro_omics.priors.vamp.VampPrior"),
        ("pyro_omics.library_sizes.Latent", "pyro_omics.libraries.Latent"),
        ("pyro_omics.sizes.Sizes", "pyro_omics.batch.Sizes"),
        ('"partial": "pyro_omics.guides.Amortized"', '"class": "pyro_omics.guides.amortized.Amortized"'),
    ):
        assert now in text
        text = text.replace(now, before)
    (saved / "config.json").write_text(text)
    assert same(svi, po.load(saved), dm)


@pytest.mark.parametrize("part", ["model", "guide"])
def test_a_config_cannot_import_a_module(dm, tmp_path, monkeypatch, part):
    folder = po.SVIModule(small(dm)).save(tmp_path / "model")
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    edited(folder, lambda config: config.update({part: {"class": "evil_module.Evil", "arguments": {}}}))
    with pytest.raises(ValueError, match=r"evil_module\.Evil"):
        po.load(folder)


def test_a_config_cannot_reach_a_module_through_the_command_line(dm, tmp_path, monkeypatch):
    folder = po.SVIModule(small(dm)).save(tmp_path / "model")
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'was_here')!r}, 'w').close()\nclass Evil: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    arguments = {
        "model_class": {"type": "pyro_omics.inference.svi_module.SVIModule"},
        "subclass_mode_data": True,
        "args": ["fit", "--trainer.callbacks=evil_module.Evil"],
    }
    edited(folder, lambda c: c.update(model={"class": "pyro_omics.cli.OmicsCLI", "arguments": arguments}))
    monkeypatch.setattr("sys.argv", ["python"])
    with pytest.raises(ValueError, match=r"pyro_omics\.cli\.OmicsCLI"):
        po.load(folder)
    assert not (tmp_path / "was_here").exists()


@pytest.mark.parametrize("missing", ["weights.safetensors", "config.json"])
def test_a_folder_without_a_file_is_refused(dm, tmp_path, missing):
    folder = po.SVIModule(small(dm)).save(tmp_path / "model")
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        po.load(folder)


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        po.load(tmp_path / "nowhere")


def test_weights_of_another_model_are_refused(dm, tmp_path):
    one = po.SVIModule(small(dm)).save(tmp_path / "one")
    other = po.SVIModule(small(dm, n_hidden=8)).save(tmp_path / "other")
    os.replace(other / "weights.safetensors", one / "weights.safetensors")
    with pytest.raises(ValueError, match=r"do not fit this model and guide: there is .* of shape .* and \d+ more"):
        po.load(one)


# Writing --------------------------------------------------------------------------------------------------------------


def test_saving_over_a_saved_model_replaces_it_whole(dm, tmp_path):
    old = po.SVIModule(small(dm)).save(tmp_path / "model")
    (old / "stray").touch()
    svi = fitted(dm, epochs=1, n_latent=4)
    assert same(svi, po.load(svi.save(tmp_path / "model")), dm)
    assert sorted(p.name for p in tmp_path.rglob("*")) == [
        "config.json",
        "model",
        "rows.safetensors",
        "weights.safetensors",
    ]


def test_parents_are_made(dm, tmp_path):
    folder = po.SVIModule(small(dm)).save(str(tmp_path / "a" / "b"))
    assert folder == tmp_path / "a" / "b" and (folder / "config.json").is_file()


@pytest.mark.parametrize("foreign", ["folder", "empty", "file"])
def test_what_is_no_saved_model_is_left_alone(dm, tmp_path, foreign):
    path = tmp_path / "thesis"
    if foreign == "file":
        path.write_text("years of work")
    else:
        path.mkdir()
    if foreign == "folder":
        (path / "chapter1").write_text("years of work")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FileExistsError, match="thesis"):
        po.SVIModule(small(dm)).save(path)
    assert sorted(tmp_path.rglob("*")) == before


def fail(*args, **kwargs):
    raise OSError("no space left on device")


def fail_to_serialize(*args, **kwargs):
    raise SafetensorError("no space left on device")


def fail_to_replace(monkeypatch):
    rename, failures = Path.rename, []

    def once(path, target):
        if target.name == "model" and not failures:
            failures.append(target)
            fail()
        return rename(path, target)

    monkeypatch.setattr("pyro_omics.serialization.atomic_write._exchange", lambda one, other: False)
    monkeypatch.setattr(Path, "rename", once)


@pytest.mark.parametrize(
    "interrupt",
    [
        lambda monkeypatch: monkeypatch.setattr("pyro_omics.serialization.folder.save_file", fail),
        lambda monkeypatch: monkeypatch.setattr("pyro_omics.serialization.folder.save_file", fail_to_serialize),
        lambda monkeypatch: monkeypatch.setattr("pyro_omics.serialization.folder.json.dumps", fail),
        fail_to_replace,
    ],
    ids=["weights", "full disk", "config", "rename"],
)
def test_an_interrupted_save_leaves_the_old_model(fitted_scvi, tmp_path, monkeypatch, interrupt):
    old, dm = fitted_scvi
    old.save(tmp_path / "model")
    with monkeypatch.context() as patched:
        interrupt(patched)
        with pytest.raises(OSError, match="no space"):
            po.SVIModule(small(dm)).save(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert same(old, po.load(tmp_path / "model"), dm)


def test_an_interrupted_first_save_leaves_nothing(dm, tmp_path, monkeypatch):
    monkeypatch.setattr("pyro_omics.serialization.folder.save_file", fail)
    with pytest.raises(OSError, match="no space"):
        po.SVIModule(small(dm)).save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


# Descriptions of parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [None, True, 3, 0.5, "text", [1, [2.0, None]], {"a": 1, "b": [2]}, {"class": "os.system", "arguments": {}}, {}],
)
def test_plain_values_come_back(value):
    assert arguments.decode(json.loads(json.dumps(arguments.encode(value)))) == value


def test_types_and_partials_come_back():
    assert arguments.decode(arguments.encode(layers.LayerNorm)) is layers.LayerNorm
    made = arguments.decode(arguments.encode(partial(po.guides.Amortized, rest=AutoMultivariateNormal)))
    assert made.func is po.guides.Amortized and made.keywords == {"rest": AutoMultivariateNormal}
    nested = partial(po.guides.Amortized, rest=partial(AutoNormal, init_scale=0.3))
    made = arguments.decode(json.loads(json.dumps(arguments.encode(nested))))
    assert made.keywords["rest"].func is AutoNormal and made.keywords["rest"].keywords == {"init_scale": 0.3}


def named(guide: Callable[[po.models.CountModel], PyroModule]):
    """Takes a guide as `SVIModule` does."""


def test_partials_of_jsonargparse_come_back(dm):
    parser = ArgumentParser()
    parser.add_function_arguments(named, fail_untyped=False)
    config = parser.parse_args(
        ["--guide=pyro_omics.guides.Amortized", "--guide.rest=pyro.infer.autoguide.AutoMultivariateNormal"]
    )
    guide = parser.instantiate(config).guide
    made = arguments.decode(json.loads(json.dumps(arguments.encode(guide))))
    model = PoissonFactors.from_data(dm)
    for make in (guide, made):
        found = make(model)
        assert isinstance(found, po.guides.Amortized)
        assert isinstance(found.rest, AutoMultivariateNormal)


def test_what_cannot_be_written_down_is_named_when_read():
    data = arguments.encode({"weights": torch.zeros(2), "make": lambda: 0})
    with pytest.raises(ValueError, match="Tensor"):
        arguments.decode(data)


def test_a_recipe_holds_positional_and_keyword_arguments():
    layer = layers.FCLayers(4, 8, dropout=0.5)
    assert layer.constructor_arguments == {"n_in": 4, "n_hidden": 8, "dropout": 0.5}


# Lightning's checkpoints ----------------------------------------------------------------------------------------------


def checkpointed(dm, path, epochs=2, **options):
    torch.manual_seed(0)
    svi = po.SVIModule(small(dm, **options))
    trainer = quiet_trainer(epochs)
    trainer.fit(svi, dm)
    trainer.save_checkpoint(path)
    return svi, trainer


def test_a_checkpoint_loads_without_pickle(dm, tmp_path):
    svi, _ = checkpointed(dm, tmp_path / "a.ckpt")
    loaded = torch.load(tmp_path / "a.ckpt", weights_only=True)
    about = loaded["pyro_omics"]
    assert (Schema.from_dict(about["schema"]), about["n_obs"]) == (dm.schema, dm.n_obs)
    assert Sizes(**about["sizes"]) == dm.sizes
    assert set(loaded["state_dict"]) == set(svi.state_dict())
    assert not [name for name in loaded["state_dict"] if not name.startswith("elbo.")]


def test_load_from_checkpoint_is_strict(dm, tmp_path):
    svi, _ = checkpointed(dm, tmp_path / "a.ckpt", likelihood=likelihoods.NegativeBinomial())
    model = small(dm, likelihood=likelihoods.NegativeBinomial())
    found = po.SVIModule.load_from_checkpoint(tmp_path / "a.ckpt", model=model, weights_only=True)
    assert same(svi, found, dm) and found.schema == dm.schema
    with pytest.raises(ValueError, match=r"likelihood=NegativeBinomial.*; got likelihood=ZeroInflatedNegativeBinomial"):
        po.SVIModule.load_from_checkpoint(tmp_path / "a.ckpt", model=small(dm), weights_only=True)


def test_a_resumed_run_counts_as_the_uninterrupted_one(dm, tmp_path):
    whole, trainer = checkpointed(dm, tmp_path / "whole.ckpt", epochs=4)
    _, half = checkpointed(dm, tmp_path / "half.ckpt", epochs=2)
    resumed = po.SVIModule(small(dm))
    again = quiet_trainer(4)
    again.fit(resumed, dm, ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert (again.current_epoch, again.global_step) == (trainer.current_epoch, trainer.global_step)
    assert half.global_step * 2 == again.global_step
    assert resumed.schema == dm.schema
    assert {name for name, _ in resumed.named_parameters()} == {name for name, _ in whole.named_parameters()}


def test_other_genes_than_a_checkpoint_s_are_refused(dm, tmp_path):
    checkpointed(dm, tmp_path / "a.ckpt")
    adata = dm.adata.copy()
    adata.var_names = [f"other{i}" for i in range(G)]
    other = po.CellDataModule(adata, batch_key="donor")
    svi = po.SVIModule(small(other))
    for ask in (pl.Trainer.validate, pl.Trainer.fit):
        with pytest.raises(ValueError, match="other genes"):
            ask(quiet_trainer(3), svi, datamodule=other, ckpt_path=tmp_path / "a.ckpt", weights_only=True)


def test_reordered_genes_are_refused_by_a_checkpoint_and_adopted_on_request(dm, tmp_path):
    svi, _ = checkpointed(dm, tmp_path / "a.ckpt")
    backwards = po.CellDataModule(dm.adata[:, ::-1].copy(), batch_key="donor")
    other = po.SVIModule(small(backwards))
    with pytest.raises(ValueError, match=r"adopt\(svi.schema, svi.n_obs\)"):
        quiet_trainer().predict(other, backwards, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    backwards.adopt(dm.schema, dm.n_obs)
    parts = quiet_trainer().predict(other, backwards, ckpt_path=tmp_path / "a.ckpt", weights_only=True)
    np.testing.assert_allclose(
        torch.cat([part["latent"] for part in parts]), po.Posterior(svi, dm).latent(), rtol=1e-5, atol=1e-6
    )


def test_other_levels_than_a_checkpoint_s_are_refused(dm, tmp_path):
    checkpointed(dm, tmp_path / "a.ckpt")
    adata = dm.adata.copy()
    adata.obs["donor"] = donors(N, "d8", "d9")
    other = po.CellDataModule(adata, batch_key="donor")
    with pytest.raises(ValueError, match="other batches"):
        quiet_trainer().validate(po.SVIModule(small(other)), other, ckpt_path=tmp_path / "a.ckpt", weights_only=True)


def test_dispersions_of_an_earlier_version_are_read(dm, tmp_path):
    """PerGeneBatch and PerGeneLabel are PerGene(by=...) now."""
    likelihood = po.likelihoods.NegativeBinomial(dispersion=po.dispersions.PerGene(by="batch"))
    svi = po.SVIModule(small(dm, likelihood=likelihood))
    folder = svi.save(tmp_path / "model")
    text = (folder / "config.json").read_text()
    config = json.loads(text)
    made = config["model"]["arguments"]["likelihood"]["arguments"]["dispersion"]
    assert made == {"class": "pyro_omics.dispersions.PerGene", "arguments": {"by": "batch"}}
    made.update({"class": "pyro_omics.dispersions.PerGeneBatch", "arguments": {}})
    (folder / "config.json").write_text(json.dumps(config))
    loaded = po.load(folder)
    assert loaded.model.likelihood.dispersion.by == "batch"
    torch.testing.assert_close(loaded.model.likelihood.dispersion.log_theta, svi.model.likelihood.dispersion.log_theta)
