"""What the README shows runs as it stands."""

import re
import sys
from pathlib import Path

import pyro_omics as po
from pyro_omics import cli

README = (Path(__file__).parent.parent / "README.md").read_text()


def test_the_yaml_of_the_readme_runs(tmp_path, monkeypatch):
    (text,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    small = ["--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--report.umap=false"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pyro-omics"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    Path("swaps.yaml").write_text(text)
    config = Path(__file__).parent.parent / "configs" / "scvi_pbmc68k.yaml"
    cli.main(["fit", f"--config={config}", "--config=swaps.yaml", "--out=out", *small])
    svi = po.load("out/model")
    parts = (svi.model.prior, svi.model.likelihood, svi.model.library, svi.guide, svi.guide.rest)
    names = [type(part).__name__ for part in parts]
    assert names == ["MixtureOfGaussians", "NegativeBinomial", "Latent", "AmortizedFlow", "AutoDiagonalNormal"]
    assert type(svi.model.constructor_edits[0]["prior"]).__name__ == "Horseshoe"


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quiet = "max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False"
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 6
    namespace = {}
    for block in blocks:
        exec(compile(re.sub(r"max_epochs=\d+", quiet, block), "README.md", "exec"), namespace)
    assert {"log_enrichment", "lower", "upper", "p_enriched"} <= set(namespace["table"].columns)
    assert namespace["protein"].notna().all().all()
    assert "X_scvi" in namespace["adata"].obsm
    assert namespace["svi"].guide.rest is not None
