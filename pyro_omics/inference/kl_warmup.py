"""Handlers of latent sites in training: scaling for KL warm-up, and records of values and densities."""

from __future__ import annotations

from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_omics.sites import global_terms, is_enumerated, is_local, plate_scale, row_terms


class LatentValues(Messenger):
    """Record the guide's value of every latent site in ``values``, name -> value."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        # The first visit of a site is in the guide.
        if _is_latent(msg) and not (msg["infer"].get("is_auxiliary") or is_enumerated(msg)):
            self.values.setdefault(msg["name"], msg["value"])


class ScaleLatents(Messenger):
    """Scale the log-density of every latent site by ``weight``, in model and guide alike.

    Scaling one of the two would leave a term log q - weight log p, which is not a divergence.

    Enumerated sites y may not be scaled: a sum over y of p(y)^weight p(x | y) is not a probability. Use this handler
    with them only if `sites.row_terms` computes the log-probabilities, which ignores the scale of enumerated sites. The
    KL of the other latents is then scaled, with y summed out of their prior.

    Parameters
    ----------
    weight
        weight in (0, 1]; Pyro's scales cannot be 0.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        if not 0 < weight <= 1:
            raise ValueError(f"weight must be in (0, 1]; got {weight}")
        self.weight = weight

    def _pyro_sample(self, msg: Any) -> None:
        if self.weight < 1 and _is_latent(msg):
            msg["scale"] = msg["scale"] * self.weight


class LatentSites(Messenger):
    """Record the latent sites of guide and model while an ELBO runs; `kl` estimates their divergence."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, int] = {}
        self._q: list[dict[str, Any]] = []
        self._p: dict[int, list[dict[str, Any]]] = {}  # particle -> sites

    def _pyro_post_sample(self, msg: Any) -> None:
        if not _is_latent(msg):
            return
        # An ELBO runs the guide and then replays the model: the first visit of a name is in q, the second in p.
        # An autoguide's auxiliary sites are visited in q alone, and enumerated sites in p alone.
        visits = self._seen[msg["name"]] = self._seen.get(msg["name"], -1) + 1
        site = msg.copy()
        if is_enumerated(msg):
            self._p.setdefault(visits, []).append(site)
        elif msg["infer"].get("is_auxiliary") or visits % 2 == 0:
            self._q.append(site)
        else:
            self._p.setdefault(visits // 2, []).append(site)

    def kl(self) -> Tensor | float:
        """Log q - log p of the latents at the draws, over the full data, summed over the particles, in nats.

        The sites keep their scales, and enumerated sites are summed out of log p.
        """
        total: Tensor | float = sum(_log_density([site]) for site in self._q)
        for sites in self._p.values():
            total = total - _log_density(sites)
        return total


def _is_latent(msg: Any) -> bool:
    return not (msg["is_observed"] or site_is_subsample(msg))


def _log_density(sites: list[dict[str, Any]]) -> Tensor | float:
    """The joint log-density of sites over the full data."""
    total: Tensor | float = sum(term.sum() for term in global_terms(sites).values())
    local = [site for site in sites if is_local(site)]
    return total + sum(plate_scale(local[0]) * term.sum() for term in row_terms(local).values()) if local else total
