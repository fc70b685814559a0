"""How the time of training scVI and its memory grow with cells and with genes, beside scvi-tools.

    python benchmarks/growth.py --rival .rivals/bin/python [--cells 1000 10000 100000 1000000] [--genes 500 2000 8000]

Simulated counts of 12 cell types, 7.5% of them non-zero (large.py's), in memory for both; the models' defaults, batch
128, a tenth of the cells held out and not looked at. What is timed is a fixed number of steps (``--steps``), after 20
that are not, the ends of epochs among them: of 1,000 cells many, of 1,000,000 none. The time of 1,000 cells is that of
a step times the steps of an epoch over the cells of an epoch; it is level where training is linear in cells. By cells
there are 2,000 genes, by genes 10,000 cells. The contestants take turns; ratios are of the same turn. Peak memory is of
the whole process, reading and set-up included. scvi-tools is left out above ``--rival-cells``."""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
from anndata.io import read_elem, write_elem
from large import N_GENES, simulate
from paired import HERE, keep, race, spread

OURS, THEIRS = "pyro_omics", "scvi-tools"
CELLS = 10_000  # where genes are varied


def write_data(path, n_cells, n_genes):
    """Simulated cells with a column that says which are held out; how many are not."""
    simulate(path, n_cells, n_genes=n_genes)
    held_out = np.zeros(n_cells, bool)
    held_out[np.random.default_rng(0).permutation(n_cells)[: n_cells // 10]] = True
    with h5py.File(path, "r+") as file:
        obs = read_elem(file["obs"])
        obs["held_out"] = held_out
        write_elem(file, "obs", obs)
    return int((~held_out).sum())


def measure(n_cells, n_genes, options):
    """Name -> turns of steps, with the milliseconds of a step and the seconds of 1,000 cells."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        data = Path(folder) / "cells.h5ad"
        n_training = write_data(data, n_cells, n_genes)
        contestants = HERE / "contestants"
        tail = [data, "scvi", "--threads", options.threads, "--steps", options.steps]
        commands = {OURS: [sys.executable, contestants / "ours.py", *tail]}
        if options.rival and n_cells <= options.rival_cells:
            commands[THEIRS] = [options.rival, contestants / "scvi_tools.py", *tail]
        found = race(commands, options.repeats, warm_up=1, threads=options.threads)
    for turn in (turn for turns in found.values() for turn in turns):
        turn["step_ms"] = 1000 * turn["seconds"] / turn["steps"]
        turn["per_1000_cells"] = turn["step_ms"] * turn["epoch_steps"] / n_training
    return found


def rows(size, found):
    """The table's rows of one size."""
    for name, turns in found.items():
        step, cells = ([turn[what] for turn in turns] for what in ("step_ms", "per_1000_cells"))
        base = found.get(THEIRS)
        ratio = spread([mine / other["step_ms"] for mine, other in zip(step, base, strict=True)]) if base else ""
        peak = max(turn["peak_gib"] for turn in turns)
        yield f"| {size:,} | {name} | {spread(step)} | {_fine(cells)} | {ratio} | {peak:.2f} |"


def _fine(values):
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def head(by):
    """The table's head."""
    return f"| {by} | | ms a step | seconds for 1,000 cells | of {THEIRS}'s | peak memory, GiB |\n" + "| --- " * 6 + "|"


def linear(by_cells):
    """How the time of a cell at the largest size compares with that at each other, in words."""
    time = {n: statistics.median(turn["per_1000_cells"] for turn in found[OURS]) for n, found in by_cells.items()}
    largest = max(time)
    each = ", ".join(f"{time[largest] / time[n]:.2f} of one at {n:,}" for n in sorted(time) if n != largest)
    return f"{OURS}: a cell at {largest:,} takes {each}."


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rival", help="a Python that has scvi-tools")
    parser.add_argument("--cells", type=int, nargs="*", default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--genes", type=int, nargs="*", default=[500, 2000, 8000])
    parser.add_argument("--rival-cells", type=int, default=100_000, help="the most that scvi-tools is given")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where the files are written and removed; temporary by default")
    parser.add_argument("--out", default="runs/bench")
    options = parser.parse_args()
    by_cells, by_genes = {}, {}
    print(f"{options.threads} threads; {options.repeats} turns of {options.steps} steps each\n")
    print(head(f"cells, of {N_GENES:,} genes"), flush=True)
    for n in options.cells:
        by_cells[n] = measure(n, N_GENES, options)
        print("\n".join(rows(n, by_cells[n])), flush=True)
    if len(by_cells) > 1:
        print(f"\n{linear(by_cells)}")
    if options.rival and options.cells and max(options.cells) > options.rival_cells:
        print(f"\n{THEIRS} was not run above {options.rival_cells:,} cells.")
    print(f"\n{head(f'genes, of {CELLS:,} cells')}", flush=True)
    for n in options.genes:
        by_genes[n] = measure(CELLS, n, options)
        print("\n".join(rows(n, by_genes[n])), flush=True)
    keep(options.out, "growth", {"cells": by_cells, "genes": by_genes}, threads=options.threads)


if __name__ == "__main__":
    main()
