"""Imports go downwards only: a room sees its own floor and those below. A new room must be placed here."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "pyro_omics"
FLOORS = [
    [
        "serialization",
        "sizes",
        "sites",
        "version",
        "batch",
        "layers",
        "nonzero",
        "kernels",
        "distributions",
        "parts",
        "optim",
        "trace_elbo",
    ],
    ["priors", "dispersions", "libraries", "likelihoods", "proteins", "effects"],
    ["models", "guides", "bayes", "elbos"],
    ["kl", "noise", "checks", "draws", "saving", "svi", "data"],
    ["posterior", "passes", "scores", "questions", "labels", "summaries", "plots", "criticism", "baselines", "tables"],
    ["cli", "testing", "report", "del_cli", "del_report", "identity", "described", "comparison", "compare_cli"],
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imported(node, inside_functions=True):
    """Dotted names imported below ``node``, but for those under ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, "relative imports hide their floor"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from imported(ast.Module(child.orelse, []), inside_functions)
        elif inside_functions or not isinstance(child, ast.FunctionDef):
            yield from imported(child, inside_functions)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_downwards(module):
    room = Path(module).parts[0].removesuffix(".py")
    tree = ast.parse((ROOT / module).read_text())
    names = [name.split(".") for name in imported(tree)]
    ours = {name[:2][-1] for name in names if name[0] == "pyro_omics"}
    assert (ours | {room}) - FLOOR.keys() == set(), "a new room needs a floor"
    assert {other for other in ours if FLOOR[other] > FLOOR[room]} == set()
    if room == "data":
        assert ours <= {"data", "batch", "serialization", "sizes", "sites", "nonzero", "kernels"}
    if room in ("svi", "kl", "noise", "checks", "saving"):
        assert "data" not in ours
    if module == "models/base.py":
        assert "guides" not in ours
    if FLOOR[room] <= 2:
        assert {name[0] for name in names} & {"pytorch_lightning", "lightning", "anndata", "scanpy"} == set()
    if room == "saving":
        assert "pyro_omics.svi.SVIModule" not in imported(tree, inside_functions=False)
