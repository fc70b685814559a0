import sys

import pytest


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    """A working folder of a test's own; Lightning's notes about sys.argv and the environment kept out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["pyro-omics"])
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    return tmp_path
