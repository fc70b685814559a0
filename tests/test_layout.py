"""The layout: floors as the README draws them; imports, lazy and type-only ones too, go down only and in no circle."""

import ast
import re
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
ROOT = REPO / "pyro_omics"
FILES = {path.relative_to(REPO): path for path in sorted(ROOT.rglob("*.py"))}


def module(path):
    """The dotted name of a file."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES}


def room(name):
    """The folder, or the file, at the package's root that a module is in; "" for the package itself."""
    return name.split(".")[1] if "." in name else ""


def imported(path):
    """The package's own modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(FILES[path].read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative imports hide their floor"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            if name:
                yield name


GRAPH = {name: set(imported(path)) - {name} for name, path in MODULES.items()}


def floors():
    """The rooms of each floor, ground first, as the README's tree has them."""
    (tree,) = re.findall(r"```text\npyro_omics/[^\n]*\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    lines = [re.split(r"\s{2,}", line.strip())[0] for line in tree.splitlines() if line.strip()]
    return [[name.strip() for name in line.split(",")] for line in reversed(lines)]


FLOOR = {name: height for height, names in enumerate(floors()) for name in names}


def circles(graph):
    """The strongly connected parts of more than one node (Tarjan 1972)."""
    number, low, stack, found = {}, {}, [], []

    def visit(node):
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in number:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == number[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(part) > 1:
                found.append(sorted(part))

    for node in sorted(graph):
        if node not in number:
            visit(node)
    return found


def test_every_room_has_its_floor_in_the_readme():
    assert {room(name) for name in MODULES} - {"", "version"} == set(FLOOR)


def test_the_root_has_few_modules():
    assert len(list(ROOT.glob("*.py"))) <= 8


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down_only(name):
    if room(name):
        up = {other for other in GRAPH[name] if room(other) not in ("version", room(name))}
        assert {other for other in up if room(other) == "" or FLOOR[room(other)] > FLOOR[room(name)]} == set()


def test_no_circle_of_files():
    assert circles(GRAPH) == []


def test_no_circle_of_rooms():
    rooms = {room(name): set() for name in GRAPH}
    for name, others in GRAPH.items():
        rooms[room(name)] |= {room(other) for other in others} - {room(name)}
    assert circles(rooms) == []


@pytest.mark.parametrize("name", MODULES)
def test_the_toolkit_knows_no_domain(name):
    """Single-cell and DNA-encoded code has folders of its own; the rooms that every model shares do not look there."""
    shared = ("batch", "sizes", "sites", "optim", "kernels", "serialization", "distributions", "layers", "guides",
              "inference", "testing")  # fmt: skip
    if room(name) in shared:
        assert {other for other in GRAPH[name] if {"single_cell", "dna_encoded"} & set(other.split("."))} == set()


@pytest.mark.parametrize("name", MODULES)
def test_programs_know_neither_lightning_nor_anndata(name):
    below = {name for name, height in FLOOR.items() if height <= FLOOR["models"]}
    if room(name) in below:
        text = FILES[MODULES[name]].read_text()
        assert not re.search(
            r"^\s*(?:from|import) (?:pytorch_lightning|lightning|anndata|scanpy)\b", text, re.MULTILINE
        )


def test_inference_never_imports_data():
    assert {name for name in GRAPH if room(name) == "inference" and {"data"} & set(map(room, GRAPH[name]))} == set()
