"""HierarchicalDEL against deldenoiser on libraries in deldenoiser's own generative style.

deldenoiser is given the true yields, and we are not. It runs as a command, from an environment of its own:
python -m venv rival && rival/bin/pip install deldenoiser "pandas<2" "numpy<2"

python benchmarks/del_truth.py --deldenoiser rival/bin/deldenoiser [--seeds 0 1 2 3 4] [--published]
"""

import argparse
import itertools
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from del_fit import average_precisions, fit
from sklearn.metrics import average_precision_score

import pyro_omics as po

SIZES, READS = (20, 20, 20), 80_000


def survival(log10_k):
    return (1 + 1 / (1e-6 * 10**log10_k)) ** -3


def simulate(seed):
    """One library: counts before and after selection, the yields, and each full product's survival."""
    rng = np.random.default_rng(seed)
    yields = [rng.normal(0.72, 0.06, n).clip(0.4, 0.95) for n in SIZES]
    abundance = [rng.lognormal(0, 0.2, n) for n in SIZES]
    outer = lambda vectors: np.einsum("a,b,c->abc", *vectors)  # noqa: E731
    tags = outer(abundance)
    total, own = np.zeros(SIZES), None
    for worked in itertools.product((0, 1), repeat=3):
        if any(worked):
            shape = [n if w else 1 for n, w in zip(SIZES, worked, strict=True)]
            own = survival(2 + np.abs(rng.normal(0, 1.5, shape)))  # the last is the full product's
            total += outer([y if w else 1 - y for y, w in zip(yields, worked, strict=True)]) * own
    pre = rng.poisson(READS * tags / tags.sum())
    post = rng.poisson(READS * tags * total / (tags * total).sum())
    return table(pre, post, yields, own.ravel())


def table(pre, post, yields, own):
    codes = np.indices(SIZES).reshape(3, -1)
    names = [[f"{i + 1:02d}" for i in row] for row in codes]
    obs = pd.DataFrame(
        dict(zip("ABC", names, strict=True)), index=["-".join(name) for name in zip(*names, strict=True)]
    )
    for i, cycle in enumerate("ABC"):
        obs[f"yield_{cycle}"] = yields[i][codes[i]]
    obs["survival_rate"] = own
    var = pd.DataFrame({"condition": ["pre-selection", "target"]}, index=["pre", "post"])
    return AnnData(sp.csr_matrix(np.stack([pre.ravel(), post.ravel()], 1).astype(np.float32)), obs=obs, var=var)


def deldenoiser(command, adata):
    """The rival's fitness of each compound, given the true yields."""
    codes = adata.obs[["A", "B", "C"]].astype(str).apply(lambda column: column.astype(int)).to_numpy()
    counts = pd.DataFrame(codes, columns=[f"cycle_{i}_lane" for i in (1, 2, 3)])
    with tempfile.TemporaryDirectory() as folder:
        path = {name: f"{folder}/{name}.tsv.gz" for name in ("design", "yields", "pre-selection", "target")}
        write = {"sep": "\t", "index": False}
        pd.DataFrame({"cycle": [1, 2, 3], "lanes": codes.max(0)}).to_csv(path["design"], **write)
        pd.concat(
            pd.DataFrame({"cycle": i + 1, "lane": codes[:, i], "yield": adata.obs[f"yield_{cycle}"].to_numpy()})
            for i, cycle in enumerate("ABC")
        ).drop_duplicates().to_csv(path["yields"], **write)
        for condition in ("pre-selection", "target"):
            column = adata[:, adata.var["condition"] == condition].X.toarray().ravel().astype(int)
            counts.assign(readcount=column).to_csv(path[condition], **write)
        arguments = {
            "design": path["design"],
            "yields": path["yields"],
            "preselection_readcount": path["pre-selection"],
            "postselection_readcount": path["target"],
            "output_prefix": f"{folder}/out",
            "parallel_processes": "1",
        }
        flags = [part for name, value in arguments.items() for part in (f"--{name}", value)]
        subprocess.run([command, *flags], check=True, capture_output=True)
        found = pd.read_csv(next(Path(folder).glob("out_fullcycle*")), sep="\t")
    keys = list(counts.columns)
    joined = counts.merge(found[[*keys, "fitness"]], how="left", on=keys)
    return joined["fitness"].fillna(0).to_numpy()


def line_median_z(adata):
    """Each count against the largest median of the lines through it, on which two building blocks are the same."""
    x = adata[:, "post" if "post" in adata.var_names else "target_1"].X.toarray().reshape(SIZES)
    expected = np.max([np.median(x, axis, keepdims=True) * np.ones(SIZES) for axis in range(3)], axis=0)
    return ((x - expected) / np.sqrt(expected + 1)).ravel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--deldenoiser", default="deldenoiser")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--published", action="store_true", help="the published 20 x 20 x 20 example instead")
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()
    libraries = {"published": po.datasets.deldenoiser_20x20x20} if args.published else {}
    libraries |= {} if args.published else {f"seed={seed}": (lambda seed=seed: simulate(seed)) for seed in args.seeds}
    rows = []
    for name, make in libraries.items():
        adata = make()
        own = adata.obs["survival_rate"]
        binder = own >= own.quantile(0.99)
        _, enrichment, seconds = fit(adata, args.epochs)
        rows.append(
            {
                **average_precisions(enrichment, adata, binder),
                "line_median": average_precision_score(binder, line_median_z(adata)),
                "deldenoiser": average_precision_score(binder, deldenoiser(args.deldenoiser, adata)),
                "seconds": seconds["fit"],
            }
        )
        print(name, *(f"{key}={value:.4f}" for key, value in rows[-1].items()), flush=True)
    print("RESULT mean", *(f"{key}={value:.4f}" for key, value in pd.DataFrame(rows).mean().items()))
