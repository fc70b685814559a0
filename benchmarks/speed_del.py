"""Time per epoch of DELCount beside its dense matrix products alone, paired.

    python benchmarks/speed_del.py [--compounds 100000] [--repeats 7] [--threads 2]

100,000 compounds with 2,048-bit fingerprints, about 50 bits set in each, simulated; three target and two control
selections; batch 1,024."""

import argparse
import sys
import tempfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from paired import HERE, keep, race, table

N_BITS, SET, SELECTIONS = 2048, 50, ["target"] * 3 + ["control"] * 2
PRODUCTS = "its matrix products"


def write_data(path, n, seed=0):
    """Counts of a library whose binders share bits."""
    rng = np.random.default_rng(seed)
    size = round(n ** (1 / 3) + 0.5)
    codes = np.stack(np.unravel_index(rng.permutation(size**3)[:n], (size,) * 3), 1)
    rows = np.repeat(np.arange(n), SET)
    bits = sp.csr_matrix((np.ones(n * SET, np.float32), (rows, rng.integers(0, N_BITS, n * SET))), (n, N_BITS))
    bits.data[:] = 1
    rate = np.exp(bits @ rng.normal(0, 0.1, N_BITS))[:, None]
    counts = rng.poisson(np.where(np.array(SELECTIONS) == "target", rate, 1.0))
    adata = ad.AnnData(sp.csr_matrix(counts.astype(np.float32)))
    for j, cycle in enumerate("ABC"):
        adata.obs[cycle] = pd.Categorical([f"{cycle}{code}" for code in codes[:, j]])
    adata.var["condition"] = SELECTIONS
    adata.obsm["fingerprint"] = bits
    adata.write_h5ad(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--compounds", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default="runs/bench")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "library.h5ad"
        write_data(data, options.compounds)
        commands = {
            name: [sys.executable, HERE / "contestants" / program, data, "--threads", options.threads]
            for name, program in (("pyro_omics", "ours_del.py"), (PRODUCTS, "products.py"))
        }
        found = race(commands, options.repeats, warm_up=1, threads=options.threads)
    keep(options.out, "speed_del", found, threads=options.threads, compounds=options.compounds)
    print(f"{options.threads} threads, {options.compounds} compounds, {options.repeats} epochs each\n")
    print(table(found, PRODUCTS))


if __name__ == "__main__":
    main()
