"""Likelihoods of rows of counts, forward and backward: the plain forms beside the kernels.

    python benchmarks/kernels.py [--repeats 21] [--threads 1]

Milliseconds of ``log_prob(x).sum()`` and its gradient by every parameter, for simulated counts of scVI's and totalVI's
shapes, and of a whole scVI step (ELBO, gradient, ClippedAdam). The two forms take turns; the figures are medians over
the turns, and the ratio's quartiles are of ratios within a turn."""

import argparse
import statistics
import time

import pyro
import torch
from paired import keep

import pyro_omics as po
from pyro_omics import distributions as counts
from pyro_omics import kernels


def cases():
    """Name -> (rows, columns, share of zeros that is aimed at, parameters -> distribution, their names)."""
    zinb, nb = counts.ZeroInflatedNegativeBinomial, counts.NegativeBinomial
    return {
        "scVI, ZINB": (128, 4000, 0.91, zinb, ("mu", "theta", "logits")),
        "scVI, ZINB, theta of a cell": (128, 4000, 0.91, zinb, ("mu", "theta_ng", "logits")),
        "scVI, ZINB, 70% zeros": (128, 4000, 0.70, zinb, ("mu", "theta", "logits")),
        "scVI, NB": (128, 4000, 0.91, nb, ("mu", "theta")),
        "scVI, ZIP": (128, 4000, 0.91, counts.ZeroInflatedPoisson, ("mu", "logits")),
        "scVI, Poisson": (128, 4000, 0.91, counts.Poisson, ("mu",)),
        "totalVI, RNA, NB": (256, 4000, 0.91, nb, ("mu", "theta")),
        "totalVI, proteins, mixture": (256, 14, 0.1, counts.NegativeBinomialMixture, ("mu", "high", "theta", "logits")),
        "DEL, ZIP": (256, 6, 0.4, counts.ZeroInflatedPoisson, ("mu", "logits")),
    }


def simulated(n, g, zeros, family, names):
    """Parameters with gradient, and counts with about that share of zeros, of genes as different as real ones."""
    torch.manual_seed(0)
    relative = torch.exp(1.5 * torch.randn(g)) * torch.exp(0.3 * torch.randn(n, 1))
    drawn = {"theta": torch.exp(torch.randn(g)), "theta_ng": torch.exp(torch.randn(n, g))}
    drawn["logits"] = torch.randn(n, g) - 2
    low, high = -12.0, 8.0  # bisect the mean's scale
    for _ in range(20):
        scale = (low + high) / 2
        drawn["mu"] = relative * torch.exp(torch.tensor(scale))
        drawn["high"] = 5 * drawn["mu"]
        x = family(*(drawn[name] for name in names)).sample()
        low, high = (scale, high) if (x == 0).float().mean() > zeros else (low, scale)
    return [drawn[name].clone().requires_grad_() for name in names], x


def likelihood_run(n, g, zeros, family, names):
    """A run of log_prob and gradient, and the share of zeros that there is."""
    values, x = simulated(n, g, zeros, family, names)

    def run():
        log_prob = family(*values, validate_args=False).to_event(1).log_prob(x)
        torch.autograd.grad(log_prob.sum(), values)

    return run, (x == 0).float().mean().item()


def step_run(n=128, g=4000):
    """A run of a whole training step of scVI's defaults."""
    _, x = simulated(n, g, 0.91, counts.ZeroInflatedNegativeBinomial, ("mu", "theta", "logits"))
    sizes = po.sizes.Sizes(n_obs=n, n_genes=g)
    svi = po.SVIModule(po.SCVI(sizes)).train()
    batch = sizes.example_batch()._replace(x=x, row=torch.arange(n))
    batch = batch._replace(index=batch.row, size_factor=None)
    optimizer = svi.configure_optimizers()

    def run():
        optimizer.zero_grad(set_to_none=True)
        with pyro.validation_enabled(False):
            svi(batch).backward()
        optimizer.step()

    return run, (x == 0).float().mean().item()


def alternate(run, repeats):
    """Milliseconds of the plain form and of the kernel, by turn."""
    times = []
    for turn in range(repeats + 2):
        pair = []
        for plain in (True, False):
            start = time.perf_counter()
            if plain:
                with kernels.reference():
                    run()
            else:
                run()
            pair.append(1e3 * (time.perf_counter() - start))
        if turn > 1:  # the first two warm up
            times.append(pair)
    return times


def summary(times):
    """Medians of both, of their ratio, and the ratio's quartiles."""
    plain, fast = (statistics.median(column) for column in zip(*times, strict=True))
    first, middle, third = statistics.quantiles([fast / plain for plain, fast in times], n=4)
    return {"plain_ms": plain, "kernel_ms": fast, "ratio": middle, "quartiles": [first, third]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="cases whose name contains this")
    parser.add_argument("--out", default="runs/bench")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs = {name: lambda case=case: likelihood_run(*case) for name, case in cases().items()}
    runs["scVI, whole step"] = step_run
    results = {}
    print(f"{options.threads} threads, torch {torch.__version__}, medians of {options.repeats} turns")
    print(f"{'':30s} {'zeros':>6s} {'plain ms':>9s} {'kernel ms':>9s} {'ratio':>6s}  quartiles")
    for name, make in runs.items():
        if options.only and options.only not in name:
            continue
        run, zeros = make()
        results[name] = {"zeros": zeros, **summary(alternate(run, options.repeats))}
        r = results[name]
        spread = "-".join(f"{q:.2f}" for q in r["quartiles"])
        print(f"{name:30s} {zeros:6.0%} {r['plain_ms']:9.2f} {r['kernel_ms']:9.2f} {r['ratio']:6.2f}  {spread}")
    keep(options.out, "kernels", results, threads=options.threads)


if __name__ == "__main__":
    main()
