"""Time of an epoch of this checkout against an earlier commit, both in the same run, in alternating turns.

    python benchmarks/against_commit.py COMMIT [--models scvi totalvi hierarchical] [--repeats 9] [--threads 2]

The commit is checked out into a temporary folder. PBMC 10k for scvi and totalvi (PYRO_OMICS_DATA), a simulated library
of 20 x 20 x 20 compounds for hierarchical."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from paired import HERE, Contestant, keep, race, spread, table
from speed import write_data

import pyro_omics as po

NOW = "this checkout"


class AtCommit(Contestant):
    """A contestant that imports the package from another folder."""

    def __init__(self, name, command, threads=2):
        tree, *rest = command
        super().__init__(name, rest, threads, tree=tree)


def write_library(path):
    """A simulated library of 8,000 compounds, three target and two control selections."""
    adata, _ = po.simulate.del_library(cycles=(20, 20, 20), depth=3.0)
    adata.write_h5ad(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("commit")
    parser.add_argument("--models", nargs="+", default=["scvi", "totalvi", "hierarchical"])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default="runs/bench")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        old = Path(folder) / "old"
        subprocess.run(["git", "worktree", "add", "--detach", "--quiet", old, options.commit], check=True, cwd=HERE)
        try:
            for model in options.models:
                data = Path(folder) / f"{model}.h5ad"
                (write_library if model == "hierarchical" else write_data)(data)
                program = [sys.executable, HERE / "contestants" / "epoch.py", data, model, "--threads", options.threads]
                commands = {NOW: [HERE.parent, *program], options.commit: [old, *program]}
                found = race(commands, options.repeats, threads=options.threads, contestant=AtCommit)
                keep(options.out, f"against_{model}", found, commit=options.commit)
                print(f"\n{model}, {options.threads} threads, {options.repeats} turns\n")
                print(table(found, options.commit))
                cpu = [a["cpu"] / b["cpu"] for a, b in zip(found[NOW], found[options.commit], strict=True)]
                print(f"\nprocessor time, of {options.commit}'s: {spread(cpu)}")
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", old], check=True, cwd=HERE)


if __name__ == "__main__":
    main()
