"""HierarchicalDEL on simulated libraries: average precision by depth, calibration of intervals and of hit lists.

python benchmarks/del_simulated.py depth [--depths 0.3 1 3] [--seeds 0 1 2 3 4] [--epochs 60]
python benchmarks/del_simulated.py calibration [--libraries 20] [--epochs 100]
"""

import argparse

import numpy as np
from del_fit import RATES, average_precisions, covered, discoveries, fit

import pyro_omics as po


def depth(args):
    """Average precision of our posterior mean and of the classical scores, on the synthon simulator."""
    for reads in args.depths:
        for seed in args.seeds:
            adata, truth = po.simulate.del_library(depth=reads, seed=seed)
            _, table, seconds = fit(adata, args.epochs, seed)
            found = average_precisions(table, adata, truth["is_binder"])
            print(f"depth={reads} seed={seed}", *(f"{name}={ap:.3f}" for name, ap in found.items()),
                  f"seconds={seconds['fit']:.0f}+{seconds['query']:.0f}", flush=True)  # fmt: skip


def calibration(args):
    """Coverage and realised false discovery rates, pooled over libraries of the model's own prior, and of the other."""
    simulators = {"own prior": po.simulate.del_from_prior, "selection": po.simulate.del_library}
    for name in args.simulators:
        inside, binders, lists = [], [], {rate: np.zeros(2, int) for rate in RATES}
        for seed in range(args.libraries):
            adata, truth = simulators[name](seed=seed)
            _, table, _ = fit(adata, args.epochs, seed)
            inside.append(covered(table, truth))
            binders.append(truth["is_binder"])
            for rate in RATES:
                lists[rate] += discoveries(table, truth["is_binder"], rate)
            print(f"{name} {seed}: coverage={inside[-1].mean():.3f}",
                  *(f"fdr{rate}={n}/{k}" for rate, (k, n) in lists.items()), flush=True)  # fmt: skip
        whole, binder = np.concatenate(inside), np.concatenate(binders)
        print(
            f"RESULT {name}: coverage={whole.mean():.3f} of binders={whole[binder].mean():.3f} ({binder.sum()} binders)"
        )
        for rate, (hits, false) in lists.items():
            error = np.sqrt(rate * (1 - rate) / max(hits, 1))
            print(
                f"RESULT {name}: fdr={rate} hits={hits} realised={false / max(hits, 1):.4f} standard error={error:.4f}"
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["depth", "calibration"])
    parser.add_argument("--depths", type=float, nargs="+", default=[0.3, 1.0, 3.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--libraries", type=int, default=20)
    parser.add_argument("--simulators", nargs="+", default=["own prior", "selection"])
    parser.add_argument("--epochs", type=int, default=100)
    args = parser.parse_args()
    {"depth": depth, "calibration": calibration}[args.what](args)
