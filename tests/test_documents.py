"""What README and docs/ show runs as it stands; blocks fenced as ``py`` are shown, and not run."""

import re
import sys
import types
from pathlib import Path

import pytest

import pyro_omics as po
from pyro_omics import cli

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
    shown = {page for page in PAGES if blocks(page, "python")} - {"CONTRIBUTING.md"}
    assert shown == {"README.md", "docs/guide.md", "docs/own_model.md", "docs/swaps.md"}


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
