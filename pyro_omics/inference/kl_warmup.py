"""What training does with the latent sites: it scales them in KL warm-up, and shows their values to a penalty."""

from __future__ import annotations

from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_omics.sites import global_terms, is_enumerated, is_local, plate_scale, row_terms


class LatentValues(Messenger):
    """Records the value of every latent site at its first visit, which is the guide's: ``values``, name -> value."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if _is_latent(msg) and not (msg["infer"].get("is_auxiliary") or is_enumerated(msg)):
            self.values.setdefault(msg["name"], msg["value"])


class ScaleLatents(Messenger):
    """Scales the log-density of every latent site by ``weight``, in model and guide alike.

    Scaling one of the two would leave a term log q - weight log p, which is no divergence. Sites that an ELBO
    enumerates need one scale and are not for this handler, unless their log-probabilities are read by
    `sites.row_terms`, which leaves these sites' own scale out: a sum over y of p(y)^weight p(x | y) would be no
    probability. What is scaled then is the KL of the other latents, with y summed out of their prior.

    Parameters
    ----------
    weight
        in (0, 1]; Pyro's scales cannot be 0.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        if not 0 < weight <= 1:
            raise ValueError(f"weight of the latent sites must be in (0, 1]; got {weight}")
        self.weight = weight

    def _pyro_sample(self, msg: Any) -> None:
        if self.weight < 1 and _is_latent(msg):
            msg["scale"] = msg["scale"] * self.weight


class LatentSites(Messenger):
    """Records the latent sites of guide and model in an ELBO's run, of which `kl` is the divergence."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[str, int] = {}
        self._q: list[dict[str, Any]] = []
        self._p: dict[int, list[dict[str, Any]]] = {}  # of each particle

    def _pyro_post_sample(self, msg: Any) -> None:
        if not _is_latent(msg):
            return
        # An ELBO runs the guide and then replays the model: the first visit of a name is q's, the second p's.
        # What only the guide has (an autoguide's auxiliary sites) is q's each time; what is enumerated, p's.
        visits = self._seen[msg["name"]] = self._seen.get(msg["name"], -1) + 1
        site = msg.copy()
        if is_enumerated(msg):
            self._p.setdefault(visits, []).append(site)
        elif msg["infer"].get("is_auxiliary") or visits % 2 == 0:
            self._q.append(site)
        else:
            self._p.setdefault(visits // 2, []).append(site)

    def kl(self) -> Tensor | float:
        """Log q - log p at the draws, summed over the particles, over the full data, in nats, at the sites' scales.

        Enumerated sites are summed out of log p.
        """
        total: Tensor | float = sum(_log_density([site]) for site in self._q)
        for sites in self._p.values():
            total = total - _log_density(sites)
        return total


def _is_latent(msg: Any) -> bool:
    return not (msg["is_observed"] or site_is_subsample(msg))


def _log_density(sites: list[dict[str, Any]]) -> Tensor | float:
    """Of these sites together, over the full data."""
    total: Tensor | float = sum(term.sum() for term in global_terms(sites).values())
    local = [site for site in sites if is_local(site)]
    return total + sum(plate_scale(local[0]) * term.sum() for term in row_terms(local).values()) if local else total
