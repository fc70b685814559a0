"""Draws from a trained model and guide, one minibatch at a time."""

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
from pyro_omics.layers.module import local_parameters
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
        self._globals: dict[int, Trace] = {}  # s -> the global sites of draw s

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
        """Draw s of the guide, and the trained model (or ``model``, if given) replayed on it.

        Discrete latents that are not in the guide are drawn from their posterior given the other latents and counts.
        """
        guide = self.guide(batch, s)
        known = guide.copy()
        if self.trained.nesting is not None:
            summed = replayed(self.trained.model, guide, (batch,), self.trained.nesting)
            for name, value in draw_enumerated(summed).items():
                known.add_node(name, name=name, type="sample", is_observed=False, value=value, infer={})
        return guide, replayed(model or self.trained.model, known, (batch,), None)

    def sites(self, batch: RowBatch, names: Sequence[str], num: int) -> dict[str, Tensor]:
        """The first ``num`` draws of the latent sites ``names``, each (num, ...); all sites when ``names`` is empty.

        Raises
        ------
        ValueError
            For a name that is not a latent site.
        """
        values = [latent_values(self.guide(batch, s)) for s in range(num)]
        if unknown := sorted(set(names) - set(values[0])):
            raise ValueError(f"sites must be latent sites of the model, {sorted(values[0])}; got {unknown}")
        return {name: torch.stack([value[name] for value in values]).cpu() for name in names or values[0]}

    def moments(self, batch: RowBatch, num: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (n, k) of `model.latent_site`, transformed as the decoder sees it.

        They are in closed form where the guide's distribution has one, else estimated from the first ``num`` draws.
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
        """Terms (n,) of log p(x, z) - log q(z) by site: log p of an observed site, log p - log q of a latent one.

        Terms of global sites are divided by n_obs (``with_global``) or left out. The joint density of an autoguide over
        several sites is the term "auxiliary". Discrete latents that are not in the guide are summed out (see
        `sites.row_terms`) and have no term.
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
                    # AutoNormal has an auxiliary site for each latent; a joint guide has one for several.
                    name = name.removesuffix("_unconstrained") if name.endswith("_unconstrained") else "auxiliary"
                parts[name] = parts.get(name, zeros) + sign * part
        return parts

    def log_weight(self, batch: RowBatch, s: int, with_global: bool) -> Tensor:
        """Log p(x, z) - log q(z) of each row, (n,); global terms are divided by n_obs, or left out."""
        zeros = torch.zeros(len(batch.index), device=batch.index.device)
        return sum(self.log_weights(batch, s, with_global).values(), zeros)


@contextmanager
def drawing(pair: Pair, seed: int) -> Iterator[GuideDraws]:
    """Context of `GuideDraws` from a seed, in eval mode without gradients; random state and mode are restored after.

    Threads enter it one after the other.

    Raises
    ------
    RuntimeError
        Where the pair is being trained in another thread.
    """
    pair.check_thread()
    programs = (pair.model, pair.guide)
    with without_side_effects(*programs), local_parameters(*programs), pyro.validation_enabled(False):
        torch.manual_seed(seed)
        yield GuideDraws(pair)
