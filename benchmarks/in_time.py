"""What is learnt in the same time: scVI on PBMC 10k after so many seconds of training, beside scvi-tools.

    python benchmarks/in_time.py --rival .rivals/bin/python [--seconds 10 20 40 80] [--seeds 0 1] [--threads 2]

Each tool trains its own defaults (ZINB, one hidden layer of 128, 10 latents, batch 128) on the same cells, with a KL
warm-up of 10 epochs for both (ours by default; scvi-tools' is 400, with which it does worse here, see
pbmc10k_scvi.py). The clock runs through the epochs and between them, and not in set-up nor while the model is scored; a
model is scored at the first end of an epoch after each budget, and trains on. One process for each tool and seed, one
after the other, so that no two train at once.

The ELBO is of the held-out cells at full KL weight, in nats a cell, higher is better: the mean of 100 draws of ours and
of 20 of theirs (their KL is in closed form). Purity is pbmc10k.py's, of 15 neighbours, of the latent means of all
cells. Where fewer than 10 epochs fit a budget, the model that is scored was still in its warm-up."""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from paired import HERE, Contestant, keep
from pbmc10k import gate, knn_purity
from speed import OURS, THEIRS, write_data

import pyro_omics as po


def train(name, command, options, labels):
    """One fit: a dict for each budget, of seconds, epochs, elbo and purity."""
    contestant, found = Contestant(name, command, options.threads), []
    try:
        for budget in options.seconds:
            answer = contestant.go()
            del answer["cpu"]  # scoring included
            answer |= {"budget": budget, "purity": knn_purity(np.load(answer.pop("latent")), labels)}
            found.append(answer)
    finally:
        contestant.end()
    return found


def commands(data, latents, seed, options):
    """Name -> command, of one seed."""
    folder = HERE / "contestants"
    tail = [data, "scvi", "--threads", options.threads, "--seed", seed, "--latents", latents]
    tail += ["--budgets", *options.seconds]
    both = {OURS: [sys.executable, folder / "ours.py", *tail]}
    if options.rival:
        both[THEIRS] = [options.rival, folder / "scvi_tools.py", *tail, "--warm-up", 10]
    return both


def table(found, budgets):
    """Markdown: means over seeds, at each budget."""
    lines = ["| seconds | | epochs | held-out ELBO | purity |", "| --- | --- | --- | --- | --- |"]
    for i, budget in enumerate(budgets):
        for name, fits in found.items():
            epochs, elbo, purity = (
                statistics.mean(fit[i][what] for fit in fits) for what in ("epochs", "elbo", "purity")
            )
            lines.append(f"| {budget:g} | {name} | {epochs:.1f} | {elbo:.1f} | {purity:.3f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rival", help="a Python that has scvi-tools")
    parser.add_argument("--seconds", type=float, nargs="+", default=[10, 20, 40, 80])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default="runs/bench")
    options = parser.parse_args()
    options.seconds.sort()
    labels, found = gate(po.datasets.pbmc10k_citeseq().obsm["protein_counts"]), {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "pbmc10k.h5ad"
        write_data(data)
        for turn, seed in enumerate(options.seeds):
            both = list(commands(data, folder, seed, options).items())
            for name, command in both[:: -1 if turn % 2 else 1]:
                found.setdefault(name, []).append(train(name, command, options, labels))
    keep(options.out, "in_time", found, threads=options.threads, seeds=options.seeds)
    print(f"{options.threads} threads, means over seeds {', '.join(map(str, options.seeds))}\n")
    print(table(found, options.seconds))


if __name__ == "__main__":
    main()
