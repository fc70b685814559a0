"""Simulated DNA-encoded libraries with known truth, from a selection experiment or from the model `HierarchicalDEL`."""

from __future__ import annotations

import itertools
import math
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

Truth = dict[str, pd.Series]
BINDER = math.log(2)  # a compound with a higher log_enrichment is a binder


def del_library(
    cycles: Sequence[int] = (20, 20, 20),
    depth: float = 3.0,
    n_target: int = 3,
    n_control: int = 2,
    n_pre: int = 0,
    n_competitor: int = 0,
    molecules: float = 30.0,
    pcr: float = 10.0,
    dropout: float = 0.01,
    seed: int = 0,
) -> tuple[AnnData, Truth]:
    r"""Simulate a selection of a split-and-pool library, from synthesis to sequencing.

    - Synthesis: building block i of a cycle has abundance LogNormal(0, 0.4) and yield y_i ~ Beta(12, 4). The
      molecules with a tag are the full product and the truncates that lack the cycles that failed. The molecules with
      the building blocks of the cycles S have the share w_S = prod_{S} y prod_{not S} (1 - y).
    - Selection: each product survives 1 + f times as often as the background, with f ~ Gamma(shape, shape / mean),
      which is 0 only by underflow. (shape, mean) is (0.1, 1) for truncates with one building block, (0.02, 0.5) for
      truncates with more, and (0.01, 0.3) for full products, of which 3% survive at least twice as often as the
      background, and the best 30 to 100 times. A compound's matrix binding m, (0.01, 0.1), acts with and without
      target. A competitor leaves a tenth of the truncates' binding, and a tenth of the binding of nine compounds in
      ten.
    - Bottleneck: Poisson(molecules) copies of a background tag remain, and copies of others in proportion.
    - PCR: copies are amplified by a factor of Gamma(pcr, pcr). Sequencing: reads are Poisson, in replicates whose
      depths span a factor of 5 around ``depth``, and a count is lost with probability ``dropout``.

    Parameters
    ----------
    cycles
        number of building blocks of each cycle.
    depth
        mean reads of a compound in a selection.
    n_target, n_control, n_pre, n_competitor
        number of samples of each condition.
    molecules
        mean copies of a background tag after selection.
    pcr
        inverse dispersion of the amplification.
    dropout
        probability that a count is lost.
    seed
        seed of all draws.

    Returns
    -------
    AnnData (counts in X, building blocks in obs, conditions in var), and the truth, name -> Series. By compound:
    ``log_enrichment`` = log(1 + f), natural log of the survival of the full product over the background;
    ``is_binder``, whether that is above log 2; ``truncates``, the sum of w_S f_S; ``matrix``, m; ``amount``, w of the
    full product; ``abundance``; and ``competed``, the share of its binding that a competitor leaves. By building block:
    ``yield_A``, ``effect_A``. By pair: ``effect_A_B``. And so on.

    Raises
    ------
    ValueError
        For fewer than two cycles or building blocks, no target selection, or numbers out of range.

    Source: Satz 2016, ACS Combinatorial Science 18, 415 (simulated selections); Komar and Kalinic 2020, ibid. 22, 410
    (truncates).
    """
    _check_selection(depth, n_target, molecules, pcr, dropout)
    rng = np.random.default_rng(seed)
    library = _Library(rng, cycles, lambda n: rng.lognormal(0, 0.4, n), lambda n: rng.beta(12, 4, n))
    for subset in library.truncates:
        prior = (0.1, 1.0) if len(subset) == 1 else (0.02, 0.5)
        library.effects[subset] = _sparse_gamma(rng, *prior, [cycles[i] for i in subset])
    own, matrix = _sparse_gamma(rng, 0.01, 0.3, cycles), _sparse_gamma(rng, 0.01, 0.1, cycles)
    competed = np.where(rng.random(tuple(cycles)) < 0.9, 0.1, 1.0)
    truncated, amount = library.truncated(), library.amount(library.full)
    survival = {
        "target": 1 + matrix + truncated + amount * own,
        "competitor": 1 + matrix + 0.1 * truncated + amount * own * competed,
        "control": 1 + matrix,
        "pre-selection": np.ones(tuple(cycles)),
    }
    numbers = {"target": n_target, "control": n_control, "pre-selection": n_pre, "competitor": n_competitor}
    columns, conditions = [], []
    for condition, number in numbers.items():
        for factor in _relative_depths(number):
            rate = library.abundance * survival[condition]
            copies = rate * 1e3 if condition == "pre-selection" else rng.poisson(molecules * rate)
            amplified = copies * rng.gamma(pcr, 1 / pcr, rate.shape)
            reads = rng.poisson(depth * factor * amplified / max(amplified.mean(), 1e-12))
            columns.append(reads * (rng.random(rate.shape) >= dropout))
            conditions.append(condition)
    truth = library.truth(own, matrix)
    truth["competed"] = pd.Series(competed.ravel(), index=truth["matrix"].index, name="competed")
    return library.adata(columns, conditions), truth


def del_from_prior(
    cycles: Sequence[int] = (20, 20, 20),
    depth: float = 3.0,
    n_target: int = 3,
    n_control: int = 2,
    n_pre: int = 0,
    shape: float = 0.3,
    mean: float = 1.0,
    theta: float = math.exp(2),
    seed: int = 0,
) -> tuple[AnnData, Truth]:
    """Simulate a library from the prior of `HierarchicalDEL`, with the defaults of its parts.

    Parameters
    ----------
    cycles, n_target, n_control, n_pre
        as in `del_library`.
    depth
        mean reads of a background compound; the depths of replicates span a factor of 5 around it.
    shape, mean
        shape and mean of every sparse Gamma: binding of compounds, of truncates and to the matrix.
    theta
        inverse dispersion of the counts; e^3 for counts from before the selection.
    seed
        seed of all draws.

    Returns
    -------
    As `del_library`, without ``competed``.

    Raises
    ------
    ValueError
        For fewer than two cycles or building blocks.
    """
    rng = np.random.default_rng(seed)
    library = _Library(rng, cycles, lambda n: rng.gamma(10, 0.1, n), lambda n: rng.beta(7, 3, n))
    for subset in library.truncates:
        library.effects[subset] = _sparse_gamma(rng, shape, mean, [cycles[i] for i in subset])
    own = _sparse_gamma(rng, shape, mean, cycles)
    matrix = _sparse_gamma(rng, shape, mean, cycles) if n_control else np.zeros(tuple(cycles))
    rates = {
        "target": 1 + matrix + library.truncated() + library.amount(library.full) * own,
        "control": 1 + matrix,
        "pre-selection": np.ones(tuple(cycles)),
    }
    columns, conditions = [], []
    for condition, number in {"target": n_target, "control": n_control, "pre-selection": n_pre}.items():
        noise = math.exp(3) if condition == "pre-selection" else theta
        for factor in _relative_depths(number):
            expected = depth * factor * library.abundance * rates[condition]
            columns.append(rng.poisson(expected * rng.gamma(noise, 1 / noise, expected.shape)))
            conditions.append(condition)
    return library.adata(columns, conditions), library.truth(own, matrix)


def _check_selection(depth: float, n_target: int, molecules: float, pcr: float, dropout: float) -> None:
    for name, value in (("depth", depth), ("n_target", n_target), ("molecules", molecules), ("pcr", pcr)):
        if not value > 0:
            raise ValueError(f"{name} must be above 0; got {value}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be a probability, in [0, 1); got {dropout}")


class _Library:
    """A synthesised library: abundances and yields of building blocks, and effects of truncates."""

    def __init__(self, rng: np.random.Generator, cycles: Sequence[int], abundance: Any, yields: Any) -> None:
        if len(cycles) < 2 or min(cycles) < 2:
            raise ValueError(f"cycles must have two entries or more, each of 2 building blocks or more; got {cycles}")
        self.cycles, self.names = tuple(cycles), string.ascii_uppercase[: len(cycles)]
        self.full = tuple(range(len(cycles)))
        self.factors = [abundance(n) for n in cycles]
        self.yields = [np.clip(yields(n), 1e-3, 1 - 1e-3) for n in cycles]
        self.truncates = [s for k in range(1, len(cycles)) for s in itertools.combinations(self.full, k)]
        self.effects: dict[tuple[int, ...], np.ndarray] = {}
        self.abundance = self._outer(self.factors)

    def _outer(self, vectors: Sequence[np.ndarray]) -> np.ndarray:
        product = np.ones(())
        for vector in vectors:
            product = np.multiply.outer(product, vector)
        return product

    def amount(self, subset: tuple[int, ...]) -> np.ndarray:
        return self._outer([y if i in subset else 1 - y for i, y in enumerate(self.yields)])

    def truncated(self) -> np.ndarray:
        total = np.zeros(self.cycles)
        for subset, effect in self.effects.items():
            shape = [n if i in subset else 1 for i, n in enumerate(self.cycles)]
            total += self.amount(subset) * effect.reshape(shape)
        return total

    def adata(self, columns: list[np.ndarray], conditions: list[str]) -> AnnData:
        codes = np.indices(self.cycles).reshape(len(self.cycles), -1)
        width = [len(str(n)) for n in self.cycles]
        blocks = {
            name: [f"{name}{code + 1:0{w}d}" for code in row]
            for name, row, w in zip(self.names, codes, width, strict=True)
        }
        index = ["-".join(parts) for parts in zip(*blocks.values(), strict=True)]
        var = pd.DataFrame({"condition": conditions})
        var["replicate"] = (var.groupby("condition").cumcount() + 1).astype(str)
        var.index = pd.Index(var["condition"] + "_" + var["replicate"])
        matrix = sp.csr_matrix(np.stack([column.ravel() for column in columns], 1), dtype=np.float32)
        return AnnData(matrix, obs=pd.DataFrame(blocks, index=index), var=var)

    def truth(self, own: np.ndarray, matrix: np.ndarray) -> Truth:
        obs = self.adata([np.zeros(self.cycles)], ["target"]).obs
        values = {
            "log_enrichment": np.log1p(own),
            "is_binder": np.log1p(own) > BINDER,
            "truncates": self.truncated(),
            "matrix": matrix,
            "amount": self.amount(self.full),
            "abundance": self.abundance,
        }
        truth = {name: pd.Series(value.ravel(), index=obs.index, name=name) for name, value in values.items()}
        levels = [list(dict.fromkeys(obs[name])) for name in self.names]
        for i, name in enumerate(self.names):
            truth[f"yield_{name}"] = pd.Series(self.yields[i], index=levels[i])
        for subset, effect in self.effects.items():
            key = "_".join(("effect", *(self.names[i] for i in subset)))
            index = pd.MultiIndex.from_product([levels[i] for i in subset]) if len(subset) > 1 else levels[subset[0]]
            truth[key] = pd.Series(effect.ravel(), index=index)
        return truth


def _sparse_gamma(rng: np.random.Generator, shape: float, mean: float, size: Sequence[int]) -> np.ndarray:
    return rng.gamma(shape, mean / shape, tuple(size))


def _relative_depths(number: int) -> np.ndarray:
    """Relative depths of replicates, with mean 1, from the lowest to five times that."""
    factors = np.geomspace(1, 5, number) if number > 1 else np.ones(number)
    return factors / factors.mean() if number else factors
