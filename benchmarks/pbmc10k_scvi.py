"""scVI's quality on PBMC 10k beside scvi-tools': held-out ELBO, importance-weighted log-likelihood, purity.

    python benchmarks/pbmc10k_scvi.py [--epochs 100] [--seeds 0 1] [--start 1.0]

The set-up is fixed: 6,855 cells x 4,000 genes, batch 128, learning rate 1e-3, ZINB, the model's defaults; the
validation cells are the first n // 10 of ``np.random.default_rng(0).permutation(n)``. scvi-tools' figures were
measured with version 1.4.2, 100 epochs, in the same set-up. Purity is the share of the 15 nearest neighbours in the
latent of all cells with the same label; the labels are gated from the surface proteins, which scVI does not see.
Data: the loader's (``PYRO_OMICS_DATA``, or a download of 3 MB)."""

import argparse
import logging
import time

import pytorch_lightning as pl
from pbmc10k import QUIET, gate, knn_purity, validation_cells

import pyro_omics as po

FIELD = {
    "scvi-tools 1.4.2, KL warm-up 10": ("-1098.2", "-1092.9", "0.967-0.969"),
    "scvi-tools 1.4.2, default": ("-1107.6", "-1102.5", "0.967-0.969"),
    "PCA of log counts": ("", "", "0.926"),
}


def measure(adata, labels, epochs, seed, start, precision):
    """One fit: ELBO and log-likelihood (nats per validation cell), purity, seconds."""
    pl.seed_everything(seed, verbose=False)
    dm = po.CellDataModule(adata, validation_indices=validation_cells(adata), batch_size=128, seed=seed)
    likelihood = po.likelihoods.ZeroInflatedNegativeBinomial(dispersion=po.dispersions.PerGene(start=start))
    svi = po.SVIModule(po.SCVI.from_data(dm, likelihood=likelihood))
    start = time.monotonic()
    pl.Trainer(max_epochs=epochs, accelerator="cpu", precision=precision, **QUIET).fit(svi, dm)
    seconds = time.monotonic() - start
    posterior = po.Posterior(svi, dm)
    elbo = posterior.elbo("validation", num_samples=200).mean()
    likelihood = posterior.log_likelihood("validation", num_particles=200).mean()
    return elbo, likelihood, knn_purity(posterior.latent(), labels), seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--start", type=float, help="log_theta at the start; drawn from Normal(0, 1) when not given")
    parser.add_argument("--precision", default="32-true", help="of training, as the Trainer's; scores are in float32")
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    adata = po.datasets.pbmc10k_citeseq()
    labels = gate(adata.obsm["protein_counts"])
    row = "{:34s} {:>10s} {:>12s} {:>13s} {:>9s}"
    lines = [row.format("", "ELBO", "IW-LL (200)", "purity", "seconds")]
    lines += [row.format(name, *figures, "") for name, figures in FIELD.items()]
    for seed in options.seeds:
        arguments = options.epochs, seed, options.start, options.precision
        elbo, likelihood, purity, seconds = measure(adata, labels, *arguments)
        start = "" if options.start is None else f", start={options.start:g}"
        name = f"pyro_omics {po.__version__}, seed {seed}{start}"
        name += "" if options.precision == "32-true" else f", {options.precision}"
        lines.append(row.format(name, f"{elbo:.1f}", f"{likelihood:.1f}", f"{purity:.4f}", f"{seconds:.0f}"))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
