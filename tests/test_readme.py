"""What the README shows runs as it stands."""

import re
from pathlib import Path

README = (Path(__file__).parent.parent / "README.md").read_text()


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
