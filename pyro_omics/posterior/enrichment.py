"""Tables over a `Posterior` for any model that can be asked for a log enrichment: compounds, hits and synthons."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from pyro import poutine
from scipy import stats

from pyro_omics import baselines
from pyro_omics.inference.draws import drawing
from pyro_omics.posterior.intervals import check_draws
from pyro_omics.sites import latent_values

if TYPE_CHECKING:
    from pyro_omics.posterior import Posterior

DOUBLED = math.log(2)
INTERVAL = (0.05, 0.95)
FAR = 10.0  # a fold enrichment that a selection should find


def enrichment(
    posterior: Posterior, threshold: float = DOUBLED, num_samples: int = 100, split: str = "all", seed: int = 0
) -> pd.DataFrame:
    """What is known of each compound's enrichment, in AnnData's order.

    ``log_enrichment`` is the natural log of the compound's own survival of the selection over the library's background,
    without truncated products that carry its tag and without matrix binding: 0 is the background.

    Parameters
    ----------
    posterior
        of a DEL model.
    threshold
        natural log of the enrichment that counts; the default is twofold.
    num_samples
        draws from the posterior that the columns summarise.
    split
        which rows.
    seed
        of the draws.

    Returns
    -------
    (n, ...) DataFrame: the posterior of log_enrichment by its mean (``log_enrichment``), ``median`` and equal-tailed
    90% interval (``lower``, ``upper``); ``p_enriched``, the probability that it exceeds the threshold; ``log_tag``, the
    mean log of all that carries the tag and binds the target over the background, where truncates are modelled;
    ``p_matrix``, the probability that matrix binding alone exceeds the threshold, where there are controls; and the
    classical scores ``z_score``, ``poly_o``, ``ratio`` and ``ratio_lower`` (see `baselines`). A model without latents
    gives points for intervals, and 0 or 1 for probabilities.
    """
    check_draws("num_samples", num_samples)
    queries = [name for name in _COLUMNS if name in posterior.model.queries]
    if not posterior.schema["controls"]:
        queries = [name for name in queries if name != "matrix_binding"]
    parts: list[pd.DataFrame] = []
    for batch, draws in _answers(posterior, queries, threshold, num_samples, split, seed):
        parts.append(_summary({name: value.squeeze(-1).cpu().numpy() for name, value in draws.items()}, threshold))
        del batch
    table = pd.concat(parts, ignore_index=True)
    table.index = posterior._names(split)
    scores = classical_scores(posterior.dm).loc[table.index]
    return pd.concat([table, scores], axis=1)


def hits(
    posterior: Posterior,
    fdr: float = 0.1,
    threshold: float = DOUBLED,
    num_samples: int = 100,
    split: str = "all",
    seed: int = 0,
) -> pd.DataFrame:
    """The longest list of compounds, best first, whose Bayesian false discovery rate is at most ``fdr``.

    Compounds are taken by falling p_enriched, as long as the mean of 1 - p_enriched over the list stays within ``fdr``:
    the expected share of the list whose log enrichment does not exceed ``threshold``.

    Parameters
    ----------
    posterior
        of a DEL model.
    fdr
        false discovery rate, in (0, 1).
    threshold, num_samples, split, seed
        as in `enrichment`.

    Returns
    -------
    The rows of `enrichment`, with the rate of the list down to each (``fdr``). It may be empty. Of a model without
    latents, which is certain of everything, it is what is predicted to exceed the threshold: no rate is controlled.

    The rate is the model's own expectation: it holds as far as the model does. Libraries drawn from HierarchicalDEL's
    prior keep it (``benchmarks/del_simulated.py``); selections that were simulated otherwise exceed it, by little with
    replicates and controls, and by far without controls.

    Warns
    -----
    UserWarning
        Where so few reads were sequenced that a tenfold enriched compound would be missed more often than not, and
        where there are no controls.

    Source: Newton et al. 2004, Biostatistics 5, 155; Muller et al. 2004, JASA 99, 990.
    """
    if not posterior.schema["controls"]:
        warnings.warn(
            "there are no control selections: what binds the matrix, or is abundant, is among the hits, and the false "
            "discovery rate does not count it",
            UserWarning,
            stacklevel=2,
        )
    return shortlist(enrichment(posterior, threshold, num_samples, split, seed), fdr, detectable(posterior.dm))


def shortlist(table: pd.DataFrame, fdr: float, fold: float = 1.0) -> pd.DataFrame:
    """The hit list of a table that `enrichment` gave; see `hits`.

    Parameters
    ----------
    table
        of all compounds.
    fdr
        false discovery rate, in (0, 1).
    fold
        what `detectable` says of the sequencing, to be warned of.
    """
    if not 0 < fdr < 1:
        raise ValueError(f"fdr is a rate in (0, 1), such as 0.1, and is {fdr}")
    if fold > FAR:
        warnings.warn(
            f"the sequencing is too shallow for a list: with these reads a compound must be about {fold:.0f}-fold "
            "enriched to stand out half of the time; sequence deeper, pool replicates, or look at synthons instead",
            UserWarning,
            stacklevel=3,
        )
    table = table.sort_values(["p_enriched", "log_enrichment"], ascending=False, kind="stable")
    rate = (1 - table["p_enriched"]).cumsum() / np.arange(1, len(table) + 1)
    table.insert(5, "fdr", rate)
    # What has no chance at all is no hit, however many certain ones would pay for it.
    return table[(rate <= fdr) & (table["p_enriched"] > 0)]


def synthons(
    posterior: Posterior, keys: Sequence[str] = (), num_samples: int = 25, split: str = "all", seed: int = 0
) -> pd.DataFrame:
    """Building blocks, or pairs of them, by what their compounds' tags bring above the background, best first.

    Parameters
    ----------
    posterior
        of a DEL model.
    keys
        cycles: one for monosynthons, two for disynthons; when none is given, all cycles, one by one.
    num_samples, split, seed
        as in `enrichment`.

    Returns
    -------
    DataFrame by (cycle, synthon), or by the names of the pair: ``log_enrichment``, the natural log of the mean over the
    compounds of (1 + excess), own and truncates' together, with its 90% interval (``lower``, ``upper``);
    ``own``, the same of the compounds' own enrichment, of the pure product: larger than its part of the tags where
    yields are low; ``n_compounds``, and ``counts`` in the target selections.

    Building blocks are to be compared with each other. The level of the background, which all of them are measured
    from, is told badly by counts where truncates bind a little everywhere, and a mean-field guide does not carry what
    is not known of it: all of them together may lie too high or too low by more than their intervals say.

    Raises
    ------
    ValueError
        For a key that is no cycle, or that comes twice.
    """
    cycles = posterior.schema["cycles"]
    if isinstance(keys, str):
        raise ValueError(f"keys must be a list of cycles, and is the text {keys!r}: pass [{keys!r}]")
    groups = [tuple(keys)] if keys else [(cycle,) for cycle in cycles]
    if len(set(keys)) < len(keys):
        raise ValueError(f"keys={list(keys)} names a cycle twice: a pair is of two cycles of {cycles}")
    if unknown := [key for group in groups for key in group if key not in cycles]:
        raise ValueError(f"keys={unknown} are no cycles: there are {cycles}")
    check_draws("num_samples", num_samples)
    sums = [_Sums(posterior.schema, group, num_samples) for group in groups]
    queries = [name for name in ("log_tag_enrichment", "log_enrichment") if name in posterior.model.queries]
    for batch, draws in _answers(posterior, queries, DOUBLED, num_samples, split, seed):
        for one in sums:
            one.add(batch, {name: value.squeeze(-1).expm1().cpu() for name, value in draws.items()})
    return pd.concat([one.table() for one in sums]).sort_values("log_enrichment", ascending=False)


def classical_scores(dm: Any) -> pd.DataFrame:
    """The scores of `baselines` for each compound of a DELDataModule, (n, 2) or, with controls, (n, 4)."""
    target, control = dm.conditions["target"], dm.conditions["control"]
    adata = _counts(dm)
    scores = {"z_score": baselines.normalized_z_score(adata, target), "poly_o": baselines.poly_o(adata, target)}
    if dm.schema["controls"]:
        ratio = baselines.enrichment_ratio(adata, target, control)
        scores |= {"ratio": ratio["ratio"], "ratio_lower": ratio["lower"]}
    return pd.DataFrame(scores)


def detectable(dm: Any) -> float:
    """The fold enrichment at which half of such compounds would stand out of a Poisson background.

    A count stands out whose tail probability under the mean count of a compound, over all target selections, is below
    one in ten times the number of compounds.
    """
    mean = float(sum(dm.sizes.depth))
    needed = stats.poisson.isf(0.1 / dm.adata.n_obs, mean) + 1
    return float(stats.gamma.ppf(0.5, needed) / mean)


_COLUMNS = ("log_enrichment", "p_enriched", "log_tag_enrichment", "matrix_binding")
# An average over the compound's own latents already, and dear: asked of a quarter of the draws.
_EVERY = {"p_enriched": 4}


def _summary(draws: dict[str, np.ndarray], threshold: float) -> pd.DataFrame:
    """The columns of `enrichment` from draws (num_samples, n)."""
    own = draws["log_enrichment"]
    # Weibull's positions: of so many draws as there are, a new one falls inside with the probability asked for.
    median, lower, upper = np.quantile(own, (0.5, *INTERVAL), axis=0, method="weibull")
    above = draws.get("p_enriched", own > threshold)
    columns = {
        "log_enrichment": own.mean(0),
        "median": median,
        "lower": lower,
        "upper": upper,
        "p_enriched": above.mean(0),
    }
    if "log_tag_enrichment" in draws:
        columns["log_tag"] = draws["log_tag_enrichment"].mean(0)
    if "matrix_binding" in draws:
        columns["p_matrix"] = (draws["matrix_binding"] > threshold).mean(0)
    return pd.DataFrame(columns)


def _answers(
    posterior: Posterior, queries: Sequence[str], threshold: float, num_samples: int, split: str, seed: int
) -> Iterator[tuple[Any, dict[str, torch.Tensor]]]:
    """Each minibatch, and draws (num_samples, n, 1) of several of the model's queries, at the same latents."""
    model = posterior.model
    options: dict[str, dict[str, Any]] = {"p_enriched": {"threshold": threshold}}
    # A model without latents says the same at every draw.
    number = num_samples if _has_latents(posterior) else 1
    with drawing(posterior.svi, seed) as draws:
        for batch in posterior._batches(split, number, "enrichment", number * len(queries)):
            found: dict[str, list[torch.Tensor]] = {name: [] for name in queries}
            for s in range(number):
                guide = draws.guide(batch, s)
                latents = latent_values(guide)
                with poutine.block(), poutine.replay(trace=guide):
                    for name in (name for name in queries if s % _EVERY.get(name, 1) == 0):
                        found[name].append(getattr(model, name)(batch, latents, **options.get(name, {})))
            yield batch, {name: torch.stack(values) for name, values in found.items()}


def _has_latents(posterior: Posterior) -> bool:
    with drawing(posterior.svi, 0) as draws:
        return bool(latent_values(draws.guide(posterior.model.example_batch(), 0)))


def _counts(dm: Any) -> AnnData:
    """The counts that the DataModule uses, in X."""
    names = [name for arm in ("targets", "controls") for name in dm.schema[arm]]
    adata = dm.adata[:, names]
    matrix = adata.X if dm.layer is None else adata.layers[dm.layer]
    return AnnData(matrix, obs=pd.DataFrame(index=adata.obs_names), var=adata.var[["condition"]])


class _Sums:
    """Sums of draws over the compounds of each synthon (or pair of synthons)."""

    def __init__(self, schema: dict[str, Any], group: tuple[str, ...], num_samples: int) -> None:
        self.group = group
        self.levels = [schema["levels"][cycle] for cycle in group]
        self.position = [schema["cycles"].index(cycle) for cycle in group]
        self.size = math.prod(len(level) for level in self.levels)
        self.totals: dict[str, torch.Tensor] = {}
        self.number, self.counts = (torch.zeros(self.size, dtype=torch.float64) for _ in range(2))

    def add(self, batch: Any, draws: dict[str, torch.Tensor]) -> None:
        """Add a minibatch's draws (num_samples, n)."""
        code = torch.zeros_like(batch.index.cpu())
        for position, level in zip(self.position, self.levels, strict=True):
            code = code * len(level) + batch.synthons[:, position].cpu()
        for name, values in draws.items():
            total = self.totals.setdefault(name, torch.zeros(len(values), self.size, dtype=torch.float64))
            total.index_add_(1, code, values.double())
        self.number.index_add_(0, code, torch.ones(len(code), dtype=torch.float64))
        self.counts.index_add_(0, code, batch.x.sum(-1).double().cpu())

    def table(self) -> pd.DataFrame:
        """The summary, of synthons that occur."""
        mean = {name: (total / self.number).log1p().numpy() for name, total in self.totals.items()}
        whole = mean.get("log_tag_enrichment", mean["log_enrichment"])
        lower, upper = np.quantile(whole, INTERVAL, axis=0, method="weibull")
        table = pd.DataFrame(
            {
                "log_enrichment": whole.mean(0),
                "lower": lower,
                "upper": upper,
                "own": mean["log_enrichment"].mean(0),
                "n_compounds": self.number.numpy().astype(int),
                "counts": self.counts.numpy().astype(int),
            },
            index=self._index(),
        )
        return table[table["n_compounds"] > 0]

    def _index(self) -> pd.MultiIndex:
        if len(self.group) > 1:
            return pd.MultiIndex.from_product(self.levels, names=self.group)
        return pd.MultiIndex.from_product([self.group, self.levels[0]], names=["cycle", "synthon"])


REPORTS: dict[str, Callable[..., pd.DataFrame]] = {"enrichment": enrichment, "hits": hits, "synthons": synthons}
