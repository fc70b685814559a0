"""Tables of what is enriched in a selection: compounds, hits and synthons, for any model with a log enrichment."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from pyro import poutine
from scipy import stats

from pyro_omics import baselines
from pyro_omics.data.dna_encoded.module import DELDataModule
from pyro_omics.inference.draws import drawing
from pyro_omics.posterior.rows import PosteriorRows, check_draws
from pyro_omics.posterior.synthon_sums import INTERVAL, SynthonSums
from pyro_omics.schema import DELSchema
from pyro_omics.sites import latent_values

DOUBLED = math.log(2)
DETECTABLE = 10.0  # a fold enrichment that the sequencing of a selection should be deep enough to find
COLUMNS = ("log_enrichment", "p_enriched", "log_tag_enrichment", "matrix_binding")  # queries that `enrichment` uses
# An average over the compound's own latents already, and slow: evaluated at a quarter of the draws.
EVERY = {"p_enriched": 4}


class EnrichmentTables(PosteriorRows):
    """The tables that a `Posterior` gives of a selection's compounds and building blocks.

    They are of any model of a DELDataModule whose ``queries`` have ``"log_enrichment"``; ``"p_enriched"``,
    ``"log_tag_enrichment"`` and ``"matrix_binding"`` add columns.
    """

    def enrichment(
        self, threshold: float = DOUBLED, num_samples: int = 100, split: str = "all", seed: int = 0
    ) -> pd.DataFrame:
        """What is known of each compound's enrichment, in AnnData's order.

        ``log_enrichment`` is the natural log of the compound's own survival of the selection over the library's
        background, without truncated products that carry its tag and without matrix binding: 0 is the background.

        Parameters
        ----------
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
        (n, ...) DataFrame:

        - ``log_enrichment``, ``median``, ``lower`` and ``upper``: the posterior of log_enrichment by its mean, median
          and equal-tailed 90% interval;
        - ``p_enriched``: the probability that it exceeds the threshold;
        - ``log_tag``, where truncates are modelled: the mean log of all that carries the tag and binds the target, over
          the background;
        - ``p_matrix``, where there are controls: the probability that matrix binding alone exceeds the threshold;
        - ``z_score``, ``poly_o``, ``ratio`` and ``ratio_lower``: the classical scores (see `baselines`).

        A model without latents gives points for intervals, and 0 or 1 for probabilities.
        """
        check_draws("num_samples", num_samples)
        self._check_model("enrichment")
        queries = [name for name in COLUMNS if name in self.model.queries]
        if not self._library.controls:
            queries = [name for name in queries if name != "matrix_binding"]
        parts = [
            _summary({name: value.cpu().numpy() for name, value in draws.items()}, threshold)
            for _, draws in self._query_draws(queries, threshold, num_samples, split, seed)
        ]
        table = pd.concat(parts, ignore_index=True)
        table.index = self._names(split)
        scores = classical_scores(self.dm).loc[table.index]
        return pd.concat([table, scores], axis=1)

    def hits(
        self,
        fdr: float = 0.1,
        threshold: float = DOUBLED,
        num_samples: int = 100,
        split: str = "all",
        seed: int = 0,
    ) -> pd.DataFrame:
        """The longest list of compounds, best first, whose Bayesian false discovery rate is at most ``fdr``.

        Compounds are taken by falling p_enriched, as long as the mean of 1 - p_enriched over the list stays within
        ``fdr``: the expected share of the list whose log enrichment does not exceed ``threshold``.

        Parameters
        ----------
        fdr
            false discovery rate, in (0, 1).
        threshold, num_samples, split, seed
            as in `enrichment`.

        Returns
        -------
        The rows of `enrichment`, with the rate of the list down to each (``fdr``). It may be empty. Of a model without
        latents, which is certain of everything, it is what is predicted to exceed the threshold: no rate is controlled.

        The rate is the model's own expectation: it holds as far as the model does. Libraries drawn from
        HierarchicalDEL's prior keep it (``benchmarks/del_simulated.py``); selections that were simulated otherwise
        exceed it, by little with replicates and controls, and by far without controls.

        Warns
        -----
        UserWarning
            Where so few reads were sequenced that a tenfold enriched compound would be missed more often than not, and
            where there are no controls.

        Source: Newton et al. 2004, Biostatistics 5, 155; Muller et al. 2004, JASA 99, 990.
        """
        self._check_model("hits")
        if not self._library.controls:
            warnings.warn(
                "there are no control selections: what binds the matrix, or is abundant, is among the hits, and the "
                "false discovery rate does not count it",
                UserWarning,
                stacklevel=2,
            )
        return shortlist(self.enrichment(threshold, num_samples, split, seed), fdr, detectable(self.dm))

    def synthons(
        self, keys: Sequence[str] = (), num_samples: int = 25, split: str = "all", seed: int = 0
    ) -> pd.DataFrame:
        """Building blocks, or pairs of them, by what their compounds' tags bring above the background, best first.

        Parameters
        ----------
        keys
            cycles: one for monosynthons, two for disynthons; when none is given, all cycles, one by one.
        num_samples, split, seed
            as in `enrichment`.

        Returns
        -------
        DataFrame by (cycle, synthon), or by the names of the pair:

        - ``log_enrichment``, ``lower`` and ``upper``: the natural log of the mean over the compounds of (1 + excess),
          own and truncates' together, with its 90% interval;
        - ``own``: the same of the compounds' own enrichment, of the pure product; larger than its part of the tags
          where yields are low;
        - ``n_compounds``, and ``counts`` in the target selections.

        Building blocks are to be compared with each other. Counts say little of the level of the background, which all
        of them are measured from, where truncates bind a little everywhere, and a mean-field guide leaves that
        uncertainty out: all of them together may lie too high or too low by more than their intervals say.

        Raises
        ------
        ValueError
            For a key that is no cycle, or that comes twice.
        """
        self._check_model("synthons")
        cycles = list(self._library.cycles)
        if isinstance(keys, str):
            raise ValueError(f"keys must be a list of cycles; got the text {keys!r}: pass [{keys!r}]")
        groups = [tuple(keys)] if keys else [(cycle,) for cycle in cycles]
        if len(set(keys)) < len(keys):
            raise ValueError(f"keys must be different cycles of {cycles}; got {list(keys)}")
        if unknown := [key for group in groups for key in group if key not in cycles]:
            raise ValueError(f"keys must be among the cycles {cycles}; got {unknown}")
        check_draws("num_samples", num_samples)
        sums = [
            SynthonSums({cycle: self.schema.names(cycle) for cycle in group}, [cycles.index(cycle) for cycle in group])
            for group in groups
        ]
        queries = [name for name in ("log_tag_enrichment", "log_enrichment") if name in self.model.queries]
        for batch, draws in self._query_draws(queries, DOUBLED, num_samples, split, seed):
            for one in sums:
                one.add(batch, {name: value.expm1().cpu() for name, value in draws.items()})
        return pd.concat([one.table() for one in sums]).sort_values("log_enrichment", ascending=False)

    @property
    def _library(self) -> DELSchema:
        if not isinstance(self.schema, DELSchema):
            raise TypeError(f"the data must be of a DELDataModule; got the schema of {self.schema.kind}")
        return self.schema

    def _check_model(self, table: str) -> None:
        queries = list(self.model.queries)
        if "log_enrichment" not in queries:
            raise ValueError(
                f"{table} must be asked of a model with the query 'log_enrichment'; got {type(self.model).__name__}, "
                f"which has {queries}"
            )

    def _query_draws(
        self, queries: Sequence[str], threshold: float, num_samples: int, split: str, seed: int
    ) -> Iterator[tuple[Any, dict[str, torch.Tensor]]]:
        """Each minibatch, and draws (num_samples, n) of several of the model's queries at the same latents."""
        options: dict[str, dict[str, Any]] = {"p_enriched": {"threshold": threshold}}
        with drawing(self.svi, seed) as draws:
            for batch in self._batches(split, num_samples, "enrichment", num_samples * len(queries)):
                found: dict[str, list[torch.Tensor]] = {name: [] for name in queries}
                for s in range(num_samples):
                    guide = draws.guide(batch, s)
                    latents = latent_values(guide)
                    with poutine.block(), poutine.replay(trace=guide):
                        for name in (name for name in queries if s % EVERY.get(name, 1) == 0):
                            value = getattr(self.model, name)(batch, latents, **options.get(name, {}))
                            found[name].append(value.squeeze(-1))
                    if not latents:  # every draw would be the same
                        break
                yield batch, {name: torch.stack(values) for name, values in found.items()}


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
        raise ValueError(f"fdr must be a rate between 0 and 1, such as 0.1; got {fdr}")
    if fold > DETECTABLE:
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


def classical_scores(dm: DELDataModule) -> pd.DataFrame:
    """The scores of `baselines` for each compound of a DELDataModule, (n, 2) or, with controls, (n, 4)."""
    target, control = dm.conditions["target"], dm.conditions["control"]
    adata = _counts(dm)
    scores = {"z_score": baselines.normalized_z_score(adata, target), "poly_o": baselines.poly_o(adata, target)}
    if dm.schema.controls:
        ratio = baselines.enrichment_ratio(adata, target, control)
        scores |= {"ratio": ratio["ratio"], "ratio_lower": ratio["lower"]}
    return pd.DataFrame(scores)


def detectable(dm: DELDataModule) -> float:
    """The fold enrichment at which half of such compounds would stand out of a Poisson background.

    A count stands out whose tail probability under the mean count of a compound, over all target selections, is below
    one in ten times the number of compounds.
    """
    mean = float(sum(dm.sizes.depth))
    needed = stats.poisson.isf(0.1 / dm.adata.n_obs, mean) + 1
    return float(stats.gamma.ppf(0.5, needed) / mean)


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


def _counts(dm: DELDataModule) -> AnnData:
    """The counts that the DataModule uses, in X."""
    names = [*dm.schema.targets, *dm.schema.controls]
    adata = dm.adata[:, names]
    matrix = adata.X if dm.layer is None else adata.layers[dm.layer]
    return AnnData(matrix, obs=pd.DataFrame(index=adata.obs_names), var=adata.var[["condition"]])
