"""What each swap of scVI's prior, guide or likelihood buys on PBMC 10k: held-out log-likelihood, with standard errors.

    python benchmarks/pbmc10k_swaps.py [--epochs 100] [--only "flow prior" "as it comes"] [--folder runs/swaps]

The set-up is that of pbmc10k_scvi.py; the log-likelihood is importance-weighted, 200 particles. Fits that are in the
folder are read and not repeated. The second table is docs/swaps.md's: differences are to the first configuration."""

import argparse
import logging
from pathlib import Path

import pytorch_lightning as pl
from pbmc10k import validation_cells
from pyro.infer import TraceMeanField_ELBO

import pyro_omics as po
from pyro_omics.evaluation.comparison import read


def configurations(dm):
    """Name -> what makes the pair; each differs from the first in one argument."""
    scvi = lambda **parts: po.SCVI.from_data(dm, **parts)  # noqa: E731
    priors, guides, elbos = po.priors, po.guides, po.elbos
    return {
        "as it comes": lambda: po.SVIModule(scvi()),
        "mixture prior": lambda: po.SVIModule(scvi(prior=priors.MixtureOfGaussians(20))),
        "Vamp prior": lambda: po.SVIModule(scvi(prior=priors.VampPrior(50))),
        "flow prior": lambda: po.SVIModule(scvi(prior=priors.FlowPrior())),
        "hierarchical prior": lambda: po.SVIModule(scvi(prior=priors.HierarchicalNormal())),
        "flow guide": lambda: po.SVIModule(scvi(), guide=guides.AmortizedFlow),
        "Student's t guide": lambda: po.SVIModule(scvi(), guide=guides.AmortizedStudentT),
        "semi-amortised guide": lambda: po.SVIModule(scvi(), guide=guides.SemiAmortized),
        "negative binomial": lambda: po.SVIModule(scvi(likelihood=po.likelihoods.NegativeBinomial())),
        "mean-field ELBO": lambda: po.SVIModule(scvi(), elbo=TraceMeanField_ELBO()),
        "importance-weighted ELBO, 4": lambda: po.SVIModule(scvi(), elbo=elbos.ImportanceWeightedELBO(4)),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--folder", default="runs/swaps")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    adata = po.datasets.pbmc10k_citeseq()
    pl.seed_everything(options.seed, verbose=False)
    dm = po.CellDataModule(adata, validation_indices=validation_cells(adata), batch_size=128, seed=options.seed)
    chosen = {name: make for name, make in configurations(dm).items() if options.only is None or name in options.only}
    table = po.compare(chosen, dm, options.epochs, options.folder, num_particles=200, seed=options.seed)
    print(table.round(2).to_string(), "\n")
    print(beside({name: read(Path(options.folder) / name) for name in chosen}))


def beside(fits):
    """Markdown: each fit, and its log-likelihood next to the first's, cell by cell."""
    lines = ["| | ELBO | log-likelihood (s.e.) | difference (s.e.) |", "| --- | --- | --- | --- |"]
    first = next(iter(fits.values())).scores["log_likelihood"]
    for name, fit in fits.items():
        own, n = fit.scores["log_likelihood"], len(first) ** 0.5
        gain = own - first
        more = f"{gain.mean():+.2f} ({gain.std() / n:.2f})" if own is not first else ""
        figures = f"{fit.scores['elbo'].mean():.2f} | {own.mean():.2f} ({own.std() / n:.2f})"
        lines.append(f"| {name} | {figures} | {more} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
