"""Tables of enriched compounds, hits and synthons, for any model with the query "log_enrichment"."""

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
from pyro_omics.data.names import list_of
from pyro_omics.inference.draws import drawing
from pyro_omics.posterior.rows import PosteriorRows, check_draws
from pyro_omics.posterior.synthon_sums import INTERVAL, SynthonSums
from pyro_omics.schema import DELSchema
from pyro_omics.sites import latent_values

TWOFOLD = math.log(2)
DETECTABLE = 10.0  # detectable fold above which `shortlist` warns that the sequencing is too shallow
COLUMNS = ("log_enrichment", "p_enriched", "log_tag_enrichment", "matrix_binding")  # queries that `enrichment` uses
# Slow, and an average over the compound's own latents already: evaluated at every fourth draw.
EVERY = {"p_enriched": 4}


class EnrichmentTables(PosteriorRows):
    """Tables of a selection's compounds and building blocks, as methods of a `Posterior`.

    They work for any model of a DELDataModule whose ``queries`` include ``"log_enrichment"``. The queries
    ``"p_enriched"``, ``"log_tag_enrichment"`` and ``"matrix_binding"`` add columns.
    """

    def enrichment(
        self, threshold: float = TWOFOLD, num_samples: int = 100, split: str = "all", seed: int = 0
    ) -> pd.DataFrame:
        """Posterior summaries and classical scores of each compound's enrichment, in the order of the AnnData.

        ``log_enrichment`` is the natural log of the compound's own survival of the selection over the library's
        background, without truncated products that carry its tag and without matrix binding: 0 is the background.

        Parameters
        ----------
        threshold
            natural log of the enrichment to exceed; twofold by default.
        num_samples
            number of posterior draws.
        split
            which rows: "all", "training" or "validation".
        seed
            seed of the draws.

        Returns
        -------
        (n, ...) DataFrame:

        - ``log_enrichment``, ``median``, ``lower`` and ``upper``: posterior mean, median and equal-tailed 90% interval
          of the log enrichment;
        - ``p_enriched``: the probability that the log enrichment exceeds the threshold;
        - ``log_tag``, where truncates are modelled: the mean log enrichment of everything that carries the tag and
          binds the target, truncated products included;
        - ``p_matrix``, where there are controls: the probability that matrix binding alone exceeds the threshold;
        - ``z_score``, ``poly_o``, ``ratio`` and ``ratio_lower``: the classical scores (see `baselines`).

        For a model without latents the intervals are points, and the probabilities 0 or 1.
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
        threshold: float = TWOFOLD,
        num_samples: int = 100,
        split: str = "all",
        seed: int = 0,
    ) -> pd.DataFrame:
        """The longest list of compounds, best first, whose Bayesian false discovery rate is at most ``fdr``.

        Compounds are taken in decreasing order of p_enriched, as long as the mean of 1 - p_enriched over the list is at
        most ``fdr``. That mean is the expected share of the list whose log enrichment does not exceed ``threshold``.

        Parameters
        ----------
        fdr
            false discovery rate, in (0, 1).
        threshold, num_samples, split, seed
            as in `enrichment`.

        Returns
        -------
        Rows of `enrichment`, with a column ``fdr``: the rate of the list from the top to this row. The table may be
        empty. For a model without latents, whose probabilities are 0 or 1, it has the compounds predicted to exceed the
        threshold, and no rate is controlled.

        The rate is the model's own expectation, and is right only if the model is. It held in libraries drawn from
        HierarchicalDEL's prior (``benchmarks/del_simulated.py``). In selections simulated by other mechanisms it was
        exceeded, slightly with replicates and controls, and by far without controls.

        Warns
        -----
        UserWarning
            Where so few reads were sequenced that most tenfold enriched compounds would be missed, and where there are
            no controls.

        Source: Newton et al. 2004, Biostatistics 5, 155; Muller et al. 2004, JASA 99, 990.
        """
        self._check_model("hits")
        if not self._library.controls:
            warnings.warn(
                "there are no control selections: compounds that bind the matrix, or are abundant, are among the hits, "
                "and the false discovery rate does not account for them",
                UserWarning,
                stacklevel=2,
            )
        return shortlist(self.enrichment(threshold, num_samples, split, seed), fdr, detectable(self.dm))

    def synthons(
        self, keys: Sequence[str] = (), num_samples: int = 25, split: str = "all", seed: int = 0
    ) -> pd.DataFrame:
        """Enrichment of building blocks, or pairs of them, averaged over their compounds, best first.

        Parameters
        ----------
        keys
            names of cycles: one for monosynthons, two for disynthons; by default the monosynthons of every cycle.
        num_samples, split, seed
            as in `enrichment`.

        Returns
        -------
        DataFrame indexed by (cycle, synthon), or by the two synthons of a pair:

        - ``log_enrichment``, ``lower`` and ``upper``: natural log of the mean, over the compounds, of their enrichment
          over the background, full and truncated products together, with its 90% interval;
        - ``own``: the same for the full products alone; where yields are low, it may exceed ``log_enrichment``, since
          full products are then a small part of what carries the tag;
        - ``n_compounds``, and ``counts`` in the target selections.

        Compare building blocks with each other only. All of them are measured from the same background, whose level the
        counts hardly determine where truncated products bind a little everywhere, and a mean-field guide leaves out
        that uncertainty. All values together may therefore be too high or too low by more than their intervals.

        Raises
        ------
        ValueError
            For a key that is not a cycle, or is repeated.
        """
        self._check_model("synthons")
        cycles = list(self._library.cycles)
        keys = list_of("keys", keys, cycles)
        groups = [tuple(keys)] if keys else [(cycle,) for cycle in cycles]
        if unknown := [key for group in groups for key in group if key not in cycles]:
            raise ValueError(f"keys must be among the cycles {cycles}; got {unknown}")
        check_draws("num_samples", num_samples)
        sums = [
            SynthonSums({cycle: self.schema.names(cycle) for cycle in group}, [cycles.index(cycle) for cycle in group])
            for group in groups
        ]
        queries = [name for name in ("log_tag_enrichment", "log_enrichment") if name in self.model.queries]
        for batch, draws in self._query_draws(queries, TWOFOLD, num_samples, split, seed):
            for group_sums in sums:
                group_sums.add(batch, {name: value.expm1().cpu() for name, value in draws.items()})
        return pd.concat([group_sums.table() for group_sums in sums]).sort_values("log_enrichment", ascending=False)

    @property
    def _library(self) -> DELSchema:
        if not isinstance(self.schema, DELSchema):
            raise TypeError(f"the data must be a DELDataModule; got the schema of {self.schema.kind}")
        return self.schema

    def _check_model(self, table: str) -> None:
        queries = list(self.model.queries)
        if "log_enrichment" not in queries:
            raise ValueError(
                f"{table} must be used with a model that has the query 'log_enrichment'; got "
                f"{type(self.model).__name__}, which has {queries}"
            )

    def _query_draws(
        self, queries: Sequence[str], threshold: float, num_samples: int, split: str, seed: int
    ) -> Iterator[tuple[Any, dict[str, torch.Tensor]]]:
        """Each minibatch, with draws (num_samples, n) of several of the model's queries, all at the same latents."""
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
    """The hit list of a table of `enrichment`; see `hits`.

    Parameters
    ----------
    table
        table of all compounds.
    fdr
        false discovery rate, in (0, 1).
    fold
        detectable fold enrichment, from `detectable`.

    Warns
    -----
    UserWarning
        Where ``fold`` is above `DETECTABLE`.
    """
    if not 0 < fdr < 1:
        raise ValueError(f"fdr must be a rate between 0 and 1, such as 0.1; got {fdr}")
    if fold > DETECTABLE:
        warnings.warn(
            f"the sequencing is too shallow for a hit list: with these reads a compound must be about {fold:.0f}-fold "
            "enriched to stand out half of the time; sequence deeper, pool replicates, or use synthons instead",
            UserWarning,
            stacklevel=3,
        )
    table = table.sort_values(["p_enriched", "log_enrichment"], ascending=False, kind="stable")
    rate = (1 - table["p_enriched"]).cumsum() / np.arange(1, len(table) + 1)
    table.insert(5, "fdr", rate)
    # A compound of probability 0 is no hit, even where certain hits keep the mean rate low.
    return table[(rate <= fdr) & (table["p_enriched"] > 0)]


def classical_scores(dm: DELDataModule) -> pd.DataFrame:
    """Scores from `baselines` for each compound of a DELDataModule: (n, 2), or (n, 4) with controls."""
    target, control = dm.conditions["target"], dm.conditions["control"]
    adata = _counts(dm)
    scores = {"z_score": baselines.normalized_z_score(adata, target), "poly_o": baselines.poly_o(adata, target)}
    if dm.schema.controls:
        ratio = baselines.enrichment_ratio(adata, target, control)
        scores |= {"ratio": ratio["ratio"], "ratio_lower": ratio["lower"]}
    return pd.DataFrame(scores)


def detectable(dm: DELDataModule) -> float:
    """The fold enrichment at which half of the compounds so enriched would stand out of a Poisson background.

    A count stands out if its tail probability, under the mean count of a compound over all target selections, is below
    0.1 / n for n compounds.
    """
    mean = float(sum(dm.sizes.depth))
    needed = stats.poisson.isf(0.1 / dm.adata.n_obs, mean) + 1
    return float(stats.gamma.ppf(0.5, needed) / mean)


def _summary(draws: dict[str, np.ndarray], threshold: float) -> pd.DataFrame:
    """The columns of `enrichment` from draws (num_samples, n)."""
    own = draws["log_enrichment"]
    # Weibull's plotting positions: a new draw falls inside the interval with the nominal probability.
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
    """AnnData with the counts that the DataModule uses in X, target and control selections alone."""
    names = [*dm.schema.targets, *dm.schema.controls]
    adata = dm.adata[:, names]
    matrix = adata.X if dm.layer is None else adata.layers[dm.layer]
    return AnnData(matrix, obs=pd.DataFrame(index=adata.obs_names), var=adata.var[["condition"]])
