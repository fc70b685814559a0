"""The KL of an autoguide's Delta, corrected for Pyro's TraceMeanField_ELBO.

Pyro 1.9's TraceMeanField_ELBO is wrong at constrained sites of autoguides: an autoguide's Delta carries the density of
its unconstrained sample in ``log_density``, and the KL registered for Delta drops it (the exact posterior mean of a
LogNormal example is 0.20, Pyro's mean-field result -0.11).
"""

from __future__ import annotations

from typing import Any

from pyro.distributions import Delta
from pyro.distributions.distribution import Distribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import register_kl


class DensityDelta(Delta):
    r"""A Delta that stands for a draw v of a distribution with log-density ``log_density`` there.

    .. math:: \mathrm{KL}(q \| p) \approx \log q(v) - \log p(v)

    Its KL is registered for this class alone, so that other Pyro code of the session keeps Pyro's.
    """


@register_kl(DensityDelta, Distribution)
def _kl_delta(p: DensityDelta, q: Distribution) -> Tensor:
    return p.log_density - q.log_prob(p.v)


class CorrectDeltaKL(Messenger):
    """Let the Deltas that are sampled inside it, those of autoguides, be `DensityDelta`."""

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if type(fn) is Delta and not msg["is_observed"]:
            msg["fn"] = DensityDelta(fn.v, fn.log_density, fn.event_dim)
