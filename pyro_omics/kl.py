"""What training does with the latent sites: it scales them in KL warm-up, and shows their values to a penalty."""

from __future__ import annotations

from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor


class LatentValues(Messenger):
    """Notes the value of every latent site at its first visit, which is the guide's: ``values``, name -> value."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if not (msg["is_observed"] or site_is_subsample(msg) or msg["infer"].get("is_auxiliary")):
            self.values.setdefault(msg["name"], msg["value"])


class ScaleLatents(Messenger):
    """Scales the log-density of every latent site by ``weight``, in model and guide alike.

    Scaling one of the two would leave a term log q - weight log p, which is no divergence.

    Parameters
    ----------
    weight
        in (0, 1]; Pyro's scales cannot be 0.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        if not 0 < weight <= 1:
            raise ValueError(f"weight of the latent sites must be in (0, 1], and is {weight}")
        self.weight = weight
        self._seen: dict[str, int] = {}
        self._terms: list[tuple[int, Any, Tensor, Any, Any]] = []

    def _pyro_sample(self, msg: Any) -> None:
        if self.weight < 1 and not msg["is_observed"] and not site_is_subsample(msg):
            msg["scale"] = msg["scale"] * self.weight

    def _pyro_post_sample(self, msg: Any) -> None:
        if self.weight == 1 or msg["is_observed"] or site_is_subsample(msg):
            return
        # An ELBO runs the guide and then replays the model: the first visit of a name is q's, the second p's.
        # What only the guide has (an autoguide's auxiliary sites) is q's each time.
        visits = self._seen[msg["name"]] = self._seen.get(msg["name"], -1) + 1
        sign = 1 if visits % 2 == 0 or msg["infer"].get("is_auxiliary") else -1
        self._terms.append((sign, msg["fn"], msg["value"], msg["scale"] / self.weight, msg["mask"]))

    @torch.no_grad()
    def missing_kl(self) -> Tensor | float:
        """What the weight took from the KL, (1 - weight) * (log q - log p), over the full data, in nats."""
        total: Tensor | float = 0.0
        for sign, fn, value, scale, mask in self._terms:
            log_prob = fn.log_prob(value)
            if isinstance(mask, Tensor):
                log_prob = log_prob.where(mask, log_prob.new_zeros(()))
            elif mask is False:
                continue
            total = total + sign * (scale * log_prob).sum()
        return (1 - self.weight) * total
