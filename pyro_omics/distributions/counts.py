"""Distributions over counts, in the field's parameters (mean, inverse dispersion, dropout logits)."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions.utils import broadcast_all
from torch.nn import functional

from pyro_omics import kernels
from pyro_omics.kernels.dispatch import is_abstract
from pyro_omics.kernels.likelihood.stirling import EPS

STIRLING_FROM = 1e3  # above it, lgamma(x + theta) - lgamma(theta) is too inaccurate in float32


class NegativeBinomial(kernels.CountDistribution, TorchDistribution):
    r"""Negative binomial with mean mu and inverse dispersion theta: variance mu + mu^2 / theta.

    .. math:: \log p(x) = \log\frac{\Gamma(x+\theta)}{\Gamma(\theta)\,x!}
        + \theta \log\frac{\theta}{\theta+\mu} + x \log\frac{\mu}{\theta+\mu}

    with 1e-8 added inside the logarithms, so that a cell without counts (mu = 0) stays finite. For theta > 1e3 the
    ratio of gamma functions is Stirling's series, which is accurate in float32 up to the Poisson limit.

    Parameters
    ----------
    mu
        (...) mean, in counts, >= 0.
    theta
        (...) inverse dispersion, > 0.

    Source: Lopez et al. 2018, Supplementary Note 1 (the Gamma-Poisson mixture).
    """

    arg_constraints = {"mu": constraints.nonnegative, "theta": constraints.positive}
    support = constraints.nonnegative_integer
    kernel = kernels.NEGATIVE_BINOMIAL

    def __init__(self, mu: Tensor, theta: Tensor, validate_args: bool | None = None) -> None:
        self.mu, self.theta = broadcast_all(mu, theta)
        self._theta = torch.as_tensor(theta, dtype=self.mu.dtype, device=self.mu.device)
        super().__init__(self.mu.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NegativeBinomial:
        """The same distribution over a larger batch shape."""
        new = self._get_checked_instance(NegativeBinomial, _instance)
        new.mu, new.theta = self.mu.expand(batch_shape), self.theta.expand(batch_shape)
        new._theta = self._theta
        super(NegativeBinomial, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def kernel_parameters(self) -> tuple[Tensor, ...]:
        """Mean mu, and theta before it is broadcast."""
        return self.mu, self._theta

    @property
    def mean(self) -> Tensor:
        """The mean, mu."""
        return self.mu

    @property
    def variance(self) -> Tensor:
        """The variance, mu + mu^2 / theta."""
        return self.mu + self.mu.square() / self.theta

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Counts, as floats: Poisson(mu / theta * Gamma(theta, 1))."""
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            unit = torch._standard_gamma(self.theta.expand(shape))
            return torch.poisson(unit * (self.mu / self.theta).expand(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Natural log of the probability, elementwise."""
        if self._validate_args:
            self._validate_sample(value)
        # Not broadcast, because mu may have dimensions that counts and theta do not, and the gamma functions are the
        # expensive part.
        theta = self._theta
        large = theta > STIRLING_FROM
        if not is_abstract(theta) and not bool(large.any()):
            return _log_nb(value, self.mu, theta)
        # Each branch gets harmless arguments where the other is taken: a NaN there would make the gradient NaN.
        small = _log_nb(value, self.mu, theta.masked_fill(large, 1.0))
        stirling = _log_nb_stirling(value, self.mu, theta.masked_fill(~large, STIRLING_FROM))
        return torch.where(large, stirling, small)


def _log_nb(x: Tensor, mu: Tensor, theta: Tensor) -> Tensor:
    log_choose = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
    log_theta_mu = torch.log(theta + mu + EPS)
    log_fail = torch.log(theta + EPS) - log_theta_mu
    return log_choose + theta * log_fail + x * (torch.log(mu + EPS) - log_theta_mu)


def _log_nb_stirling(x: Tensor, mu: Tensor, theta: Tensor) -> Tensor:
    series = 1 / (12 * (x + theta)) - 1 / (12 * theta)
    shape = (theta - 0.5) * torch.log1p(x / theta) - theta * torch.log1p(mu / theta)
    return shape + series + x * torch.log1p((x - mu) / (theta + mu)) + x * torch.log(mu + EPS) - x - torch.lgamma(x + 1)


class Poisson(kernels.CountDistribution, dist.Poisson):
    """Poisson with a floor of 1e-8 on its rate, so that a cell without counts has finite gradients.

    Parameters
    ----------
    rate
        (...) mean, in counts, >= 0.
    """

    kernel = kernels.POISSON

    def __init__(self, rate: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(rate, validate_args=validate_args)
        self.rate: Tensor = self.rate.clamp(min=EPS)  # after the validation, which must see a negative rate

    def expand(self, batch_shape: Any, _instance: Any = None) -> Poisson:
        """The same distribution over a larger batch shape."""
        return super().expand(batch_shape, type(self).__new__(type(self)) if _instance is None else _instance)

    def kernel_parameters(self) -> tuple[Tensor, ...]:
        """The rate."""
        return (self.rate,)


class _ZeroInflated(kernels.CountDistribution, dist.ZeroInflatedDistribution):
    """Pyro's ZeroInflatedDistribution without its cached gate, which would replace the logits and break expand."""

    support = constraints.nonnegative_integer

    @property
    def gate(self) -> Tensor:
        """Probability of the extra zero."""
        return torch.sigmoid(self.gate_logits)

    def kernel_parameters(self) -> tuple[Tensor, ...]:
        """Parameters of the base distribution, and the logits."""
        return *self.base_dist.kernel_parameters(), self.gate_logits


class ZeroInflatedNegativeBinomial(_ZeroInflated):
    r"""A zero with probability sigmoid(gate_logits), else NegativeBinomial(mu, theta).

    .. math:: p(0) = \pi + (1 - \pi)\,\mathrm{NB}(0), \qquad p(x) = (1 - \pi)\,\mathrm{NB}(x), \; x > 0

    Parameters
    ----------
    mu, theta
        see `NegativeBinomial`.
    gate_logits
        (...) logit of the extra zero's probability (scVI's dropout logits).

    Source: Lopez et al. 2018, Supplementary Note 1.
    """

    arg_constraints = {**NegativeBinomial.arg_constraints, "gate_logits": constraints.real}
    kernel = kernels.ZERO_INFLATED_NEGATIVE_BINOMIAL

    def __init__(self, mu: Tensor, theta: Tensor, gate_logits: Tensor, validate_args: bool | None = None) -> None:
        base = NegativeBinomial(mu, theta, validate_args=validate_args)
        super().__init__(base, gate_logits=gate_logits, validate_args=validate_args)

    @property
    def mu(self) -> Tensor:
        """Mean of the negative binomial."""
        return self.base_dist.mu

    @property
    def theta(self) -> Tensor:
        """Inverse dispersion of the negative binomial."""
        return self.base_dist.theta


class ZeroInflatedPoisson(_ZeroInflated):
    """A zero with probability sigmoid(gate_logits), else Poisson(rate) with a floor of 1e-8 on the rate.

    Logits, not probabilities: with a gate of exactly 0, a zero at a large rate would have no finite log-probability.

    Parameters
    ----------
    rate
        (...) mean of the Poisson, in counts, >= 0.
    gate_logits
        (...) logit of the extra zero's probability.

    Source: Lambert 1992, Technometrics 34(1), equation 1.
    """

    arg_constraints = {"rate": constraints.nonnegative, "gate_logits": constraints.real}
    kernel = kernels.ZERO_INFLATED_POISSON

    def __init__(self, rate: Tensor, gate_logits: Tensor, validate_args: bool | None = None) -> None:
        super().__init__(
            Poisson(rate, validate_args=validate_args), gate_logits=gate_logits, validate_args=validate_args
        )

    @property
    def rate(self) -> Tensor:
        """Mean of the Poisson."""
        return self.base_dist.rate


class NegativeBinomialMixture(kernels.CountDistribution, TorchDistribution):
    r"""Mixture of a background and a foreground of counts; the choice of the component is summed out.

    .. math:: p(y) = \pi \, \mathrm{NB}(y; \mu_b, \theta) + (1 - \pi) \, \mathrm{NB}(y; \mu_f, \theta), \quad
        \pi = \mathrm{sigmoid}(\mathrm{logits})

    Parameters
    ----------
    mu_background, mu_foreground
        (...) means, in counts, >= 0.
    theta
        (...) inverse dispersion of both, > 0.
    background_logits
        (...) logit of pi, the probability of the background.

    Source: Gayoso et al. 2021, Nature Methods 18, 272 (equations of the Methods, "The totalVI model").
    """

    arg_constraints = {
        "mu_background": constraints.nonnegative,
        "mu_foreground": constraints.nonnegative,
        "theta": constraints.positive,
        "background_logits": constraints.real,
    }
    support = constraints.nonnegative_integer
    kernel = kernels.NEGATIVE_BINOMIAL_MIXTURE

    def __init__(
        self,
        mu_background: Tensor,
        mu_foreground: Tensor,
        theta: Tensor,
        background_logits: Tensor,
        validate_args: bool | None = None,
    ) -> None:
        self.mu_background, self.mu_foreground, self.theta, self.background_logits = broadcast_all(
            mu_background, mu_foreground, theta, background_logits
        )
        self._theta = torch.as_tensor(theta, dtype=self.theta.dtype, device=self.theta.device)
        super().__init__(self.mu_background.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> NegativeBinomialMixture:
        """The same distribution over a larger batch shape."""
        new = self._get_checked_instance(NegativeBinomialMixture, _instance)
        for name in self.arg_constraints:
            setattr(new, name, getattr(self, name).expand(batch_shape))
        new._theta = self._theta
        super(NegativeBinomialMixture, new).__init__(torch.Size(batch_shape), validate_args=False)
        new._validate_args = self._validate_args
        return new

    def kernel_parameters(self) -> tuple[Tensor, ...]:
        """The means, theta before it is broadcast, and the logits."""
        return self.mu_background, self.mu_foreground, self._theta, self.background_logits

    @property
    def background(self) -> NegativeBinomial:
        """Component of the background."""
        return NegativeBinomial(self.mu_background, self._theta, validate_args=self._validate_args)

    @property
    def foreground(self) -> NegativeBinomial:
        """Component of the foreground."""
        return NegativeBinomial(self.mu_foreground, self._theta, validate_args=self._validate_args)

    @property
    def mean(self) -> Tensor:
        """The mean, pi mu_b + (1 - pi) mu_f."""
        pi = torch.sigmoid(self.background_logits)
        return pi * self.mu_background + (1 - pi) * self.mu_foreground

    @property
    def variance(self) -> Tensor:
        """The variance, within and between the components."""
        pi = torch.sigmoid(self.background_logits)
        within = pi * self.background.variance + (1 - pi) * self.foreground.variance
        return within + pi * (1 - pi) * (self.mu_foreground - self.mu_background).square()

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Counts, as floats."""
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            background = torch.bernoulli(torch.sigmoid(self.background_logits).expand(shape))
            mu = torch.where(background.bool(), self.mu_background, self.mu_foreground)
            return NegativeBinomial(mu, self.theta.expand(shape), validate_args=False).sample()

    def _log_joint(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of (y, background) and of (y, foreground)."""
        background = self.background.log_prob(value) + functional.logsigmoid(self.background_logits)
        foreground = self.foreground.log_prob(value) + functional.logsigmoid(-self.background_logits)
        return background, foreground

    def log_prob(self, value: Tensor) -> Tensor:
        """Natural log of the probability, elementwise."""
        if self._validate_args:
            self._validate_sample(value)
        return torch.logaddexp(*self._log_joint(value))

    def foreground_probability(self, value: Tensor) -> Tensor:
        """P(foreground | y) of each count, by Bayes' rule."""
        background, foreground = self._log_joint(value)
        return torch.sigmoid(foreground - background)


def masked(fn: TorchDistribution, mask: Tensor | None) -> TorchDistribution:
    """Return ``fn`` with a log-probability that leaves out the entries of its events where ``mask`` is False.

    Parameters
    ----------
    fn
        a distribution whose events are independent entries, made by ``.to_event()``.
    mask
        booleans in the shape of a draw; None leaves nothing out.

    Raises
    ------
    ValueError
        If the entries of an event are not independent.
    """
    if mask is None:
        return fn
    if not isinstance(fn, dist.Independent):
        raise ValueError(
            f"fn must have independent entries, some of which can be masked; got {fn}: make it by .to_event()"
        )
    return fn.base_dist.mask(mask).to_event(fn.reinterpreted_batch_ndims)
