import os
from pathlib import Path

import pytest
import torch

import pyro_omics as po

pytest_plugins = ["fitted_pairs"]

# Fixtures that take seconds: under `--dist loadgroup` all tests of one of them run in one process, which makes it once.
MADE_ONCE = {
    "fitted_hierarchical_del",  # fitted_pairs.py
    "refitted",  # models/test_recovery.py
    "refitted_proteins",
    "selection",  # models/dna_encoded/test_hierarchical.py
    "together",  # inference/test_devices.py
    "ran",  # cli/test_dna_encoded.py
    "project",  # testing/test_registry.py
}
# The suite runs small problems, in which a second thread costs more than it gives.
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items):
    for item in items:
        for name in sorted(MADE_ONCE.intersection(item.fixturenames))[:1]:
            item.add_marker(pytest.mark.xdist_group(name))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def pbmc10k():
    """The PBMC 10k CITE-seq set, where its files are: CI has them, a clone alone does not."""
    folder = os.environ.get("PYRO_OMICS_DATA")
    if not folder or not (Path(folder) / "pbmc10k_harmo_rna.csv.gz").is_file():
        pytest.skip("needs pbmc10k_harmo_rna.csv.gz and pbmc10k_harmo_pro.csv.gz in the folder PYRO_OMICS_DATA")
    return po.datasets.pbmc10k_citeseq()
