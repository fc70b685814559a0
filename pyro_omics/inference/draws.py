"""Draws from a trained pair, minibatch by minibatch: what every posterior query is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_omics.batch import RowBatch
from pyro_omics.inference.pair import Pair
from pyro_omics.layers import without_side_effects
from pyro_omics.parts.priors import Prior
from pyro_omics.sites import draw_enumerated, global_terms, is_local, latent_values, replayed, row_terms, sample_sites


class GuideDraws:
    """Numbered draws from the guide: draw s has the same global latents in every minibatch.

    Parameters
    ----------
    pair
        the trained model and guide.
    """

    def __init__(self, pair: Pair) -> None:
        self.trained = pair
        self._globals: dict[int, Trace] = {}

    def guide(self, batch: RowBatch, s: int) -> Trace:
        """Draw s of the guide for one minibatch."""
        guide = self.trained.guide
        if s in self._globals:
            return poutine.trace(poutine.replay(guide, trace=self._globals[s])).get_trace(batch)
        trace = poutine.trace(guide).get_trace(batch)
        shared = trace.copy()
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or site_is_subsample(site) or is_local(site):
                shared.remove_node(name)
        self._globals[s] = shared
        return trace

    def pair(self, batch: RowBatch, s: int, model: Callable[..., Any] | None = None) -> tuple[Trace, Trace]:
        """Draw s of the guide, and the model (or ``model``) replayed on it.

        The discrete latents that no guide has are drawn given the rest, the batch's counts among it.
        """
        guide = self.guide(batch, s)
        known = guide.copy()
        if self.trained.nesting is not None:
            summed = replayed(self.trained.model, guide, (batch,), self.trained.nesting)
            for name, value in draw_enumerated(summed).items():
                known.add_node(name, name=name, type="sample", is_observed=False, value=value, infer={})
        return guide, replayed(model or self.trained.model, known, (batch,), None)

    def sites(self, batch: RowBatch, names: Sequence[str], num: int) -> dict[str, Tensor]:
        """The first ``num`` draws of latent sites (num, ...), of all of them when ``names`` is empty.

        Raises
        ------
        ValueError
            For a name that is no latent site.
        """
        values = [latent_values(self.guide(batch, s)) for s in range(num)]
        if unknown := sorted(set(names) - set(values[0])):
            raise ValueError(f"{unknown} are no latent sites of the model: it has {sorted(values[0])}")
        return {name: torch.stack([value[name] for value in values]).cpu() for name in names or values[0]}

    def moments(self, batch: RowBatch, num: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (n, k) of the latent site that is reported, as the decoder sees it.

        In closed form where the guide's distribution has one, else of the first ``num`` draws.
        """
        site, prior = self.trained.model.latent_site, getattr(self.trained.model, "prior", None)
        if not isinstance(prior, Prior) or type(prior).transform is Prior.transform:
            fn = self.guide(batch, 0).nodes[site]["fn"]
            try:
                return tuple(moment.reshape(len(moment), -1) for moment in (fn.mean, fn.variance.sqrt()))
            except NotImplementedError:
                pass  # a distribution without moments in closed form
        values = [self.guide(batch, s).nodes[site]["value"] for s in range(num)]
        seen = torch.stack([prior.transform(value) for value in values] if isinstance(prior, Prior) else values)
        seen = seen.reshape(*seen.shape[:2], -1)
        return seen.mean(0), seen.std(0, correction=0)

    def log_weights(self, batch: RowBatch, s: int, with_global: bool) -> dict[str, Tensor]:
        """Each site's part of log p(x, z) - log q(z), (n,): log p where observed, log p - log q where latent.

        The global sites' parts are divided by n_obs, or left out; a joint autoguide's own site is "auxiliary". Discrete
        latents that no guide has are summed out, see `sites.row_terms`: they have no part of their own.
        """
        parts: dict[str, Tensor] = {}
        zeros = torch.zeros(len(batch.index), device=batch.index.device)
        guide = self.guide(batch, s)
        model = replayed(self.trained.model, guide, (batch,), self.trained.nesting)
        for sign, trace in ((-1, guide), (1, model)):
            sites = sample_sites(trace)
            terms = row_terms(sites)
            if with_global:
                terms |= {name: term / self.trained.n_obs for name, term in global_terms(sites).items()}
            for name, part in terms.items():
                if trace.nodes[name]["infer"].get("is_auxiliary"):
                    # AutoNormal's belongs to one site; those of joint guides to several.
                    name = name.removesuffix("_unconstrained") if name.endswith("_unconstrained") else "auxiliary"
                parts[name] = parts.get(name, zeros) + sign * part
        return parts

    def log_weight(self, batch: RowBatch, s: int, with_global: bool) -> Tensor:
        """Log p(x, z) - log q(z) of each row (n,); with the global terms divided by n_obs, or without them."""
        zeros = torch.zeros(len(batch.index), device=batch.index.device)
        return sum(self.log_weights(batch, s, with_global).values(), zeros)


@contextmanager
def drawing(pair: Pair, seed: int) -> Iterator[GuideDraws]:
    """Draw from a seed, in eval mode and without gradients; the random state and the mode are put back after."""
    with without_side_effects(pair.model, pair.guide), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        yield GuideDraws(pair)
