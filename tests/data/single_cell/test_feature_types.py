"""Genes and antibodies in one matrix, as scanpy.read_10x_h5(gex_only=False) gives them: told apart, never mixed."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import pyro_omics as po

pytestmark = pytest.mark.filterwarnings("ignore:Variable names are not unique")

N, GENES, PROTEINS = 40, ["CD3E", "CD4", "MS4A1", "LYZ"], ["CD3", "CD4"]
X = np.random.default_rng(0).poisson(3.0, (N, 6)).astype(np.float32)


def tenx(other="Antibody Capture", key="feature_types"):
    """A matrix of 10x: the gene CD4 and the protein CD4 have one name."""
    adata = AnnData(X, var=pd.DataFrame(index=GENES + PROTEINS))
    adata.var[key] = pd.Series(["Gene Expression"] * 4 + [other] * 2, index=adata.var_names)
    return adata


def mends(error):
    advice = str(error.value).partition("To model the genes alone, pass ")[2]
    alone, _, lines = advice.partition("; for TotalVI, move the proteins to obsm: ")
    return alone, lines


@pytest.mark.parametrize("key", ["feature_types", "feature_type"])
@pytest.mark.parametrize("dtype", [str, "category"])
def test_antibodies_among_the_genes_are_refused_with_mends_that_work(key, dtype):
    adata = tenx(key=key)
    adata.var[key] = adata.var[key].astype(dtype)
    with pytest.raises(ValueError, match=r"several types, 4 of 'Gene Expression' and 2 of 'Antibody Capture'") as error:
        po.CellDataModule(adata)
    alone, lines = mends(error)
    *steps, last = lines.split("; ")
    known = {"adata": adata, "CellDataModule": po.CellDataModule}
    exec("\n".join(steps), known)
    dm = eval(last, known)
    assert dm.schema.genes == tuple(GENES) and dm.schema.proteins == tuple(PROTEINS)
    batch = dm.data[range(N)]
    assert np.array_equal(batch.x, X[:, :4]) and np.array_equal(batch.y, X[:, 4:])
    assert po.TotalVI.from_data(dm).n_proteins == 2
    adata.var_names_make_unique()
    genes = eval(f"CellDataModule(adata, {alone})", known)
    assert genes.schema.genes == tuple(GENES) and np.array_equal(genes.data[range(N)].x, X[:, :4])


def test_other_types_are_no_genes_either(tmp_path):
    tenx("Peaks").write_h5ad(tmp_path / "multiome.h5ad")
    for backed in (False, True):
        with pytest.raises(ValueError, match=r"4 of 'Gene Expression' and 2 of 'Peaks'. To model the genes") as error:
            po.CellDataModule(tmp_path / "multiome.h5ad", backed=backed)
        assert mends(error)[1] == ""


def test_one_type_is_no_matter():
    assert po.CellDataModule(tenx("Gene Expression")[:, :5].copy()).n_genes == 5
    assert po.CellDataModule(tenx()[:, 4:].copy()).n_genes == 2
    assert po.CellDataModule(tenx(None)[:, :5].copy()).n_genes == 5
