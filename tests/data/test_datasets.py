import numpy as np
import pooch
import pytest
import scanpy as sc

import pyro_omics as po


def test_pbmc68k_gives_back_integer_counts():
    adata = po.datasets.pbmc68k()
    assert adata.shape == (700, 765)
    assert "bulk_labels" in adata.obs
    x = adata.X.toarray()
    assert (x == np.rint(x)).all()
    # The published values are log1p of counts scaled to one total in each cell, rounded to 3 decimals.
    published = sc.datasets.pbmc68k_reduced().raw.X.toarray()
    scale = np.expm1(published).sum(1) / x.sum(1)
    assert np.abs(np.log1p(x * scale[:, None]) - published).max() < 2e-3
    assert (np.where(x > 0, x, np.inf).min(1) == 1).all()


def test_pbmc10k_has_rna_and_protein_counts(pbmc10k):
    assert pbmc10k.shape == (6855, 4000)
    protein = pbmc10k.obsm["protein_counts"]
    assert protein.shape == (6855, 14)
    assert {"CD3", "CD19", "PD-1"} <= set(protein.columns)
    assert list(protein.index) == list(pbmc10k.obs_names)
    assert (protein >= 0).all(None)
    assert 0.90 < 1 - pbmc10k.X.nnz / np.prod(pbmc10k.shape) < 0.92
    # T cells' protein and transcript agree, so that the two tables are of the same cells in the same order.
    cd3 = protein["CD3"].to_numpy()
    expressed = pbmc10k[:, "CD3D"].X.toarray()[:, 0] > 0
    assert np.median(cd3[expressed]) > 10 * np.median(cd3[~expressed])


def test_pbmc10k_can_be_fitted_from(pbmc10k):
    dm = po.CellDataModule(pbmc10k, validation_indices=range(685))
    assert (dm.n_obs, dm.n_genes) == (6170, 4000)
    po.testing.check_model(po.SCVI.from_data(dm), dm)


def test_a_wrong_file_in_the_named_folder_is_refused_and_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "pbmc10k_harmo_rna.csv.gz"
    path.write_bytes(b"something else")
    monkeypatch.setenv("PYRO_OMICS_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="SHA-256"):
        po.datasets.pbmc10k_citeseq()
    assert path.read_bytes() == b"something else"


def test_what_is_not_in_the_folder_is_downloaded_and_checked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setenv("PYRO_OMICS_DATA", str(tmp_path))
    monkeypatch.setattr(pooch, "retrieve", lambda url, **options: asked.append((url, options)) or "somewhere")
    po.datasets.fetch("pbmc10k_harmo_pro.csv.gz")
    ((url, options),) = asked
    assert url.startswith("https://")
    assert url.endswith("/pbmc10k_harmo_pro.csv.gz")
    assert options["known_hash"].startswith("sha256:184afe67")
