"""The contract, for every class there is: a new model, guide, prior, likelihood or other part is found here."""

import inspect
from functools import partial
from typing import get_type_hints

import anndata as ad
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from own_model import PoissonFactors
from pyro.infer import TraceMeanField_ELBO
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
from wrong_programs import RIGHT, WRONG, GeneEffects, Programs, TableByPosition

import pyro_omics as po


def named(base, room):
    """The classes of a kind that a folder names in its ``__all__``, without the kind itself."""
    found = [getattr(room, name) for name in room.__all__]
    return [cls for cls in found if isinstance(cls, type) and issubclass(cls, base) and cls is not base]


def subclasses(base, module):
    """Public concrete classes of a module, whoever wrote them."""
    return [
        cls
        for name, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, base) and cls is not base and cls.__module__ == module.__name__ and not name.startswith("_")
    ]


PRIORS = named(po.priors.Prior, po.priors)
LIKELIHOODS = named(po.likelihoods.Likelihood, po.likelihoods)
DISPERSIONS = [
    *subclasses(po.dispersions.Dispersion, po.dispersions),
    *(partial(po.dispersions.PerGene, by=by) for by in ("batch", "label")),
]
EFFICIENCIES = [po.proteins.Efficiency, *subclasses(po.proteins.Efficiency, po.proteins)]
LIBRARIES = subclasses(po.library_sizes.Library, po.library_sizes)
GUIDES = [getattr(po.guides, name) for name in po.guides.__all__]
MODELS = named(po.models.CountModel, po.models)
AUTOGUIDES = [
    AutoNormal,
    AutoDelta,
    AutoDiagonalNormal,
    AutoMultivariateNormal,
    partial(AutoLowRankMultivariateNormal, rank=2),
    partial(AutoIAFNormal, hidden_dim=[32]),
    AutoLaplaceApproximation,
    AutoStructured,
]


@pytest.fixture(scope="module")
def dm():
    rng = np.random.default_rng(0)
    n, g = 61, 7
    obs = pd.DataFrame(
        {
            "donor": rng.choice(["a", "b"], n),
            "type": rng.choice(["x", "y", "Unknown"], n),
            "lane": rng.choice(["1", "2"], n),
            "age": rng.normal(size=n),
            "size": rng.uniform(5, 20, n),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    adata = ad.AnnData(rng.poisson(2.0, (n, g)).astype(np.float32), obs=obs)
    adata.X[3] = 0  # a cell without counts
    y = pd.DataFrame(rng.poisson(6.0, (n, 4)).astype(float), index=obs.index, columns=["P1", "P2", "P3", "P4"])
    y.iloc[5] = np.nan  # a cell without proteins
    y.loc[obs["donor"] == "b", "P2"] = np.nan  # a batch without one of them
    y.iloc[7] = 0
    adata.obsm["protein"] = y
    return po.CellDataModule(
        adata,
        batch_key="donor",
        label_key="type",
        categorical_keys=["lane"],
        continuous_keys=["age"],
        size_factor_key="size",
        protein_obsm_key="protein",
        batch_size=16,
    )


@pytest.fixture(scope="module")
def library():
    """A small DNA-encoded library with every kind of sample, features and poses."""
    adata, _ = po.simulate.del_library(cycles=(5, 4, 3), n_pre=1, seed=1)
    rng = np.random.default_rng(0)
    adata.obsm["fingerprint"] = rng.integers(0, 2, (60, 8)).astype(np.uint8)
    adata.obsm["poses"] = rng.normal(size=(60, 3, 5)).astype(np.float32)
    return po.DELDataModule(adata, feature_key="fingerprint", pose_key="poses", batch_size=16, validation_size=0.1)


def hierarchical_del(library, **options):
    return po.HierarchicalDEL.from_data(library, **options)


def del_count(library, **options):
    return po.DELCount.from_data(library, n_hidden=8, **options)


DEL_BUILDERS = [hierarchical_del, del_count]


def scvi(dm, **options):
    return po.SCVI.from_data(dm, n_latent=3, n_hidden=8, **options)


def totalvi(dm, **options):
    return po.TotalVI.from_data(dm, n_latent=3, n_hidden=8, **options)


BUILDERS = [scvi, totalvi]


def names(values):
    return [getattr(value, "__name__", None) or value.func.__name__ for value in values]


def test_registries_are_not_empty():
    assert all([PRIORS, LIKELIHOODS, DISPERSIONS, LIBRARIES, EFFICIENCIES, GUIDES, MODELS])


def data_of(model, dm, library):
    """The data that a model is for, by the sizes that it asks for."""
    return library if get_type_hints(model.__init__).get("sizes") is po.sizes.DELSizes else dm


@pytest.mark.parametrize("model", MODELS, ids=names(MODELS))
def test_models(model, dm, library):
    data = data_of(model, dm, library)
    po.testing.check_model(model.from_data(data), data)


@pytest.mark.parametrize("bound", [po.elbos.RenyiELBO(0.5), po.elbos.ImportanceWeightedELBO()], ids=lambda b: b.alpha)
@pytest.mark.parametrize("model", MODELS, ids=names(MODELS))
def test_bounds_by_row(model, bound, dm, library):
    data = data_of(model, dm, library)
    po.testing.check_model(model.from_data(data), data, elbo=bound)


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("prior", PRIORS, ids=names(PRIORS))
def test_priors(prior, build, dm):
    model = build(dm, prior=prior())
    po.testing.check_model(model, dm)
    z = model.prior().sample((4,))
    assert model.prior.transform(z).shape == z.shape == (4, 3)
    with pytest.raises(ValueError, match="n_latent=2"):
        build(dm, prior=prior(n_latent=2))


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=names(LIKELIHOODS))
def test_likelihoods(likelihood, build, dm):
    model = build(dm, likelihood=likelihood())
    po.testing.check_model(model, dm)
    with pytest.raises(ValueError, match="belongs to a model already"):
        build(dm, likelihood=model.likelihood)


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=names(LIKELIHOODS))
def test_probabilities_of_likelihoods(likelihood):
    """They sum to one, and have the mean that the distribution says."""
    g, largest = 3, 4000
    made = likelihood()
    made.build(po.sizes.Sizes(n_obs=4, n_genes=g))
    mean_ng = torch.tensor([[0.01, 0.5, 2.0], [4.0, 1.5, 8.0]])
    heads = {name: torch.randn(2, g).clamp(-1, 1) for name in made.heads}
    batch = po.sizes.Sizes(n_obs=4, n_genes=g).example_batch()
    with torch.no_grad():
        fn = made(mean_ng, heads, batch)
        entries = getattr(fn, "base_dist", fn)
        x = torch.arange(largest + 1.0).reshape(-1, 1, 1)
        p = entries.log_prob(x.expand(-1, 2, g)).double().exp()
    assert fn.batch_shape == (2,) and fn.event_shape == (g,)
    torch.testing.assert_close(p.sum(0), torch.ones(2, g).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close((x * p).sum(0), entries.mean.double(), rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(fn.log_prob(x[2].expand(2, g)), p[2].log().sum(-1).float(), rtol=1e-4, atol=1e-4)
    assert made.denoised(mean_ng, heads, batch).shape == mean_ng.shape


@pytest.mark.parametrize("dispersion", DISPERSIONS, ids=names(DISPERSIONS))
@pytest.mark.parametrize("likelihood", [po.likelihoods.NegativeBinomial, po.likelihoods.ZeroInflatedNegativeBinomial])
def test_dispersions(likelihood, dispersion, dm):
    po.testing.check_model(scvi(dm, likelihood=likelihood(dispersion=dispersion())), dm)


@pytest.mark.parametrize("dispersion", DISPERSIONS, ids=names(DISPERSIONS))
def test_dispersions_of_proteins(dispersion, dm):
    likelihood = po.likelihoods.NegativeBinomialMixture(dispersion=dispersion())
    po.testing.check_model(totalvi(dm, protein_likelihood=likelihood), dm)


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("library", LIBRARIES, ids=names(LIBRARIES))
def test_libraries(library, build, dm):
    po.testing.check_model(build(dm, library=library()), dm)


@pytest.mark.parametrize("efficiency", EFFICIENCIES, ids=names(EFFICIENCIES))
def test_efficiencies(efficiency, dm):
    po.testing.check_model(totalvi(dm, efficiency=efficiency()), dm)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("learned", [False, True])
def test_backgrounds(learned, shared, dm):
    po.testing.check_model(totalvi(dm, background=po.proteins.Background(learned=learned, shared=shared)), dm)


@pytest.mark.parametrize("guide", GUIDES, ids=names(GUIDES))
@pytest.mark.parametrize("build", [*BUILDERS, lambda dm, **_: PoissonFactors(dm.n_obs, dm.n_genes)])
def test_guides(guide, build, dm):
    model = build(dm, library=po.library_sizes.Latent())
    if guide is po.guides.Conditional:
        with pytest.raises(TypeError, match="has no method conditional"):
            po.SVIModule(model, guide=guide)
    else:
        po.testing.check_model(model, dm, guide=guide)


@pytest.mark.parametrize("guide", [*GUIDES, lambda model: AutoNormal(model, create_plates=model.plate)],
                         ids=[*names(GUIDES), "AutoNormal"])  # fmt: skip
def test_guides_of_libraries(guide, library):
    po.testing.check_model(hierarchical_del(library), library, guide=guide)


@pytest.mark.parametrize("rest", AUTOGUIDES, ids=names(AUTOGUIDES))
def test_autoguides_on_a_librarys_globals(rest, library):
    if isinstance(rest, partial) and rest.func is AutoIAFNormal:
        rest = partial(AutoIAFNormal, hidden_dim=[128])  # no fewer than there are latents
    po.testing.check_model(hierarchical_del(library), library, guide=partial(po.guides.Conditional, rest=rest))


@pytest.mark.parametrize("build", DEL_BUILDERS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=names(LIKELIHOODS))
def test_likelihoods_of_libraries(likelihood, build, library):
    po.testing.check_model(build(library, likelihood=likelihood()), library)


@pytest.mark.parametrize("build", DEL_BUILDERS)
@pytest.mark.parametrize(
    "likelihood", [po.likelihoods.ZeroInflatedPoisson, po.likelihoods.ZeroInflatedNegativeBinomial]
)
def test_fixed_gates(likelihood, build, library):
    model = build(library, likelihood=likelihood(gate=0.1))
    assert not list(model.target.heads)
    po.testing.check_model(model, library)


@pytest.mark.parametrize("dispersion", DISPERSIONS, ids=names(DISPERSIONS))
def test_dispersions_of_libraries(dispersion, library):
    likelihood = po.likelihoods.NegativeBinomial(dispersion=dispersion())
    po.testing.check_model(hierarchical_del(library, likelihood=likelihood), library)


@pytest.mark.parametrize("options", [{"order": 1}, {"order": 0}, {"own": po.effects.SparseGamma(0.1, 2.0, ())}],
                         ids=["no disynthons", "no truncates", "fixed prior"])  # fmt: skip
def test_levels_of_libraries(options, library):
    po.testing.check_model(hierarchical_del(library, **options), library)


@pytest.mark.parametrize("options", [{"latent_depth": True}, {"norm": po.layers.BatchNorm}, {"norm": None}],
                         ids=["latent depth", "batch norm", "no norm"])  # fmt: skip
def test_networks_of_libraries(options, library):
    po.testing.check_model(del_count(library, **options), library)


@pytest.mark.parametrize("arms", [{"n_control": 0}, {"n_control": 0, "n_pre": 1}, {"n_target": 2, "n_control": 1}],
                         ids=["target alone", "target and pre-selection", "target and control"])  # fmt: skip
@pytest.mark.parametrize("cycles", [(4, 5), (3, 4, 3), (3, 2, 3, 2)], ids=["two", "three", "four"])
@pytest.mark.parametrize("build", DEL_BUILDERS)
def test_arms_and_cycles(build, cycles, arms):
    adata, _ = po.simulate.del_library(cycles=cycles, seed=2, **arms)
    data = po.DELDataModule(adata)
    po.testing.check_model(build(data), data)


@pytest.mark.parametrize("build", [totalvi, lambda dm: PoissonFactors(dm.n_obs, dm.n_genes)])
@pytest.mark.parametrize("rest", AUTOGUIDES, ids=names(AUTOGUIDES))
def test_autoguides_on_the_rest(rest, build, dm):
    po.testing.check_model(build(dm), dm, guide=partial(po.guides.Amortized, rest=rest))


@pytest.mark.parametrize(
    "options",
    [
        {"norm": None},
        {"norm": po.layers.LayerNorm},
        {"n_layers": 2, "dropout": 0.0},
        {"encode_covariates": True},
        {"encoder": po.layers.Encoder(7, 3, n_hidden=5)},
    ],
    ids=["no norm", "layer norm", "two layers", "encoded covariates", "own encoder"],
)
def test_networks(options, dm):
    po.testing.check_model(scvi(dm, **options), dm)


@pytest.mark.parametrize(
    "options",
    [
        {"norm": None},
        {"norm": po.layers.LayerNorm},
        {"n_layers": 1, "dropout": 0.0},
        {"encode_covariates": True},
        {"adversary": 0.0},
        {"encoder": po.layers.Encoder(11, 3, n_hidden=5)},
        {"protein_decoder": po.layers.Decoder(3, {"foreground": 4, "background_logits": 4}, n_cov=5)},
    ],
    ids=["no norm", "layer norm", "one layer", "encoded covariates", "no adversary", "own encoder", "own decoder"],
)
def test_networks_with_proteins(options, dm):
    po.testing.check_model(totalvi(dm, **options), dm)


@pytest.mark.parametrize("build", BUILDERS)
def test_mean_field_elbo(build, dm):
    po.testing.check_model(build(dm), dm, elbo=TraceMeanField_ELBO())


# The check finds what it says that it finds -------------------------------------------------------------------------


def test_finds_a_global_inside_the_plate(dm):
    class Wrong(PoissonFactors):
        def forward(self, batch):
            with self.plate(batch):
                z = pyro.sample("z", self.prior())
                scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
                pyro.sample("x", dist.Poisson(scale[..., None] * z.exp().sum(-1, True).expand(-1, 7)).to_event(1),
                            obs=batch.x)  # fmt: skip

    with pytest.raises((AssertionError, ValueError, RuntimeError)):
        po.testing.check_model(Wrong(dm.n_obs, dm.n_genes), dm)


@pytest.mark.parametrize(("model", "guide", "message"), WRONG, ids=[(g or m).__name__ for m, g, _ in WRONG])
def test_finds_what_is_wrong(model, guide, message, dm):
    with pytest.raises(AssertionError, match=message):
        po.testing.check_model(model.from_data(dm), dm, guide=guide)


@pytest.mark.parametrize(("model", "guide"), RIGHT, ids=[(g or m).__name__ for m, g in RIGHT])
def test_lets_pass_what_looks_wrong(model, guide, dm):
    po.testing.check_model(model.from_data(dm), dm, guide=guide)


@pytest.fixture(scope="module")
def square():
    """As many genes as cells."""
    adata = ad.AnnData(np.random.default_rng(0).poisson(2.0, (40, 40)).astype(np.float32))
    return po.CellDataModule(adata, validation_size=0.0, batch_size=16)


def test_as_many_genes_as_rows(square):
    """Globals of that length are no tables of the rows."""
    assert square.n_obs == square.n_genes
    po.testing.check_model(po.bayesianize(scvi(square), "decoder"), square)
    po.testing.check_model(GeneEffects.from_data(square), square)
    po.testing.check_model(GeneEffects.from_data(square), square, guide=po.guides.PerObservation)
    with pytest.raises(AssertionError, match="'z' in the guide depends on its place"):
        po.testing.check_model(Programs.from_data(square), square, guide=TableByPosition)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_rows(n):
    adata = ad.AnnData(np.random.default_rng(0).poisson(2.0, (n, 4)).astype(np.float32))
    few = po.CellDataModule(adata, validation_size=0.0, batch_size=2)
    po.testing.check_model(scvi(few), few)


def test_finds_a_plate_of_the_wrong_size(dm):
    class Wrong(PoissonFactors):
        def plate(self, batch):
            return pyro.plate("obs", len(batch.index))

    with pytest.raises(ValueError, match="must be in a plate called 'obs' of size n_obs"):
        po.testing.check_model(Wrong(dm.n_obs, dm.n_genes), dm)


def test_changes_nothing(dm):
    model = scvi(dm)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    po.testing.check_model(model, dm)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert set(model.state_dict()) == set(before)


def test_a_refined_guide_keeps_it_with_types_summed_out():
    """What is refined is the ELBO with the discrete latent summed out, and not that of a draw of it."""
    adata, _ = po.simulate.cells(n_obs=60, n_genes=6, seed=0)
    adata.obs["type"] = np.random.default_rng(0).choice(["B", "T", "Unknown"], 60)
    dm = po.CellDataModule(adata, label_key="type", validation_size=0.1)
    po.testing.check_model(po.SCANVI.from_data(dm, n_latent=2, n_hidden=4), dm, guide=po.guides.SemiAmortized)
