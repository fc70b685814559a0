"""What Pyro and Lightning cost: ms per training step of scVI beside a hand-written torch loop of the same mathematics.

    OMP_NUM_THREADS=1 python benchmarks/overhead.py [--genes 50 4000] [--cells 128] [--steps 50] [--rounds 9]

Each way of training takes its epochs in turn, in one process, so that a busy machine slows all of them alike. The rows
are what each way adds to the one before it: the hand-written loop (torch modules and no Pyro; this package's kernels:
likelihood, first product, dropout, Adam; batches of the same dataset), the ELBO of the Pyro programs in it, the
`SVIModule`'s training step with the model's optimizer, and the whole of it under Lightning's Trainer. Counts are
simulated: what they are does not matter here."""

import argparse
import statistics
import time
import warnings

import numpy as np
import pytorch_lightning as pl
import torch
from anndata import AnnData
from paired import keep
from torch import nn

import pyro_omics as po
from pyro_omics.layers import Dropout
from pyro_omics.optim import ClippedAdam

clock = time.perf_counter
QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
HAND, PYRO, STEP, WHOLE = "hand-written torch loop", "Pyro's programs and ELBO", "SVIModule and optimizer", "Lightning"


def data(n_cells, n_genes, batch_size):
    """Negative-binomial counts, about nine in ten of them 0."""
    rng = np.random.default_rng(0)
    frequency = rng.dirichlet(np.full(n_genes, 0.3))
    mean = rng.gamma(0.5, 2.0, (n_cells, n_genes)) * frequency * 0.25 * n_genes
    adata = AnnData(rng.poisson(mean).astype(np.float32))
    return po.CellDataModule(adata, batch_size=batch_size, validation_size=0.0)


class Hand(nn.Module):
    """scVI by hand: encoder, decoder and theta, and the ELBO with one draw of z."""

    def __init__(self, n_genes, n_hidden=128, n_latent=10):
        super().__init__()
        hidden = {"momentum": 0.01, "eps": 1e-3}
        self.encoder = nn.Sequential(
            po.layers.SparseLinear(n_genes, n_hidden), nn.BatchNorm1d(n_hidden, **hidden), nn.ReLU(), Dropout(0.1)
        )
        self.loc, self.log_var = nn.Linear(n_hidden, n_latent), nn.Linear(n_hidden, n_latent)
        self.decoder = nn.Sequential(nn.Linear(n_latent, n_hidden), nn.BatchNorm1d(n_hidden, **hidden), nn.ReLU())
        self.rho, self.dropout_logits = nn.Linear(n_hidden, n_genes), nn.Linear(n_hidden, n_genes)
        self.log_theta = nn.Parameter(torch.randn(n_genes))

    def forward(self, x):
        """The negative ELBO of a cell, in nats."""
        h = self.encoder(po.layers.log_counts(x))
        mu, var = self.loc(h), self.log_var(h).exp() + 1e-4
        d = self.decoder(mu + var.sqrt() * torch.randn_like(mu))
        mean = x.sum(-1, keepdim=True) * torch.softmax(self.rho(d), -1)
        counts = po.distributions.ZeroInflatedNegativeBinomial(
            mean, self.log_theta.exp(), self.dropout_logits(d), validate_args=False
        ).to_event(1)
        kl = 0.5 * (mu.square() + var - var.log() - 1).sum(-1)
        return -(counts.log_prob(x) - kl).mean()


def epoch(loader, loss_of, optimizer):
    """Seconds of an epoch of a hand-written loop."""
    start = clock()
    for batch in loader:
        optimizer.zero_grad()
        loss_of(batch).backward()
        optimizer.step()
    return clock() - start


class Alternate(pl.Callback):
    """Lightning's epochs, timed, with one of each other way between."""

    def __init__(self, others):
        self.others, self.seconds = others, {name: [] for name in (*others, WHOLE)}

    def on_train_epoch_start(self, trainer, svi):
        self.start = clock()

    def on_train_epoch_end(self, trainer, svi):
        self.seconds[WHOLE].append(clock() - self.start)
        for name, run in self.others.items():
            self.seconds[name].append(run())


def measure(n_genes, cells, steps, rounds, warmup):
    """Milliseconds per step, name -> one number a round."""
    dm = data(cells * steps, n_genes, cells)
    loader, model = dm.train_dataloader(), po.SCVI.from_data
    hand = Hand(n_genes)
    hand_adam = ClippedAdam(hand.parameters(), eps=0.01)
    pair = po.SVIModule(model(dm)).elbo
    pair_adam = ClippedAdam(pair.parameters(), eps=0.01)
    stepped = po.SVIModule(model(dm))
    stepped.log = lambda *_, **__: None
    stepped_optimizer = stepped.configure_optimizers()

    def pyro_loss(batch):
        with torch.autograd.set_detect_anomaly(False), po.inference.svi_module.pyro.validation_enabled(False):
            return pair(batch) / dm.n_obs

    callback = Alternate({
        HAND: lambda: epoch(loader, lambda batch: hand(batch.x), hand_adam),
        PYRO: lambda: epoch(loader, pyro_loss, pair_adam),
        STEP: lambda: epoch(loader, lambda batch: stepped.training_step(batch, 0), stepped_optimizer),
    })  # fmt: skip
    svi = po.SVIModule(model(dm), kl_warmup_epochs=warmup)
    trainer = pl.Trainer(max_epochs=rounds + 2, accelerator="cpu", callbacks=[callback], **QUIET)
    trainer.fit(svi, dm)
    return {name: [1e3 * s / steps for s in seconds[2:]] for name, seconds in callback.seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--genes", type=int, nargs="+", default=[50, 4000])
    parser.add_argument("--cells", type=int, default=128, help="of a minibatch")
    parser.add_argument("--steps", type=int, default=50, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=9, help="epochs that count; two more come before them")
    parser.add_argument("--warmup", type=int, default=0, help="epochs of KL warm-up, which cost more")
    parser.add_argument("--out", default="runs/bench")
    parser.add_argument("--cpu", action="store_true", help="count processor time, on a machine that others use too")
    options = parser.parse_args()
    if options.cpu:
        global clock
        clock = time.process_time
    warnings.filterwarnings("ignore", category=UserWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    print(
        f"{torch.get_num_threads()} thread(s), {options.cells} cells, medians of {options.rounds} alternating epochs, "
        f"{'processor' if options.cpu else 'wall'} time"
    )
    row = "{:28s} {:>12s} {:>17s} {:>14s} {:>14s}"
    found = {}
    for n_genes in options.genes:
        print(row.format(f"{n_genes} genes", "ms per step", "range", "above before", "above hand"))
        seconds = measure(n_genes, options.cells, options.steps, options.rounds, options.warmup)
        found[n_genes], before = seconds, None
        for name in (HAND, PYRO, STEP, WHOLE):
            ms = seconds[name]
            # Differences within a round, and their median: what slows the machine for a while slows both.
            above = statistics.median(a - b for a, b in zip(ms, seconds[before or name], strict=True))
            hand = statistics.median(a - b for a, b in zip(ms, seconds[HAND], strict=True))
            spread = f"{min(ms):.2f} .. {max(ms):.2f}"
            print(row.format(name, f"{statistics.median(ms):.2f}", spread, f"{above:+.2f}", f"{hand:+.2f}"))
            before = name
    keep(options.out, "overhead", found, threads=torch.get_num_threads(), steps=options.steps)


if __name__ == "__main__":
    main()
