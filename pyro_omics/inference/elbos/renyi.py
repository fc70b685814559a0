"""Importance-weighted and Renyi bounds of each row."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.poutine import Trace
from torch import Tensor

from pyro_omics.parts.base import check_positive
from pyro_omics.serialization.arguments import RecordsArguments
from pyro_omics.sites import global_terms, is_local, plate_scale, replayed, row_terms, sample_sites

Program: TypeAlias = Callable[..., Any]


class RenyiELBO(ELBO, RecordsArguments):
    r"""The Renyi bound of order alpha over each row's latents, differentiable by torch's autograd.

    .. math::
        \mathcal L = \mathrm{E}_{q(f)} \Big[ \sum_n \frac{1}{1 - \alpha} \log \frac{1}{S} \sum_{s=1}^S
        \Big( \frac{p(x_n, z_{ns} \mid f)}{q(z_{ns} \mid x_n, f)} \Big)^{1 - \alpha} \Big]
        - \mathrm{KL}(q(f) \,\|\, p(f)), \quad z_{ns} \sim q(z_n \mid x_n, f)

    with f the global latents and z_n those of row n. alpha = 0 is the importance-weighted bound, which rises with S
    to log p(x_n | f) of each row; alpha = 1 is the ELBO, and alpha > 1 lies below it. The global latents are drawn
    once, and their KL is estimated from that draw. The sum over a minibatch is scaled to the data set after the
    logarithm: weights of whole minibatches would define another quantity. Discrete latents marked
    ``infer={"enumerate": "parallel"}`` are summed out of each weight.

    In KL warm-up at weight w, the densities of latents in a row's weight are raised to the power w.

    Parameters
    ----------
    alpha
        order of the bound, 0 or more.
    num_particles
        S, the number of draws of each row's latents in a step; guide and model run S times.

    Raises
    ------
    ValueError
        For an alpha below 0, where there is no lower bound, and for a guide with a site that cannot be reparameterised.

    Source: Burda et al. 2016, equation 8 (alpha = 0); Li and Turner 2016, equation 14.
    """

    def __init__(self, alpha: float = 0.0, num_particles: int = 2) -> None:
        if not 0 <= alpha < math.inf:
            raise ValueError(f"alpha must be 0 or more, since below 0 there is no lower bound; got {alpha}")
        check_positive(num_particles=num_particles)
        super().__init__(num_particles=num_particles)
        self.alpha = alpha
        self.plain_loss: Tensor | None = None  # the loss at alpha = 1, for the draws of the last call

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kw: Any) -> Tensor:
        """The negative bound over the full data, in nats."""
        if self.max_plate_nesting == math.inf:
            with torch.random.fork_rng(devices=[]):
                self._guess_max_plate_nesting(model, guide, args, kw)
        weights, shared, scale = [], None, 1.0
        outside: Tensor | float = 0.0
        for _ in range(self.num_particles):
            again = guide if shared is None else poutine.replay(guide, trace=shared)
            p, q = (sample_sites(trace) for trace in self._get_trace(model, again, args, kw))
            weights.append(_total(row_terms(p)) - _total(row_terms(q)))
            if shared is None:
                _check_reparameterised(q)
                shared = _shared(q)
                outside = _total(global_terms(p)) - _total(global_terms(q))
                scale = next((plate_scale(site) for site in p if is_local(site)), 1.0)
        weights_sn = torch.stack([torch.as_tensor(weight) for weight in weights])
        self.plain_loss = torch.as_tensor(-(scale * weights_sn.mean(0).sum() + outside)).detach()
        return -(scale * _renyi(weights_sn, self.alpha).sum() + outside)

    @torch.no_grad()
    def loss(self, model: Program, guide: Program, *args: Any, **kw: Any) -> float:
        """The negative bound over the full data, in nats, without gradient."""
        return self.differentiable_loss(model, guide, *args, **kw).item()

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kw: Any) -> float:
        """The negative bound over the full data, in nats; its gradient is added to that of each parameter.

        With it, ``pyro.infer.SVI(model, guide, optim, loss=RenyiELBO())`` takes the bound as it takes Pyro's own.
        """
        loss = self.differentiable_loss(model, guide, *args, **kw)
        if loss.requires_grad:
            loss.backward(retain_graph=self.retain_graph)
        return loss.item()

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Trace, Trace]:
        q = poutine.trace(guide).get_trace(*args, **kwargs)
        return replayed(partial(model, **kwargs) if kwargs else model, q, args, int(self.max_plate_nesting)), q


class ImportanceWeightedELBO(RenyiELBO):
    """`RenyiELBO` at alpha = 0: the bound of importance-weighted autoencoders.

    Parameters
    ----------
    num_particles
        S, the number of draws of each row's latents in a step.

    Source: Burda et al. 2016, equation 8.
    """

    def __init__(self, num_particles: int = 2) -> None:
        super().__init__(0.0, num_particles)


# Log-weights of rows ------------------------------------------------------------------------------------------------


def _renyi(weights_sn: Tensor, alpha: float) -> Tensor:
    if alpha == 1:
        return weights_sn.mean(0)
    return (((1 - alpha) * weights_sn).logsumexp(0) - math.log(len(weights_sn))) / (1 - alpha)


def _total(terms: dict[str, Tensor]) -> Any:
    return sum(terms.values())


def _shared(sites: list[dict[str, Any]]) -> Trace:
    """A trace of the guide's global latents alone, on which the guide is replayed."""
    trace = Trace()
    for site in sites:
        if not is_local(site):
            trace.add_node(site["name"], **site)
    return trace


def _check_reparameterised(sites: list[dict[str, Any]]) -> None:
    if fixed := [site["name"] for site in sites if not (site["is_observed"] or site["fn"].has_rsample)]:
        raise ValueError(
            f"elbo=RenyiELBO needs draws that can be differentiated, which the guide's sites {fixed} do not have: "
            "sample them from a distribution with rsample, or mark discrete ones infer={'enumerate': 'parallel'} in "
            "the model and leave them out of the guide"
        )
