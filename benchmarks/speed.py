"""Time per epoch on PBMC 10k beside scvi-tools and a hand-written torch loop, paired.

    python benchmarks/speed.py scvi --rival .rivals/bin/python [--repeats 7] [--threads 2]
    python benchmarks/speed.py totalvi --rival ...

``--rival`` is a Python that has scvi-tools; without it, that contestant is left out, and so is cellarium-ml without
``--cellarium``, a Python that has it (its scVI is negative binomial: it has no zero-inflated one). The set-up is that
of pbmc10k_scvi.py and pbmc10k_totalvi.py: the same cells, network and batch; the training epoch alone, no
validation."""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from paired import HERE, keep, race, spread, table
from pbmc10k import validation_cells

import pyro_omics as po

OURS, THEIRS = "pyro_omics", "scvi-tools"


def write_data(path):
    """PBMC 10k with a column that says which cells are held out."""
    adata = po.datasets.pbmc10k_citeseq()
    adata.obs["held_out"] = np.isin(np.arange(adata.n_obs), validation_cells(adata))
    adata.write_h5ad(path)


def contestants(model, data, rival, threads, cellarium=None):
    """Name -> command."""
    folder, tail = HERE / "contestants", ["--threads", threads]
    commands = {OURS: [sys.executable, folder / "ours.py", data, model, *tail]}
    commands[f"{OURS}, plain likelihoods"] = [*commands[OURS], "--plain"]
    commands[f"{OURS}, networks in bfloat16"] = [*commands[OURS], "--precision", "bf16-mixed"]
    if model == "scvi":
        loop = [sys.executable, folder / "torch_scvi.py", data, *tail]
        commands["torch by hand, the usual ZINB"] = loop
        commands["torch by hand, our kernel"] = [*loop, "--fast"]
        if cellarium:
            commands["cellarium-ml (negative binomial)"] = [cellarium, folder / "cellarium_ml.py", data, *tail]
    if rival:
        commands[THEIRS] = [rival, folder / "scvi_tools.py", data, model, *tail]
    return commands


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", choices=["scvi", "totalvi"])
    parser.add_argument("--rival", help="a Python that has scvi-tools")
    parser.add_argument("--cellarium", help="a Python that has cellarium-ml; for scvi")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default="runs/bench")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "pbmc10k.h5ad"
        write_data(data)
        commands = contestants(options.model, data, options.rival, options.threads, options.cellarium)
        found = race(commands, options.repeats, threads=options.threads)
    keep(options.out, f"speed_{options.model}_{options.threads}", found, threads=options.threads)
    print(f"{options.threads} threads, {options.repeats} epochs each, in turn\n")
    print(table(found, THEIRS if options.rival else OURS))
    if "torch by hand, our kernel" in found:
        steps = found[OURS][0]["steps"]
        more = [
            1000 * (ours["seconds"] - loop["seconds"]) / steps
            for ours, loop in zip(found[OURS], found["torch by hand, our kernel"], strict=True)
        ]
        print(f"\nAbove the torch loop with our kernel, ms a step: {spread(more)}")


if __name__ == "__main__":
    main()
