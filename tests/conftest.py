import os
from pathlib import Path

import pyro
import pytest
import torch

import pyro_omics as po

pytest_plugins = ["fitted_pairs"]
pytest.register_assert_rewrite("pyro_tools")

# The suite runs small problems, in which a second thread costs more than it gives.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    pyro.clear_param_store()  # of tests that run Pyro's own programs


@pytest.fixture(scope="session")
def pbmc10k():
    """The PBMC 10k CITE-seq set, where its files are: CI has them, a clone alone does not."""
    folder = os.environ.get("PYRO_OMICS_DATA")
    if not folder or not (Path(folder) / "pbmc10k_harmo_rna.csv.gz").is_file():
        pytest.skip("needs pbmc10k_harmo_rna.csv.gz and pbmc10k_harmo_pro.csv.gz in the folder PYRO_OMICS_DATA")
    return po.datasets.pbmc10k_citeseq()
