"""What ``pyro-omics del`` writes of a fit, and what it prints."""

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
from pyro_omics.posterior import Posterior
from pyro_omics.report import UNIT
from pyro_omics.tables import detectable, shortlist
from pyro_omics.version import __version__

SHOWN = 5


def tables(posterior: Posterior, fdr: float, threshold: float, seed: int) -> dict[str, pd.DataFrame]:
    """All tables, name -> table: the hit list, all compounds ranked, and building blocks, single and in pairs.

    Parameters
    ----------
    posterior
        of a DEL model.
    fdr
        Bayesian false discovery rate of the hit list.
    threshold
        natural log of the enrichment that counts.
    seed
        of the draws.

    Warns
    -----
    UserWarning
        Where the sequencing is too shallow for a list.
    """
    ranked = posterior.enrichment(threshold, seed=seed)
    hits = shortlist(ranked, fdr, detectable(posterior.dm))
    ranked = ranked.sort_values(["p_enriched", "log_enrichment"], ascending=False, kind="stable")
    compounds = _compounds(posterior.dm)
    return {
        "hits": pd.concat([compounds.loc[hits.index], hits], axis=1).rename_axis("compound"),
        "compounds": pd.concat([compounds.loc[ranked.index], ranked], axis=1).rename_axis("compound"),
        "synthons": posterior.synthons(seed=seed),
        "disynthons": _disynthons(posterior, seed),
    }


def _compounds(dm: Any) -> pd.DataFrame:
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
    for pair in itertools.combinations(posterior.schema["cycles"], 2):
        part = posterior.synthons(list(pair), seed=seed).rename_axis(["synthon_1", "synthon_2"])
        parts.append(pd.concat({pair: part}, names=["cycle_1", "cycle_2"]))
    order = ["cycle_1", "synthon_1", "cycle_2", "synthon_2"]
    return pd.concat(parts).reorder_levels(order).sort_values("log_enrichment", ascending=False)


def figures(posterior: Posterior, found: dict[str, pd.DataFrame], seed: int) -> dict[str, Figure]:
    """The figures, name of the file -> figure.

    Parameters
    ----------
    posterior
        of a DEL model.
    found
        what `tables` gives.
    seed
        of the predictions that the calibration is judged by.
    """
    adata, cycles = posterior.dm.adata, posterior.dm.cycles
    predicted = posterior.predictive(seed=seed)
    of_targets = predicted if isinstance(predicted, xr.DataArray) else predicted["x"]
    drawn = {
        "target_against_control.png": plots.target_against_control(adata, found["hits"]),
        "synthons.png": plots.synthon_forest(found["synthons"]),
        "replicates.png": plots.replicate_agreement(adata),
        "calibration.png": plots.calibration(adata, of_targets, seed=seed),
    }
    if len(cycles) <= 3:
        drawn["cube.png"] = plots.cube(adata, found["hits"], cycles)
    return drawn


def metrics(posterior: Posterior, found: dict[str, pd.DataFrame], curves: dict[str, list[float]]) -> dict[str, Any]:
    """The figures of metrics.json that the fit gives.

    Parameters
    ----------
    posterior
        of a DEL model.
    found
        what `tables` gives.
    curves
        what was logged in training.
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


def _selections(dm: Any) -> dict[str, int]:
    """How many selections there are of each condition."""
    return dm.adata.var["condition"].astype(str).value_counts(sort=False).to_dict()


class _Notes(logging.Handler):
    """Collects what the package's log says."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Take one message."""
        self.found.append(record.getMessage())


@contextmanager
def noting(notes: list[str]) -> Iterator[None]:
    """Say in plain words what the package logs and warns of, and keep it."""
    log, handler = logging.getLogger("pyro_omics"), _Notes()
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    # Other categories are of what the package is built on, and nothing that its user can mend.
    found = handler.found + [str(warning.message) for warning in caught if warning.category is UserWarning]
    for note in found:
        print(f"Note: {note}")
    notes += found


@contextmanager
def without_lightning() -> Iterator[None]:
    """Leave out what Lightning tells about devices, loaders and products."""
    log = logging.getLogger("pytorch_lightning")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning")
            yield
    finally:
        log.setLevel(level)


def print_selections(dm: Any) -> None:
    """Say what was read."""
    named = ", ".join(f"{n} {condition}" for condition, n in _selections(dm).items())
    blocks = " x ".join(str(len(dm.schema["levels"][cycle])) for cycle in dm.cycles)
    print(f"{dm.adata.n_obs:,} compounds of {blocks} building blocks; selections: {named}")


def print_hits(found: dict[str, pd.DataFrame], fdr: float, fold: float) -> None:
    """Say how many hits there are, and what the best compounds are."""
    n = len(found["hits"])
    print(f"\n{n:,} hits, more than {fold:g}-fold enriched, at a false discovery rate of {fdr:g}")
    if not n:
        print(
            "No compound stands out far enough. That is a result, not an error; the ranking of all compounds and the "
            "building blocks may still say where to look."
        )
    top = found["compounds"].head(SHOWN)
    bounds = zip(np.exp(top["lower"]), np.exp(top["upper"]), strict=True)
    shown = pd.DataFrame(
        {
            "fold": [f"{value:.3g}" for value in np.exp(top["median"])],
            "90% interval": [f"{lower:.3g} to {upper:.3g}" for lower, upper in bounds],
            f"P(fold > {fold:g})": [f"{p:.3f}" for p in top["p_enriched"]],
        },
        index=top.index.rename(None),
    )
    print(f"The first {len(top)} of the ranking:\n{shown.to_string()}")
