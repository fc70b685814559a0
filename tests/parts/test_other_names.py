"""Names that users of scvi-tools type get a hint, wherever they type them."""

import inspect

import pytest
from helpers import counts, small

import pyro_omics as po
from pyro_omics.parts.other_names import ARGUMENTS, ATTRIBUTES


@pytest.fixture(scope="module")
def dm():
    return po.CellDataModule(counts(), batch_size=16)


@pytest.fixture
def post(fitted_scvi):
    return po.Posterior(*fitted_scvi)


@pytest.mark.parametrize("maker", [po.SCVI, po.TotalVI, po.SCANVI])
def test_arguments_of_models(maker, dm):
    for call in (maker.from_data, lambda dm, **options: maker(dm.sizes, **options)):
        with pytest.raises(TypeError, match=r"'gene_likelihood'; for gene_likelihood= use likelihood=lik"):
            call(dm, gene_likelihood="nb")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda dm: po.CellDataModule(dm.adata, labels_key="group"),
            r"labels_key= use CellDataModule\(adata, label_key",
        ),
        (lambda dm: po.CellDataModule(dm.adata, train_size=0.9), r"train_size= use .*validation_size=.*held out"),
        (lambda dm: po.SVIModule(small(dm), max_epochs=3), r"max_epochs= use pl.Trainer\(max_epochs=\.\.\.\)"),
        (lambda dm: po.SVIModule(small(dm), plan_kwargs={}), r"plan_kwargs= use SVIModule\(model, optimizer"),
        (lambda dm: po.SVIModule(small(dm)).train(max_epochs=3), r"train\(\) sets the mode .*Trainer.*fit\(svi, dm\)"),
        (lambda dm: po.SVIModule(small(dm)).train(400), r"train\(\) sets the mode"),
        (lambda dm: small(dm).train(max_epochs=3), r"train\(\) sets the mode"),
    ],
)
def test_arguments_of_data_and_training(call, message, dm):
    with pytest.raises(TypeError, match=message):
        call(dm)


@pytest.mark.parametrize("name", ["latent", "latent_sd", "elbo", "elbo_parts", "log_likelihood", "samples", "query",
                                  "normalized_expression", "correlations", "predictive"])  # fmt: skip
def test_arguments_of_queries(name, post):
    given = ("normalized_expression",) if name == "query" else ()
    with pytest.raises((TypeError, ValueError), match=r"n_samples.*; for n_samples= use num_samples=\.\.\."):
        getattr(post, name)(*given, n_samples=3)


@pytest.mark.parametrize(
    ("name", "mend"),
    [("setup_anndata", "CellDataModule"), ("load", "for load use load"), ("from_scvi_model", "SCANVI.from_data")],
)
def test_attributes_of_classes(name, mend):
    with pytest.raises(AttributeError, match=mend):
        getattr(po.SCVI, name)
    assert not hasattr(po.SCVI, name)
    with pytest.raises(AttributeError, match=r"has no attribute 'quite_another_name'$"):
        _ = po.SCVI.quite_another_name


def test_what_lacks_its_data(post):
    with pytest.raises(TypeError, match=r"Posterior\(svi, dm\) must be given an SVIModule and a DataModule"):
        po.Posterior(post.svi)
    with pytest.raises(TypeError, match="dm must be a DataModule with held-out rows; got None"):
        po.compare({"a": lambda: post.svi})
    with pytest.raises(TypeError, match=r"lambda: po\.SVIModule"):
        po.compare({"a": post.svi})


def test_attributes(post):
    for value in (post, post.svi, post.model):
        with pytest.raises(AttributeError, match=r"get_latent_representation'.* use Posterior\(svi, dm\).latent\(\)"):
            value.get_latent_representation()
        assert not hasattr(value, "get_normalized_expression")
        with pytest.raises(AttributeError) as error:
            _ = value.quite_another_name
        assert "; for" not in str(error.value)


def test_other_errors_and_signatures_are_left_alone(post, dm):
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'quite_another_name'$"):
        post.latent(quite_another_name=1)
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'quite_another_name'$"):
        po.CellDataModule(dm.adata, quite_another_name=1)
    assert list(inspect.signature(po.Posterior.latent).parameters) == ["self", "split", "num_samples", "seed"]
    assert "num_samples" in inspect.signature(post.normalized_expression).parameters

    class Own(po.models.CountModel):
        def __init__(self, n_obs, **options):
            super().__init__(n_obs)
            self.chosen = options

    assert Own(3, lr=0.1).chosen == {"lr": 0.1}
    assert small(dm).train(False).training is False


def test_the_table_names_what_is_there():
    assert not set(ARGUMENTS) & set(inspect.signature(po.SCVI.__init__).parameters)
    assert not [name for name in ATTRIBUTES if hasattr(po.Posterior, name) or hasattr(po.SVIModule, name)]
