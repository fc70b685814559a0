"""How often model and guide run before the first training step, and what is left of those runs."""

import copy
import pickle
from collections import Counter
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import pytorch_lightning as pl
import torch
from helpers import counts, donors, quiet_trainer
from own_model import CountFactors
from pyro.contrib.easyguide import EasyGuide, easy_guide
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoLaplaceApproximation, AutoMultivariateNormal

import pyro_omics as po
from pyro_omics.guides.base import LocalGuide


@pytest.fixture(scope="module")
def cells():
    return po.CellDataModule(
        counts(n=40, g=6, label=donors(40, "A", "B", "Unknown")), batch_size=20, label_key="label", validation_size=0.1
    )


@pytest.fixture(scope="module")
def proteins():
    adata, _ = po.simulate.citeseq(n_obs=40, n_genes=6, n_proteins=3)
    return po.CellDataModule(adata, batch_size=20, protein_obsm_key=next(iter(adata.obsm)))


@pytest.fixture(scope="module")
def library():
    return po.DELDataModule(po.simulate.del_library(cycles=(4, 3, 2), n_pre=1)[0], batch_size=12)


def scvi(dm, **options):
    return po.SCVI.from_data(dm, n_latent=2, n_hidden=4, **options)


def vamp(dm):
    return scvi(dm, prior=po.priors.VampPrior(3))


def latent_dispersion(dm):
    return po.bayesianize(scvi(dm), "likelihood")


def totalvi(dm):
    return po.TotalVI.from_data(dm, n_latent=2, n_hidden=4)


def scanvi(dm):
    return po.SCANVI.from_data(dm, n_latent=2, n_hidden=4)


def hierarchical(dm):
    return po.HierarchicalDEL.from_data(dm)


class Counted(pl.Callback):
    """The runs of model and guide before the first training step: of a model's or a guide's own ``forward``."""

    def __init__(self, monkeypatch, model):
        self.runs, self.before = Counter(), None
        guides = (LocalGuide, po.guides.Conditional, po.guides.GammaMeanField)
        for side, kinds in (("model", (type(model),)), ("guide", guides)):
            for kind in kinds:
                monkeypatch.setattr(kind, "forward", self._counted(side, kind.forward, model))

    def _counted(self, side, forward, model):
        def counted(program, *args):
            # A guide over the global latents is a part of the whole guide: its runs are not counted.
            whole = side == "model" or getattr(program, "_model", getattr(program, "_program", ()))[0] is model
            self.runs[side] += whole
            return forward(program, *args)

        return counted

    def on_train_batch_start(self, trainer, svi, batch, batch_idx):
        if self.before is None:
            self.before = (self.runs["model"], self.runs["guide"])


NO_MORE = 0
PROTOTYPE = 1  # the run that a guide over the global latents makes by itself: Pyro's autoguides, and GammaMeanField
CASES = [
    ("cells", scvi, None, None, NO_MORE),
    ("cells", vamp, None, None, NO_MORE),
    ("cells", scvi, po.guides.PerObservation, None, NO_MORE),
    ("cells", scvi, po.guides.AmortizedStudentT, None, NO_MORE),
    ("cells", scvi, None, Trace_ELBO(), NO_MORE),
    ("cells", scvi, None, po.elbos.RenyiELBO(0.5, 3), NO_MORE),
    ("cells", scanvi, None, None, NO_MORE),
    ("cells", scanvi, None, po.elbos.RenyiELBO(0.5, 3), NO_MORE),
    ("cells", latent_dispersion, None, None, PROTOTYPE),
    ("cells", latent_dispersion, None, TraceMeanField_ELBO(), PROTOTYPE),
    ("cells", latent_dispersion, partial(po.guides.Amortized, rest=AutoMultivariateNormal), None, PROTOTYPE),
    ("cells", latent_dispersion, partial(po.guides.Amortized, rest=AutoLaplaceApproximation), None, PROTOTYPE),
    # Outside of training it refines the rows: that many steps, and a look for discrete latents, at both of its runs.
    ("cells", scvi, partial(po.guides.SemiAmortized, n_steps=3), None, 2 * (3 + 1)),
    ("proteins", totalvi, None, None, PROTOTYPE),
    ("library", hierarchical, None, None, PROTOTYPE),
    ("library", hierarchical, po.guides.GammaMeanField, None, NO_MORE),
    ("library", po.DELCount.from_data, None, None, NO_MORE),
]


@pytest.mark.parametrize(("data", "make", "guide", "elbo", "own"), CASES)
def test_model_and_guide_run_once_on_the_example_and_once_on_the_data(
    data, make, guide, elbo, own, request, monkeypatch
):
    dm = request.getfixturevalue(data)
    model = make(dm)
    counted = Counted(monkeypatch, model)
    svi = po.SVIModule(model, guide=guide, elbo=elbo)
    looks = 2 if own > PROTOTYPE else 1
    assert (counted.runs["model"], counted.runs["guide"]) == (1 + own // looks, 1)
    quiet_trainer(1, callbacks=[counted], limit_train_batches=1, num_sanity_val_steps=0).fit(svi, dm)
    assert counted.before == (2 + own, 2)


def test_the_shared_trace_is_of_the_making_alone(cells):
    seen = []

    def guide(model):
        seen.extend([model.example_trace(), model.example_trace()])
        seen.extend([copy.deepcopy(model)._shared.trace, pickle.loads(pickle.dumps(model._shared)).trace])
        return po.guides.Amortized(model)

    svi = po.SVIModule(scvi(cells), guide)
    assert seen[0] is seen[1]
    assert seen[2:] == [None, None]
    again = svi.model.example_trace()
    assert again is not seen[0]
    assert set(again.nodes) == set(seen[0].nodes)


def test_a_guide_that_cannot_be_made_leaves_no_trace_behind(cells):
    model = scvi(cells)

    def broken(model):
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        po.SVIModule(model, broken)
    first = model.example_trace()
    assert model.example_trace() is not first


def test_nothing_moves_with_an_autoguide_whose_size_is_checked(cells):
    model = latent_dispersion(cells)
    model.require_encoder("z", 2)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    svi = po.SVIModule(model, partial(po.guides.Amortized, rest=AutoMultivariateNormal))
    assert torch.equal(state, torch.get_rng_state())
    after = svi.model.state_dict()
    assert any("running_mean" in name for name in after)
    assert all(torch.equal(after[name], value) for name, value in before.items())


# Guides and models of another pair ------------------------------------------------------------------------------------


@pytest.mark.parametrize("made", [po.guides.Amortized, po.guides.GammaMeanField, po.guides.PerObservation])
def test_a_guide_of_another_model_is_refused(cells, made):
    model, other = scvi(cells), scvi(cells)
    for guide in (made(other), lambda model: made(other)):
        with pytest.raises(ValueError, match=rf"made for another SCVI than the model: .*guide={made.__name__}"):
            po.SVIModule(model, guide=guide)
    assert po.SVIModule(model, guide=made(model)).guide is not None


def test_an_autoguide_of_another_model_is_refused(library):
    model, other = hierarchical(library), hierarchical(library)
    with pytest.raises(ValueError, match="made for another HierarchicalDEL than the model"):
        po.SVIModule(model, guide=AutoMultivariateNormal(other))


def test_a_trained_model_in_a_second_module_is_said(cells):
    model = scvi(cells)
    first = po.SVIModule(model)
    po.SVIModule(model)  # not trained yet
    quiet_trainer(1).fit(first, cells)
    with pytest.warns(UserWarning, match=r"SCVI was trained in another .*SCVI.from_data\(dm\).*copy.deepcopy\(model\)"):
        po.SVIModule(model, guide=po.guides.PerObservation)
    copied = po.SVIModule(copy.deepcopy(model))
    assert torch.equal(copied.model.decoder.heads["rho"].weight, model.decoder.heads["rho"].weight)
    po.SVIModule(first.model, guide=first.guide, elbo=TraceMeanField_ELBO())  # the pair is meant to go on


# Guides that are no classes of ours -----------------------------------------------------------------------------------


def rows_near_zero(batch):
    pyro.sample("z", dist.Normal(batch.x.new_zeros(len(batch.index), 2), 1.0).to_event(1))


class Easy(EasyGuide):
    """A network for the rows, and for a global latent a point or a Normal."""

    def __init__(self, model, site, kind):
        super().__init__(model)
        self.n_obs, self.site, self.kind = model.n_obs, site, kind
        self.network = torch.nn.Linear(6, 2)

    def guide(self, batch):
        if self.kind == "point":
            self.map_estimate(self.site)
        else:
            group = self.group(self.site.replace(".", "[.]"))
            group.sample("group", dist.Normal(torch.zeros(group.event_shape), 0.1).to_event(1))
        with self.plate("obs", self.n_obs, subsample=batch.index):
            pyro.sample("z", dist.Normal(self.network(batch.x.log1p()), 0.5).to_event(1))


@pytest.mark.parametrize("kind", ["point", "Normal"])
@pytest.mark.parametrize("site", ["W", "decoder.heads.rho.bias"])
def test_an_easy_guide_trains_and_comes_back(cells, site, kind, tmp_path):
    made = CountFactors.from_data(cells, n_latent=2) if site == "W" else po.bayesianize(scvi(cells), site)
    guide = partial(Easy, site=site, kind=kind)
    if kind == "point" and "." in site:
        with pytest.raises(ValueError, match=r"Easy makes a parameter with a dot in its name.*self\.group\(PATTERN\)"):
            po.SVIModule(made, guide=guide)
        return
    svi = po.SVIModule(made, guide=guide)
    before = svi.guide.network.weight.detach().clone()
    quiet_trainer(1).fit(svi, cells)
    assert not torch.equal(before, svi.guide.network.weight)
    found = po.load(svi.save(tmp_path / "saved"), guide=guide, classes=[CountFactors])
    assert torch.equal(found.guide.network.weight, svi.guide.network.weight)


def test_an_easy_guide_as_a_decorator(cells):
    model = scvi(cells)

    @easy_guide(model)
    def guide(self, batch):
        with self.plate("obs", model.n_obs, subsample=batch.index):
            rows_near_zero(batch)

    quiet_trainer(1).fit(po.SVIModule(model, guide=guide), cells)


def test_points_of_rows_in_an_easy_guide_are_refused(cells):
    class Points(EasyGuide):
        def guide(self, batch):
            with self.plate("obs", 36, subsample=batch.index):
                self.map_estimate("z")

    with pytest.raises(ValueError, match=r"Points makes a parameter inside the plate.*guides\.PerObservation"):
        po.SVIModule(scvi(cells), guide=Points)


def test_a_plain_function_is_no_guide(cells):
    def guide(batch):
        with pyro.plate("obs", 36, subsample=batch.index):
            rows_near_zero(batch)

    with pytest.raises(TypeError, match=r"got 'guide', which reads 'index' of.*PyroModule with forward\(batch\)"):
        po.SVIModule(scvi(cells), guide=guide)
    with pytest.raises(TypeError, match=r"it made <function .*PyroModule with forward\(batch\)"):
        po.SVIModule(scvi(cells), guide=lambda model: guide)


def test_an_error_of_a_function_that_makes_a_guide_is_its_own(cells):
    with pytest.raises(AttributeError, match="no_such_thing"):
        po.SVIModule(scvi(cells), guide=lambda model: model.no_such_thing)
