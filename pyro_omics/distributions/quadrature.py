"""Distribution over positive numbers with an unnormalised density, by quadrature over cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor


class Quadrature(TorchDistribution):
    r"""Distribution with a density proportional to exp(log_joint), normalised by a sum over cells.

    .. math:: p(g) = \frac{e^{\ell(g)}}{\sum_k \int_k g^{a-1} dg \; e^{\ell(m_k)} m_k^{1-a}}

    with l = log_joint and m_k the mean of cell k under the power g^(a-1), so that the rule is exact for such a power
    times a linear function. A draw takes a cell by its probability, and a point in the cell by the power, corrected by
    sampling-importance-resampling.

    Draws carry no gradient. If l is a log joint density with observations, l(g) - log p(g) is the log evidence for
    every g, and its gradient needs none through g.

    Parameters
    ----------
    edges
        (..., K + 1) ascending, the first >= 0; cells of width 0 are allowed, and have probability 0.
    log_joint
        l, a function from points (k, ...) to values (k, ...), for any k.
    power
        a > 0, ().
    """

    arg_constraints = {"power": constraints.positive}
    support = constraints.positive
    has_rsample = True

    def __init__(
        self,
        edges: Tensor,
        log_joint: Callable[[Tensor], Tensor],
        power: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.edges, self.log_joint, self.power = edges, log_joint, power
        low, high = edges[..., :-1], edges[..., 1:]
        # The power may be a parameter: its gradient passes through the mass of a cell, not through its middle.
        self._log_mass, self._empty = _log_mass(low, high, power)
        with torch.no_grad():
            moment = (high ** (power + 1) - low ** (power + 1)) / (power + 1)
            # Rounding may move the mean of a narrow cell outside of it.
            middle = torch.minimum(torch.maximum(moment / self._log_mass.exp(), low), high).clamp(min=TINY)
        self.middle = middle.movedim(-1, 0)
        values = log_joint(self.middle).movedim(0, -1)
        offset = self._log_mass - (power - 1) * middle.log()
        self.log_weights = (values + offset).masked_fill(self._empty, -torch.inf)
        self.log_evidence = self.log_weights.logsumexp(-1)
        super().__init__(edges.shape[:-1], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Quadrature:
        """The same distribution over a larger batch shape, with which ``log_joint`` must broadcast."""
        shape = torch.Size(batch_shape)
        if shape == self.batch_shape:
            return self
        new = self._get_checked_instance(Quadrature, _instance)
        new.log_joint, new.power = self.log_joint, self.power
        for name in ("edges", "log_weights", "_log_mass", "_empty"):
            value = getattr(self, name)
            setattr(new, name, value.expand(*shape, value.shape[-1]))
        new.middle = self.middle.movedim(0, -1).expand(*shape, len(self.middle)).movedim(-1, 0)
        new.log_evidence = self.log_evidence.expand(shape)
        super(Quadrature, new).__init__(shape, validate_args=False)
        new._validate_args = self._validate_args
        return new

    @classmethod
    def infer_shapes(cls, edges: Any, **shapes: Any) -> tuple[torch.Size, torch.Size]:
        """Batch shape and event shape, from the shape of ``edges`` (..., K + 1)."""
        return torch.Size(edges[:-1]), torch.Size()

    @torch.no_grad()
    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, (sample_shape, ...), without gradient."""
        shape = torch.Size((CANDIDATES, *sample_shape))
        cumulative = self.log_weights.softmax(-1).cumsum(-1)
        u = torch.rand(*shape, *self.batch_shape, 1, dtype=cumulative.dtype, device=cumulative.device)
        cell = (cumulative <= u * cumulative[..., -1:]).sum(-1, keepdim=True).clamp(max=cumulative.shape[-1] - 1)
        edges = self.edges.expand(*shape, *self.edges.shape)
        low, high = edges.gather(-1, cell).squeeze(-1), edges.gather(-1, cell + 1).squeeze(-1)
        inside = torch.rand_like(low)
        # In logarithms, because with a small power most draws in the first cell are below the smallest float.
        log_ratio = torch.where(low > 0, self.power * (low / high).log(), -torch.inf)
        drawn = high * ((log_ratio.exp() + inside * -log_ratio.expm1()).log() / self.power).exp()
        drawn = torch.minimum(torch.maximum(drawn, low), high).clamp(min=TINY)
        # The power only approximates the density in a cell: one of a few candidates is chosen by importance weight.
        offset = (
            (self.log_weights - self._log_mass).expand(*shape, *self.log_weights.shape).gather(-1, cell).squeeze(-1)
        )
        proposed = offset + (self.power - 1) * drawn.log()
        joint = self.log_joint(drawn.flatten(0, -1 - len(self.batch_shape))).reshape(drawn.shape)
        noise = -torch.empty_like(joint).exponential_().log()
        chosen = (joint - proposed + noise).argmax(0, keepdim=True)
        return drawn.gather(0, chosen).squeeze(0)

    @torch.no_grad()
    def cdf(self, value: Tensor | float) -> Tensor:
        """Probability (...) of values up to ``value``."""
        low, high = self.edges[..., :-1], self.edges[..., 1:]
        top = torch.minimum(torch.as_tensor(value, dtype=high.dtype).unsqueeze(-1).expand_as(high), high)
        share = torch.where(top > low, (_log_mass(low, top, self.power)[0] - self._log_mass).exp(), 0.0)
        return (self.log_weights.softmax(-1) * share.where(~self._empty, 0.0)).sum(-1)

    @torch.no_grad()
    def mean_of(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean (...) of ``function``, which maps points (k, ...) to values (k, ...)."""
        weights = self.log_weights.softmax(-1).movedim(-1, 0)
        return (weights * function(self.middle)).sum(0)

    def log_prob(self, value: Tensor) -> Tensor:
        """Natural log of the density."""
        return self.log_joint(value.unsqueeze(0)).squeeze(0) - self.log_evidence


CANDIDATES = 4
TINY = 1e-30  # below it, log-densities of sparse Gammas are not finite in float32


def _log_mass(low: Tensor, high: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the integral of g^(a-1) over each cell, and which cells have width 0."""
    empty = high <= low
    ratio = (low / high.masked_fill(empty, 1.0)).masked_fill(empty, 0.5)
    # 1 - (low / high)^a without cancellation, for narrow cells and small powers.
    log_ratio = ratio.clamp(min=TINY).log()
    share = torch.where(ratio > 0, -torch.expm1(power * log_ratio), 1.0)
    return power * high.masked_fill(empty, 1.0).log() + share.log() - power.log(), empty
