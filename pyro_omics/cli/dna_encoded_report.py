"""Tables, figures, metrics and printed summary of ``pyro-omics del``."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from pyro_omics import plots
from pyro_omics.data.dna_encoded.module import DELDataModule
from pyro_omics.evaluation.report import UNIT
from pyro_omics.lightning import pl
from pyro_omics.posterior import Posterior
from pyro_omics.posterior.enrichment import detectable, shortlist
from pyro_omics.version import __version__

N_SHOWN = 5  # number of compounds that are printed
RATE_NOTE = (
    "That rate is the model's own expectation: it held in libraries drawn from the model's prior, and was exceeded in "
    "selections simulated by other mechanisms, by most without controls."
)
MATRIX_NOTE = "Note: there are no control selections, so that compounds that bind the matrix count as hits."


def tables(posterior: Posterior, fdr: float, threshold: float, seed: int) -> dict[str, pd.DataFrame]:
    """All tables, name -> table: the hit list, all compounds ranked, building blocks and pairs of building blocks.

    Tables of compounds have the columns of `Posterior.enrichment`, in natural logs, and ``fold``, ``fold_lower`` and
    ``fold_upper``: exp of ``median``, ``lower`` and ``upper``, multiples of the library's background. ``ratio``, of
    target to control counts, is infinite where the controls have no count.

    Parameters
    ----------
    posterior
        posterior of a DEL model.
    fdr
        Bayesian false discovery rate of the hit list, in (0, 1).
    threshold
        natural log of the enrichment that a hit must exceed.
    seed
        seed of the draws.

    Warns
    -----
    UserWarning
        Where the sequencing is too shallow for a hit list.
    """
    ranked = posterior.enrichment(threshold, seed=seed)
    hits = shortlist(ranked, fdr, detectable(posterior.dm))
    ranked = ranked.sort_values(["p_enriched", "log_enrichment"], ascending=False, kind="stable")
    compounds = _compounds(posterior.dm)
    return {
        "hits": _join(compounds, hits),
        "compounds": _join(compounds, ranked),
        "synthons": posterior.synthons(seed=seed),
        "disynthons": _disynthons(posterior, seed),
    }


def _join(compounds: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Columns of the compounds, their enrichment in folds, and the columns of the table, in the table's order."""
    logs = {"fold": "median", "fold_lower": "lower", "fold_upper": "upper"}
    folds = pd.DataFrame({name: np.exp(table[log]) for name, log in logs.items()})
    return pd.concat([compounds.loc[table.index], folds, table], axis=1).rename_axis("compound")


def _compounds(dm: DELDataModule) -> pd.DataFrame:
    """Each compound's building blocks, SMILES where there are any, and counts by condition."""
    adata, smiles = dm.adata, [name for name in ("smiles",) if name in dm.adata.obs]
    table = adata.obs[[*dm.cycles, *smiles]].copy()
    condition = adata.var["condition"].astype(str)
    for name in dict.fromkeys(condition):
        total = adata.X[:, (condition == name).to_numpy()].sum(axis=1, dtype=np.float64)
        table[f"counts_{name}"] = np.asarray(total).ravel().astype(np.int64)
    return table


def _disynthons(posterior: Posterior, seed: int) -> pd.DataFrame:
    """The pairs of building blocks of every two cycles, best first."""
    parts = []
    for pair in itertools.combinations(posterior.dm.cycles, 2):
        part = posterior.synthons(list(pair), seed=seed).rename_axis(["synthon_1", "synthon_2"])
        parts.append(pd.concat({pair: part}, names=["cycle_1", "cycle_2"]))
    order = ["cycle_1", "synthon_1", "cycle_2", "synthon_2"]
    return pd.concat(parts).reorder_levels(order).sort_values("log_enrichment", ascending=False)


def figures(posterior: Posterior, found: dict[str, pd.DataFrame], seed: int) -> dict[str, Figure]:
    """The figures, file name -> figure.

    Parameters
    ----------
    posterior
        posterior of a DEL model.
    found
        tables that `tables` returns.
    seed
        seed of the predictions in the calibration figure.
    """
    adata, cycles = posterior.dm.adata, posterior.dm.cycles
    predicted = posterior.predictive(seed=seed)
    of_targets = predicted if isinstance(predicted, xr.DataArray) else predicted["x"]
    drawn = {
        "target_against_control.png": plots.target_against_control(adata, found["hits"]),
        "synthons.png": plots.synthon_forest(found["synthons"]),
        "calibration.png": plots.calibration(adata, of_targets, seed=seed),
    }
    if _selections(posterior.dm)["target"] > 1:
        drawn["replicates.png"] = plots.replicate_agreement(adata)
    if len(cycles) <= 3:
        drawn["cube.png"] = plots.cube(adata, found["hits"], cycles)
    return drawn


def metrics(posterior: Posterior, found: dict[str, pd.DataFrame], curves: dict[str, list[float]]) -> dict[str, Any]:
    """The entries of metrics.json that describe the fit.

    Parameters
    ----------
    posterior
        posterior of a DEL model.
    found
        tables that `tables` returns.
    curves
        ELBOs that were logged in training: name -> value after each epoch.
    """
    return {
        "n_compounds": posterior.dm.adata.n_obs,
        "selections": _selections(posterior.dm),
        "n_hits": len(found["hits"]),
        "detectable_fold": detectable(posterior.dm),
        **{name: values[-1] for name, values in curves.items()},
        "unit": UNIT,
        "model": type(posterior.model).__name__,
        "pyro_omics": __version__,
    }


def _selections(dm: DELDataModule) -> dict[str, int]:
    """Number of selections of each condition."""
    return dm.adata.var["condition"].astype(str).value_counts(sort=False).to_dict()


@contextmanager
def without_lightning_messages() -> Iterator[None]:
    """Suppress Lightning's messages about devices, loaders and products."""
    log = logging.getLogger(pl.__name__)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=pl.__name__)
            yield
    finally:
        log.setLevel(level)


def print_selections(dm: DELDataModule) -> None:
    """Print the size of the library and its selections."""
    named = ", ".join(f"{n} {condition}" for condition, n in _selections(dm).items())
    blocks = " x ".join(str(len(synthons)) for synthons in dm.schema.synthons)
    print(f"{dm.adata.n_obs:,} compounds of {blocks} building blocks; selections: {named}")


def print_hits(found: dict[str, pd.DataFrame], fdr: float, fold: float, controls: bool) -> None:
    """Print the number of hits, what their false discovery rate means, and the best compounds.

    Parameters
    ----------
    found
        tables that `tables` returns.
    fdr, fold
        false discovery rate and fold enrichment of the hit list.
    controls
        whether there are control selections.
    """
    n = len(found["hits"])
    print(f"\n{n:,} hits, more than {fold:g}-fold enriched, at a false discovery rate of {fdr:g}")
    print(RATE_NOTE if controls else f"{RATE_NOTE}\n{MATRIX_NOTE}")
    if not n:
        print(
            "No compound stands out far enough. That is a result, not an error; the ranking of all compounds and the "
            "building blocks may still show where to look."
        )
    top = found["compounds"].head(N_SHOWN)
    bounds = zip(np.exp(top["lower"]), np.exp(top["upper"]), strict=True)
    shown = pd.DataFrame(
        {
            "fold": [f"{value:.3g}" for value in np.exp(top["median"])],
            "90% interval": [f"{lower:.3g} to {upper:.3g}" for lower, upper in bounds],
            f"P(fold > {fold:g})": [f"{p:.3f}" for p in top["p_enriched"]],
        },
        index=top.index.rename(None),
    )
    print(
        f"The first {len(top)} of the ranking (folds are multiples of the library's background; in the tables "
        f"log_enrichment, median, lower and upper are natural logs):\n{shown.to_string()}"
    )
