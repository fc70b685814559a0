"""Calibration of a model's posterior predictive distribution."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from anndata import AnnData
from matplotlib.figure import Figure
from scipy import stats

from pyro_omics.data.anndata_io.loaded import LoadedCounts

COVERAGE = 0.95
BAND = f"{COVERAGE:.0%} if the predictions had not seen these counts;\nones that have are more central"


def calibration(
    observed: AnnData, draws: xr.DataArray, bins: int = 20, seed: int = 0, layer: str | None = None
) -> Figure:
    r"""Histogram of the randomised probability integral transform of counts, one line for each selection.

    .. math:: u_{nr} = \frac{\#\{s : x^s_{nr} < x_{nr}\} + v_{nr} \, (\#\{s : x^s_{nr} = x_{nr}\} + 1)}{S + 1},
        \quad v_{nr} \sim \mathrm{Uniform}(0, 1)

    with x the observed counts and x^s their S draws. u is the randomised rank of x among S + 1 counts: if all of them
    come from the same distribution, u is uniform, for any S and with ties. All bars of a histogram of independent u lie
    within the band with a probability of 95% (binomial intervals, Bonferroni over the bars).

    A slope shows that counts are predicted too high (higher bars on the left) or too low (on the right); a U, that the
    predictions are too narrow; a hump, that they are too wide. The band holds for predictions of counts that the model
    was not fitted to. For a fit to the same counts, u is more central than uniform: some hump is then to be expected,
    and a histogram within the band is a weaker test. Where most counts, observed and predicted, are 0, v alone makes u
    nearly uniform. Then select rows with high counts,
    ``calibration(adata[rows], draws.sel(obs=adata.obs_names[rows]))``, by anything but these counts.

    Parameters
    ----------
    observed
        AnnData with the counts, in X or in ``layer``.
    draws
        predictive draws of these counts, (sample, obs, selection), as ``Posterior.predictive()`` returns them; they are
        matched to ``observed`` by name. For a model with several sites pass one, ``Posterior.predictive()["x"]``.
    bins
        number of bars.
    seed
        seed of v.
    layer
        the layer with the counts; None for X.

    Raises
    ------
    TypeError
        For draws that are not a DataArray.
    ValueError
        Where X, or the layer, does not hold counts; for draws without those dimensions or names, and for names that are
        not in ``observed``.

    Source: Czado, Gneiting and Held 2009, Biometrics 65, 1254 (randomised transform of counts); Talts et al. 2018,
    arXiv:1804.06788 (ranks among draws).
    """
    if not isinstance(draws, xr.DataArray):
        raise TypeError(
            f"draws must be a DataArray; got a {type(draws).__name__}: of several sites pass one, draws['x']"
        )
    if bins < 2:
        raise ValueError(f"bins must be a number of bars, 2 or more; got {bins}")
    names, x_nr = _observed(observed, draws, layer)
    rng = np.random.default_rng(seed)
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for r, name in enumerate(names):
        u_n = _transform(x_nr[:, r], draws.values[:, :, r], rng)
        number, edges = np.histogram(u_n, bins, (0.0, 1.0))
        axes.stairs(number * bins / len(u_n), edges, label=name)
    axes.axhspan(*_band(len(x_nr), bins), color="0.9", zorder=0, label=BAND)
    axes.axhline(1, color="0.6", linewidth=1, zorder=1)
    axes.set(xlabel="rank of the observed count among its predictions", ylabel="density", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="lower left")
    return figure


def _observed(observed: AnnData, draws: xr.DataArray, layer: str | None) -> tuple[list[str], np.ndarray]:
    """The names of the selections drawn, and their counts (n, r)."""
    if draws.ndim != 3 or draws.dims[:2] != ("sample", "obs"):
        raise ValueError(f"draws must have the dimensions (sample, obs, selection); got {draws.dims}")
    for axis in draws.dims[1:]:
        if axis not in draws.coords:
            raise ValueError(f"draws must have names along {axis!r}; got none: pass Posterior.predictive()")
    rows, columns = (draws.coords[axis].values for axis in draws.dims[1:])
    for known, names in ((observed.obs_names, rows), (observed.var_names, columns)):
        if (unknown := known.get_indexer(names) < 0).any():
            raise ValueError(
                f"draws must have names that are in observed; got {str(names[unknown][0])!r}: pass the predicted data"
            )
    at = observed.obs_names.get_indexer(rows), observed.var_names.get_indexer(columns)
    counts = LoadedCounts(observed, layer, "rows", "columns")
    counts.check()
    found = counts.matrix(at[1]).rows(torch.from_numpy(at[0]))
    return [str(name) for name in columns], found.numpy()


def _transform(x_n: np.ndarray, draws_sn: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    below, tied = (draws_sn < x_n).sum(0), (draws_sn == x_n).sum(0)
    return (below + rng.random(len(x_n)) * (tied + 1)) / (len(draws_sn) + 1)


def _band(n: int, bins: int) -> tuple[float, float]:
    """The densities between which all bars of a histogram of n uniform numbers lie with probability `COVERAGE`."""
    tail = (1 - COVERAGE) / bins / 2
    lower, upper = stats.binom.ppf([tail, 1 - tail], n, 1 / bins) * bins / n
    return float(lower), float(upper)
