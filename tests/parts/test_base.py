"""What is refused where a part is expected."""

import pytest
from helpers import counts

import pyro_omics as po


@pytest.fixture(scope="module")
def dm():
    return po.CellDataModule(counts(), batch_size=16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"library": "latent"},
            r"library must be a Library object; got the text 'latent': pass library_sizes.Latent\(\)",
        ),
        ({"library": "size-factor"}, r"pass library_sizes.SizeFactor\(\)$"),
        ({"likelihood": "nb"}, r"pass likelihoods.NegativeBinomial\(\)$"),
        ({"likelihood": "ZINB"}, r"pass likelihoods.ZeroInflatedNegativeBinomial\(\)$"),
        ({"prior": "vamp"}, r"pass an object, such as priors.VampPrior\(\)$"),
        ({"prior": "quite another"}, r"pass an object, such as priors"),
        ({"decoder": "mlp"}, r"decoder must be a Module object; got the text 'mlp': pass an object$"),
        ({"norm": "layer"}, r"norm must be a class, layers.BatchNorm or layers.LayerNorm, or None; got 'layer'"),
    ],
)
def test_a_text_in_place_of_a_part(options, message, dm):
    with pytest.raises(TypeError, match=message):
        po.SCVI.from_data(dm, **options)


@pytest.mark.parametrize("model", [po.SCVI, po.TotalVI, po.SCANVI, po.HierarchicalDEL, po.DELCount])
def test_data_in_place_of_sizes(model, dm):
    for value in (dm, dm.adata, "cells.h5ad"):
        with pytest.raises(TypeError, match=rf"{model.__name__} is made of a DataModule, {model.__name__}.from_data"):
            model(value)
