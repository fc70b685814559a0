"""A new part or model is found by the contract's tests once it has a file and a name in its folder's ``__init__``."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
CONTRACT = "tests/testing/test_contract.py"
# Folder, name of the new class, the class that it is made of, and the tests that must see it.
NEW = {
    "prior": ("parts/priors", "NewPrior", "MixtureOfGaussians", ["test_priors"]),
    "likelihood": ("parts/likelihoods", "NewCounts", "Poisson", ["test_likelihoods", "test_likelihoods_of_libraries"]),
    "guide": ("guides", "NewGuide", "Amortized", ["test_guides", "test_guides_of_libraries"]),
    "model of cells": ("models/single_cell", "NewModel", "SCVI", ["test_models", "test_bounds_by_row"]),
    "model of a library": ("models/dna_encoded", "NewDEL", "DELCount", ["test_models", "test_bounds_by_row"]),
}


def add(package, folder, name, old):
    """Put a new class into a file of its own, and its name into the folder's ``__init__``: nothing else."""
    dotted = f"pyro_omics.{folder.replace('/', '.')}"
    (source,) = (path for path in (package / folder).glob("*.py") if f"class {old}(" in path.read_text())
    program = f"from {dotted}.{source.stem} import {old}\n\n\nclass {name}({old}):\n    pass\n"
    (package / folder / f"{name.lower()}.py").write_text(program)
    init = package / folder / "__init__.py"
    text = init.read_text().replace("__all__ = [", f'__all__ = ["{name}", ')
    init.write_text(text.replace("\nfrom ", f"\nfrom {dotted}.{name.lower()} import {name}\nfrom ", 1))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project with a new class of each kind."""
    root = tmp_path_factory.mktemp("project")
    for name in ("pyro_omics", "tests"):
        shutil.copytree(REPO / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "pyproject.toml", root)
    for folder, name, old, _ in NEW.values():
        add(root / "pyro_omics", folder, name, old)
    return root


def ran(project, *command):
    """The output of a Python command in the project."""
    environment = {**os.environ, "PYTHONPATH": str(project)}
    done = subprocess.run([sys.executable, *command], cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def collected(project):
    """The ids of the contract's tests there."""
    return ran(project, "-m", "pytest", "--collect-only", "-p", "no:cacheprovider", CONTRACT).splitlines()


@pytest.mark.parametrize("kind", NEW)
def test_a_new_class_is_tested_by_itself(kind, collected):
    _, name, _, tests = NEW[kind]
    for test in tests:
        assert any(f"::{test}[" in line and name in line for line in collected), (test, name)


def test_a_new_model_is_public_by_itself(project):
    models = [name for kind, (_, name, *_) in NEW.items() if kind.startswith("model")]
    found = ran(
        project, "-c", "import pyro_omics as po; print(*(set(po.__all__) & set(dir(po)) & set(dir(po.models))))"
    )
    assert set(models) <= set(found.split())
