"""`Posterior`: queries of a fitted model, labelled and with rows in the order of the AnnData."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from anndata import AnnData
from pyro import poutine
from torch import Tensor

from pyro_omics.data.names import list_of
from pyro_omics.inference.draws import drawing
from pyro_omics.parts.other_names import attribute_error, instead
from pyro_omics.posterior.axis_labels import dimension
from pyro_omics.posterior.enrichment import EnrichmentTables
from pyro_omics.posterior.likelihood_scores import LikelihoodScores
from pyro_omics.posterior.query import ModelQuery, Summary, correlation, interval_bounds, summarise
from pyro_omics.posterior.rows import check_draws, with_hints
from pyro_omics.sites import observed_sites

# The docstring of a query as a method: the model's own, this sentence, and that of `Posterior.query` without "name".
QUERY_DOC = (
    "As a method of a Posterior, ``batch`` and ``latents`` are those of its rows and draws. Common to all queries:"
)
NAME_DOC = "name\n    one of ``model.queries``.\n"


@with_hints
class Posterior(LikelihoodScores, EnrichmentTables):
    """The posterior of a fitted model over the rows of a DataModule, which may hold the training data or new data.

    New data are aligned by name: genes are put in the model's order, and extra genes are left out. The model's own
    queries (`models.CountModel.queries`, such as `normalized_expression`) are methods of the posterior.

    Every Monte Carlo query takes a ``seed`` and restores the session's random state. Every query takes a ``split``, the
    rows of the DataModule to evaluate: ``"all"``, ``"training"`` or ``"validation"``.

    Parameters
    ----------
    svi
        a trained `SVIModule`.
    dm
        a DataModule.
    batch_size
        number of rows evaluated at once.

    Raises
    ------
    TypeError
        For an ``svi`` or ``dm`` of another type.
    ValueError
        Where the data lack genes or covariates of the model, or have levels unknown to it.
    """

    def __dir__(self) -> list[str]:
        """Methods, attributes and the model's own queries."""
        return [*super().__dir__(), *self.model.queries]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """The model's own query of this name, as a method: a new model needs no Posterior class of its own."""
        # Not `self.model`, which would recurse without end on a copy that has no attributes yet.
        model = self.__dict__.get("model")
        queries = [] if model is None else list(model.queries)
        if name not in queries:
            error = AttributeError(f"Posterior has no {name!r}; the model's own queries are {queries}")
            raise attribute_error(error, name)
        return self._query_method(name)

    def _query_method(self, name: str) -> Callable[..., Any]:
        """`query` of one name as a method, with the signature and the docstring of both."""

        def method(*args: Any, **options: Any) -> Any:
            return self.query(name, *args, **options)

        own, common = getattr(self.model, name), inspect.signature(self.query).parameters
        of_all = [one for key, one in common.items() if key != "name"]
        of_own = [
            one.replace(kind=one.KEYWORD_ONLY)
            for one in list(inspect.signature(own).parameters.values())[2:]  # after batch and latents
            if one.name not in common and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        ]
        signature = inspect.Signature([*of_all[:-1], *of_own, of_all[-1]])  # the last is **options
        method.__signature__ = signature  # type: ignore[attr-defined]
        method.__name__ = method.__qualname__ = name
        texts = (inspect.getdoc(own) or name, QUERY_DOC, (inspect.getdoc(self.query) or "").replace(NAME_DOC, ""))
        method.__doc__ = "\n\n".join(texts)
        return method

    # Latents --------------------------------------------------------------------------------------------------------

    def latent(self, split: str = "all", num_samples: int = 25, seed: int = 0) -> np.ndarray:
        """Posterior mean of each row's latent (the model's first local site), transformed as its decoder sees it.

        Parameters
        ----------
        split
            which rows: "all", "training" or "validation".
        num_samples, seed
            number and seed of the draws that estimate the mean where it has no closed form (a transformed latent).

        Returns
        -------
        (n, k) array, in the order of the AnnData.
        """
        return self._moments(split, num_samples, seed)[0]

    def latent_sd(self, split: str = "all", num_samples: int = 25, seed: int = 0) -> np.ndarray:
        """Posterior standard deviation of each row's latent, (n, k); arguments as in `latent`."""
        return self._moments(split, num_samples, seed)[1]

    def _moments(self, split: str, num_samples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        check_draws("num_samples", num_samples)
        if not self.model.local_sites:
            raise ValueError(
                f"{type(self.model).__name__} has no local sites, so its rows have no latent: use its own queries, "
                f"{list(self.model.queries)}"
            )
        with drawing(self.svi, seed) as draws:
            parts = [draws.moments(batch, num_samples) for batch in self._batches(split, num_samples, "latent")]
        mean, sd = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
        return mean, sd

    def samples(
        self, *sites: str, num_samples: int = 100, split: str = "all", seed: int = 0
    ) -> xr.DataArray | xr.Dataset:
        """Labelled posterior draws of latent sites, local or global.

        Parameters
        ----------
        sites
            names of the sites; all latent sites when none is given.
        num_samples
            number of draws.
        split
            which rows, for local sites: "all", "training" or "validation".
        seed
            seed of the draws.

        Returns
        -------
        DataArray for one site, Dataset for several; dimensions ("sample", "obs", ...) for a local site and
        ("sample", ...) for a global one.

        Raises
        ------
        ValueError
            For a name that is not a latent site of the model.
        """
        check_draws("num_samples", num_samples)
        parts: dict[str, list[Tensor]] = {}
        local = set(self.model.local_sites)
        with drawing(self.svi, seed) as draws:
            for i, batch in enumerate(self._batches(split, num_samples, "samples")):
                for name, value in draws.sites(batch, sites, num_samples).items():
                    # A draw's globals are the same in every minibatch.
                    if i == 0 or name in local:
                        parts.setdefault(name, []).append(value)
                if sites and not local & set(sites):
                    break
        arrays = {
            name: self._label(name, torch.cat(part, 1) if name in local else part[0], split)
            for name, part in parts.items()
        }
        return next(iter(arrays.values())) if len(sites) == 1 else xr.Dataset(arrays)

    def _label(self, name: str, value: Tensor, split: str) -> xr.DataArray:
        local = name in self.model.local_sites
        lead = ["sample", "obs"] if local else ["sample"]
        rest = [f"{name}_dim_{i}" for i in range(value.ndim - len(lead))]
        coords: dict[str, Any] = {"obs": list(self._names(split))} if local else {}
        axes = self.labels.of_site(name, value.shape[len(lead) :])
        for i, axis in enumerate(axes, start=len(rest) - len(axes)):
            rest[i], coords[dimension(axis)] = dimension(axis), self.labels.names(axis)
        return xr.DataArray(value.numpy(), dims=[*lead, *rest], coords=coords, name=name)

    # Counts ---------------------------------------------------------------------------------------------------------

    def predictive(
        self, num_samples: int = 20, split: str = "all", seed: int = 0, **columns: Sequence[str] | None
    ) -> xr.DataArray | xr.Dataset:
        """Draws of counts from the posterior predictive distribution: latents from the guide, counts given the latents.

        Parameters
        ----------
        num_samples
            number of draws for each row.
        split
            which rows: "all", "training" or "validation".
        seed
            seed of the draws.
        columns
            ``genes=[...]`` (and ``proteins=[...]``, where the model has them): names to return; all by default. The
            result takes num_samples x rows x genes x 4 bytes: name genes where that is too much.

        Returns
        -------
        Integer DataArray (num_samples, n, g) with dimensions ("sample", "obs", "gene"); a Dataset where the model
        observes several sites.

        Raises
        ------
        ValueError
            For a name that the model does not have.
        """
        check_draws("num_samples", num_samples)
        if unknown := sorted(set(columns) - {axis for axes in self.labels.axes.values() for axis in axes} - {"genes"}):
            raise ValueError(
                f"predictive has no argument {unknown}: choose columns by genes=[...], proteins=[...]"
                + instead(unknown[0])
            )
        free = poutine.uncondition(self.model)
        names, filled = self._names(split), 0
        arrays: dict[str, xr.DataArray] = {}  # of full size from the start: joining parts would need twice the memory
        with drawing(self.svi, seed) as draws:
            for batch in self._batches(split, num_samples, "predictive", num_samples):
                rows = slice(filled, filled := filled + len(batch.index))
                for s in range(num_samples):
                    trace = draws.pair(batch, s, free)[1]
                    for name in self._count_sites(trace):
                        x_ng = trace.nodes[name]["value"]
                        axes = self.labels.of_site(name, x_ng.shape[1:])
                        axis = axes[-1] if axes else f"{name}_dim_0"
                        column = self.labels.columns(axis, columns.get(axis)) if axes else np.arange(x_ng.shape[-1])
                        if name not in arrays:
                            arrays[name] = self._empty_counts(name, axis, column, num_samples, names)
                        arrays[name].values[s, rows] = x_ng[:, column].to(torch.int32).cpu().numpy()
        return next(iter(arrays.values())) if len(arrays) == 1 else xr.Dataset(arrays)

    def _count_sites(self, trace: Any) -> list[str]:
        """Names of the observed sites that the model labels, or of all observed sites if it labels none."""
        observed = observed_sites(trace)
        return [name for name in observed if name in self.model.axes] or observed

    def _empty_counts(self, name: str, axis: str, column: np.ndarray, num_samples: int, rows: pd.Index) -> xr.DataArray:
        dim = dimension(axis)
        coords: dict[str, Any] = {"obs": list(rows)}
        if dim != axis:
            coords[dim] = list(np.asarray(self.labels.names(axis))[column])
        empty = np.empty((num_samples, len(rows), len(column)), np.int32)
        return xr.DataArray(empty, dims=["sample", "obs", dim], coords=coords, name=name)

    # The model's own queries ----------------------------------------------------------------------------------------

    def query(
        self,
        name: str,
        transform_batch: str | Sequence[str] | None = None,
        num_samples: int = 10,
        credible_interval: float | None = None,
        split: str = "all",
        seed: int = 0,
        **options: Any,
    ) -> Any:
        """Posterior mean of one of the model's own queries for each row.

        Parameters
        ----------
        name
            one of ``model.queries``.
        transform_batch
            decode every row as if it came from this batch, or average over these batches; None keeps each row's batch.
        num_samples
            number of posterior draws.
        credible_interval
            probability of a central interval, e.g. 0.9: return a `Summary` (mean, lower, upper). None for the mean.
        split
            which rows: "all", "training" or "validation".
        seed
            seed of the draws.
        options
            ``genes=[...]``, and ``proteins=[...]`` where the query has proteins too: the columns to return; all by
            default. Other options are passed on to the model's method.

        Returns
        -------
        DataFrame (rows x columns), or a `Summary` of three; a tuple of these where the query has several kinds of
        columns, such as (rna, protein).

        Raises
        ------
        ValueError
            For a gene, batch or interval that does not exist.
        """
        check_draws("num_samples", num_samples)
        bounds = interval_bounds(credible_interval, num_samples)
        query = self._query(name, transform_batch, options)
        parts: list[list[Tensor]] = []
        with drawing(self.svi, seed) as draws:
            n_kept = num_samples if bounds else 1
            for batch in self._batches(split, num_samples * len(query.codes), name, n_kept):
                values = (query.draw(draws, batch, s) for s in range(num_samples))
                parts.append(summarise(values, num_samples, bounds))
        statistics = [torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)]
        frames = [query.frames(values, self._names(split)) for values in statistics]
        results = [one[0] if bounds is None else Summary(*one) for one in zip(*frames, strict=True)]
        return results[0] if isinstance(self.model.queries[name], str) else tuple(results)

    def correlations(
        self,
        name: str = "denoised_samples",
        method: str = "spearman",
        transform_batch: str | Sequence[str] | None = None,
        num_samples: int = 10,
        split: str = "all",
        seed: int = 0,
        **options: Any,
    ) -> pd.DataFrame:
        """Correlations over the rows between all columns of one of the model's own queries.

        They are computed for each draw and averaged over the draws. With ``"denoised_samples"``, they are correlations
        of the denoised rates.

        Parameters
        ----------
        name
            one of ``model.queries``.
        method
            ``"spearman"`` or ``"pearson"``.
        transform_batch, num_samples, split, seed, options
            as in `query`; pass ``genes=[...]`` where there are thousands, since the result is (columns x columns).

        Returns
        -------
        (columns x columns) DataFrame, labelled by name, or by (kind, name), as in ("genes", "CD4"), where the query has
        several kinds. NaN for a column that does not vary.

        Source: Gayoso et al. 2021, Nature Methods 18, 272.
        """
        check_draws("num_samples", num_samples)
        if method not in ("spearman", "pearson"):
            raise ValueError(f"method must be 'spearman' or 'pearson'; got {method!r}")
        query = self._query(name, transform_batch, options)
        total: Any = 0.0
        with drawing(self.svi, seed) as draws:
            for s in range(num_samples):
                batches = self._batches(split, len(query.codes), name)
                values = [query.draw(draws, batch, s).cpu().numpy() for batch in batches]
                total = total + correlation(np.concatenate(values), method)
        index = query.index(several=not isinstance(self.model.queries[name], str))
        return pd.DataFrame(total / num_samples, index=index, columns=index)

    def _query(self, name: str, transform_batch: Any, options: dict[str, Any]) -> ModelQuery:
        if name not in self.model.queries:
            raise ValueError(f"name must be one of the model's queries, {list(self.model.queries)}; got {name!r}")
        kinds = self.model.queries[name]
        axes = (kinds,) if isinstance(kinds, str) else kinds
        options = dict(options)
        chosen = {axis: self.labels.columns(axis, options.pop(axis, None)) for axis in axes}
        return ModelQuery(self.model, name, self.labels, chosen, self._batch_codes(transform_batch), options)

    def _batch_codes(self, transform_batch: str | Sequence[str] | None) -> list[int | None]:
        if transform_batch is None:
            return [None]
        levels = self.labels.names("batch")
        several = hasattr(transform_batch, "__iter__") and not isinstance(transform_batch, str)
        names = list_of("transform_batch", transform_batch, levels, repeats=True) if several else [transform_batch]
        wanted = [str(name) for name in names]
        if not wanted or not set(wanted) <= set(levels):
            unknown = [name for name in wanted if name not in levels]
            raise ValueError(f"transform_batch must be among the batches {levels}; got {unknown}")
        return [levels.index(name) if len(levels) > 1 else None for name in wanted]

    # Writing --------------------------------------------------------------------------------------------------------

    def annotate(self, adata: AnnData) -> None:
        """Write each row's posterior mean latent to ``obsm["X_<model>"]``, and its sd to ``obsm["X_<model>_sd"]``.

        Parameters
        ----------
        adata
            AnnData to write to; its rows must be rows of the DataModule, in any order.

        Raises
        ------
        ValueError
            Where it has rows that the DataModule lacks.
        """
        order = self.dm.adata.obs_names.get_indexer(adata.obs_names)
        if (order < 0).any():
            raise ValueError(
                f"adata must have rows of the posterior's data; got {int((order < 0).sum())} others of {adata.n_obs}, "
                f"such as {adata.obs_names[order < 0][0]!r}: make a Posterior over a DataModule of this AnnData"
            )
        mean, sd = self._moments("all", 25, 0)
        key = self.model.latent_key
        adata.obsm[key], adata.obsm[f"{key}_sd"] = mean[order], sd[order]
