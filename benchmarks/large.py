"""Training scVI from disk beside training it from memory: peak memory and rows a second, by number of cells.

    python benchmarks/large.py [--cells 10000 100000 1000000] [--steps 1500] [--repeats 3] [--zarr] [--folder FOLDER]

Cells x 2,000 genes are simulated to a .h5ad file in blocks: 12 cell types in the order of the file (the worst case for
reading in blocks), about 150 non-zero counts a cell (7.5%), uncompressed, in chunks of 65,536 values; with ``--zarr``
it is written anew by anndata as a .zarr store, in anndata's own chunks and compression. Each measurement
is a process of its own, disk and memory in turn: scVI with its defaults, minibatches of 128, an epoch or ``--steps``
steps of one, whichever is shorter. Rows a second are of training steps alone, after the first 20, by the clock and by
the processor time of all threads (which a busy machine moves less), and of the loader alone, without a model; the peak
is ``ru_maxrss`` of the process and, with ``--workers``, of its largest worker beside it."""

import argparse
import json
import logging
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
from anndata.io import write_elem
from paired import keep

N_GENES, N_TYPES, BLOCK = 2000, 12, 10_000
WARM = 20  # steps that are not timed


def block(rng, frequency, kind):
    """Counts of cells of these types: multinomial, with log-normal totals; columns, values and lengths of rows."""
    n_genes = frequency.shape[1]
    total = ((rng.lognormal(5.1, 0.35, len(kind)).astype(int) + 20) * n_genes / N_GENES).astype(int)
    row = np.repeat(np.arange(len(kind)), total)
    cumulated = (frequency / frequency.sum(1, keepdims=True)).cumsum(1) + np.arange(N_TYPES)[:, None]
    gene = np.searchsorted(cumulated.ravel(), kind[row] + rng.random(len(row)) * (1 - 1e-12)) - kind[row] * n_genes
    key, count = np.unique(row * n_genes + np.minimum(gene, n_genes - 1), return_counts=True)
    lengths = np.bincount(key // n_genes, minlength=len(kind))
    return (key % n_genes).astype(np.int32), count.astype(np.float32), lengths


def simulate(path, n, seed=0, n_genes=N_GENES):
    """A .h5ad file of n cells, written in blocks of cells; with more genes, counts a cell grow alike."""
    rng = np.random.default_rng(seed)
    frequency = rng.gamma(0.5, 1.0, n_genes) * rng.gamma(0.8, 1.0, (N_TYPES, n_genes)) + 1e-3
    kind = np.sort(rng.integers(0, N_TYPES, n))
    with h5py.File(path, "w") as file:
        x = file.create_group("X")
        x.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": (n, n_genes)})
        for name, kind_of in (("data", np.float32), ("indices", np.int32)):
            x.create_dataset(name, (0,), kind_of, maxshape=(None,), chunks=(65536,))
        ends = [np.zeros(1, np.int64)]
        for start in range(0, n, BLOCK):
            indices, data, lengths = block(rng, frequency, kind[start : start + BLOCK])
            for name, values in (("data", data), ("indices", indices)):
                x[name].resize(len(x[name]) + len(values), 0)
                x[name][-len(values) :] = values
            ends.append(ends[-1][-1] + lengths.cumsum())
        x.create_dataset("indptr", data=np.concatenate(ends))
        obs = pd.DataFrame({"type": pd.Categorical.from_codes(kind, [f"type{i}" for i in range(N_TYPES)])})
        write_elem(file, "obs", obs.set_index("cell" + pd.Series(range(n)).astype(str).to_numpy()))
        write_elem(file, "var", pd.DataFrame(index=[f"gene{i}" for i in range(n_genes)]))
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    return int(ends[-1][-1]) / n


def as_zarr(path):
    """The file as a .zarr store, in its place."""
    store = path.with_suffix(".zarr")
    anndata.read_h5ad(path).write_zarr(store)
    path.unlink()
    return store


def measure(path, where, steps, workers):
    """One measurement, in this process."""
    import pytorch_lightning as pl

    import pyro_omics as po

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")

    class Clock(pl.Callback):
        rows, start, begun, seconds, processor = 0, 0.0, 0.0, 0.0, 0.0

        def on_train_batch_end(self, trainer, svi, outputs, batch, batch_idx):
            if batch_idx >= WARM:
                self.rows += len(batch.index)
            elif batch_idx == WARM - 1:
                self.start, self.begun = time.perf_counter(), time.process_time()
                return
            self.seconds, self.processor = time.perf_counter() - self.start, time.process_time() - self.begun

    start = time.perf_counter()
    dm = po.CellDataModule(path, backed=where == "disk", num_workers=workers)
    svi = po.SVIModule(po.SCVI.from_data(dm))
    setup, clock = time.perf_counter() - start, Clock()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        limit_train_batches=steps,
        limit_val_batches=0,
        enable_model_summary=False,
        callbacks=[clock],
        **options,
    ).fit(svi, dm)
    start, rows = time.perf_counter(), 0
    for i, batch in enumerate(dm.train_dataloader(), 1):
        rows += len(batch.index)
        if i == steps:
            break
    loader = rows / (time.perf_counter() - start)
    peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "setup": setup,
        "train": clock.rows / clock.seconds,
        "processor": clock.rows / clock.processor,
        "loader": loader,
        "peak": peak * 1024 / 1e9,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the files are written and removed; temporary by default")
    parser.add_argument("--out", default="runs/bench")
    parser.add_argument("--only", choices=("disk", "memory"))
    parser.add_argument("--zarr", action="store_true", help="a .zarr store in the place of the .h5ad file")
    parser.add_argument(
        "--measure", nargs=2, metavar=("WHERE", "PATH"), help="one measurement in this process, as JSON"
    )
    options = parser.parse_args()
    if options.measure:
        where, path = options.measure
        print(json.dumps(measure(path, where, options.steps, options.workers)))
        return
    if min(options.cells) < 5000 or options.steps <= WARM:
        parser.error(f"5,000 cells and {WARM + 1} steps are the least that is timed")
    row = "{:>9s} {:>7s} {:>9s} {:>12s} {:>14s} {:>12s} {:>8s}"
    print(row.format("cells", "", "setup s", "train rows/s", "rows/processor", "load rows/s", "peak GB"))
    kept = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for n in options.cells:
            path = Path(folder) / "cells.h5ad"
            per_cell = simulate(path, n)
            if options.zarr:
                path = as_zarr(path)
            found = {where: [] for where in ("disk", "memory") if options.only in (None, where)}
            for _ in range(options.repeats):
                for where, figures in found.items():
                    command = [sys.executable, __file__, "--measure", where, str(path)]
                    command += ["--steps", str(options.steps), "--workers", str(options.workers)]
                    ran = subprocess.run(
                        command,
                        check=True,
                        capture_output=True,
                        text=True,
                        env={"OMP_NUM_THREADS": "1", **os.environ},
                    )
                    figures.append(json.loads(ran.stdout.splitlines()[-1]))
            kept[n] = found
            for where, figures in found.items():
                middle = {name: statistics.median(one[name] for one in figures) for name in figures[0]}
                numbers = [f"{middle[name]:,.0f}" for name in ("train", "processor", "loader")]
                setup = f"{middle['setup']:.1f}"
                peak = f"{max(one['peak'] for one in figures):.2f}"
                print(row.format(f"{n:,}", where, setup, *numbers, peak), flush=True)
            if len(found) == 2:
                for name, what in (("train", "by the clock"), ("processor", "by processor time")):
                    pairs = [one[name] / other[name] for one, other in zip(*found.values(), strict=True)]
                    spread = f"{statistics.median(pairs):.2f} ({min(pairs):.2f}-{max(pairs):.2f})"
                    print(f"          training from disk / from memory, {what}: {spread}", flush=True)
            print(f"          {per_cell:.0f} non-zero counts a cell", flush=True)
            shutil.rmtree(path) if options.zarr else path.unlink()
    keep(options.out, "large_zarr" if options.zarr else "large", kept, steps=options.steps)


if __name__ == "__main__":
    main()
