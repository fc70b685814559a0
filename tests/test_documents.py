"""What README, CONTRIBUTING and docs/ show runs as it stands; blocks fenced as ``py`` are shown, and not run."""

import math
import re
import sys
import types
from pathlib import Path

import helpers
import pytest
import torch

import pyro_omics as po
from pyro_omics import cli
from pyro_omics.data.dna_encoded.tables.layouts import LAYOUTS

REPO = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((REPO / "docs").glob("*.md")))]
TEXTS = {page: (REPO / page).read_text() for page in PAGES}


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXTS[page], re.DOTALL | re.MULTILINE)


def run(page, folder, monkeypatch):
    """The names that the Python blocks of a page leave, run one after the other."""
    monkeypatch.chdir(folder)
    quiet = "max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False"
    # A module of its own, so that what its classes refer to is found, as in a notebook.
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    for block in blocks(page, "python"):
        exec(compile(re.sub(r"max_epochs=\d+", quiet, block), page, "exec"), module.__dict__)
    return module.__dict__


def test_every_python_block_is_run_below():
    shown = {page for page in PAGES if blocks(page, "python")}
    assert shown == {"README.md", "CONTRIBUTING.md", "docs/guide.md", "docs/own_model.md", "docs/swaps.md"}


def test_the_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXTS[page])
    assert [link for link in links if not ((REPO / page).parent / link).exists()] == []


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    names = run("README.md", tmp_path, monkeypatch)
    assert "X_scvi" in names["adata"].obsm
    assert (names["lower"] <= names["upper"]).all().all()
    swaps = re.findall(r"^\| [^|]+ \| `(po\.[^`]+)` \|$", TEXTS["README.md"], re.MULTILINE)
    assert len(swaps) == 8
    for swap in swaps:
        assert isinstance(eval(swap, names), (po.SCVI, po.SVIModule))


def test_the_python_of_the_guide_runs(tmp_path, monkeypatch):
    names = run("docs/guide.md", tmp_path, monkeypatch)
    assert {"log_enrichment", "lower", "upper", "p_enriched"} <= set(names["table"].columns)
    assert names["protein"].notna().all().all()
    assert "X_scvi" in names["adata"].obsm
    assert type(names["svi"].model) is po.SCVI


def test_the_python_of_a_model_of_ones_own_runs(tmp_path, monkeypatch):
    names = run("docs/own_model.md", tmp_path, monkeypatch)
    assert names["svi"].guide.rest is not None
    assert names["loadings"].shape == (100, 5, names["dm"].n_genes)


def test_the_python_of_the_swaps_runs(tmp_path, monkeypatch):
    assert len(blocks("docs/swaps.md", "python")) == 4
    run("docs/swaps.md", tmp_path, monkeypatch)


def test_the_yaml_of_the_swaps_runs(tmp_path, monkeypatch):
    (text,) = [text for page in PAGES for text in blocks(page, "yaml")]
    small = ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--report.umap=false"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pyro-omics"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    Path("swaps.yaml").write_text(text)
    cli.main(["fit", f"--config={REPO / 'configs' / 'scvi_pbmc68k.yaml'}", "--config=swaps.yaml", "--out=out", *small])
    svi = po.load("out/model")
    parts = (svi.model.prior, svi.model.likelihood, svi.model.library, svi.guide, svi.guide.rest)
    names = [type(part).__name__ for part in parts]
    assert names == ["MixtureOfGaussians", "NegativeBinomial", "Latent", "AmortizedFlow", "AutoDiagonalNormal"]
    assert type(svi.model.constructor_edits[0]["prior"]).__name__ == "Horseshoe"


def example(path):
    """The module that CONTRIBUTING shows for this path."""
    (block,) = [text for text in blocks("CONTRIBUTING.md", "python") if text.startswith(f"# {path}\n")]
    assert (REPO / path).parent.is_dir(), f"{path}: there is no such folder"
    assert not (REPO / path).exists(), f"{path}: an example may not be in the package"
    module = types.ModuleType(Path(path).stem)
    exec(compile(block, path, "exec"), module.__dict__)
    return module


def test_the_examples_for_contributors_are_right():
    prior = example("pyro_omics/parts/priors/laplace.py").LaplacePrior
    likelihood = example("pyro_omics/parts/likelihoods/geometric.py").Geometric
    guide = example("pyro_omics/guides/amortized_laplace.py").AmortizedLaplace
    model = example("pyro_omics/models/single_cell/poisson_factors.py").PoissonFactors

    z = torch.randn(4, 3)
    expected = (-z.abs() / 0.5 - math.log(2 * 0.5)).sum(-1)
    torch.testing.assert_close(prior(0.5, n_latent=3)().log_prob(z), expected)
    mean, x = torch.rand(4, 6) * 5 + 0.1, torch.randint(0, 9, (4, 6)).float()
    expected = po.distributions.NegativeBinomial(mean, torch.ones(6)).to_event(1).log_prob(x)
    torch.testing.assert_close(likelihood()(mean, {}, None).log_prob(x), expected, rtol=1e-4, atol=1e-4)

    dm = po.CellDataModule(helpers.counts(), batch_size=20)
    with_parts = po.SCVI.from_data(dm, n_latent=3, n_hidden=16, prior=prior(), likelihood=likelihood())
    for svi in (po.SVIModule(with_parts, guide=guide), po.SVIModule(model.from_data(dm, n_latent=3))):
        helpers.quiet_trainer(1).fit(svi, dm)
        assert po.Posterior(svi, dm).latent().shape == (60, 3)
    # The standard deviation of a Laplace is sqrt(2) times its scale.
    svi = po.SVIModule(helpers.small(dm), guide=guide).eval()
    batch = svi.model.example_batch()
    _, scale = svi.guide.start("z", batch, None)
    torch.testing.assert_close(svi.guide.local("z", batch).stddev, scale * math.sqrt(2))


def test_the_layout_for_contributors_is_read():
    layout = example("pyro_omics/data/dna_encoded/tables/layouts/captured.py").CAPTURED
    found = layout.selections(list(layout.example), "umi")
    assert {one.name: one.condition for one in found} == {
        "captured_1": "target",
        "captured_2": "target",
        "empty_1": "control",
        "input": "pre-selection",
    }
    assert layout.fits(layout.example)
    assert not any(other.fits(layout.example) for other in LAYOUTS.values())
