"""Count distributions against scipy (float64), mpmath (gradients) and their own samples."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy import stats

from pyro_omics.distributions import (
    NegativeBinomial,
    NegativeBinomialMixture,
    Poisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
    masked,
)

MU = [0.1, 0.9, 7.0, 60.0, 2000.0]
THETA = [0.05, 1.0, 30.0, 999.0, 1001.0, 1e5, 1e7]  # both sides of the change to Stirling's series at 1e3
COUNT = [0.0, 1.0, 2.0, 9.0, 80.0, 1500.0]
LOGITS = [-30.0, -2.0, 0.0, 3.0]


def grid(*values, dtype=torch.float64):
    return [axis.reshape(-1) for axis in torch.meshgrid(*(torch.tensor(v, dtype=dtype) for v in values), indexing="ij")]


def scipy_nb(x, mu, theta):
    x, mu, theta = (np.asarray(v, dtype=np.float64) for v in (x, mu, theta))
    return stats.nbinom.logpmf(x, theta, theta / (theta + mu))


def inflated(x, log_pmf, logits):
    """log of pi [x = 0] + (1 - pi) pmf, by its definition."""
    x, logits = np.asarray(x), np.asarray(logits)
    log_gate, log_rest = stats.logistic.logcdf(logits), stats.logistic.logsf(logits)
    return np.where(x == 0, np.logaddexp(log_gate, log_rest + log_pmf), log_rest + log_pmf)


def make(name, mu, theta=3.0, logits=-0.7, dtype=torch.float64, **options):
    mu, theta, logits = (torch.as_tensor(v, dtype=dtype) for v in (mu, theta, logits))
    return {
        "nb": lambda: NegativeBinomial(mu, theta, **options),
        "zinb": lambda: ZeroInflatedNegativeBinomial(mu, theta, logits, **options),
        "poisson": lambda: Poisson(mu, **options),
        "zip": lambda: ZeroInflatedPoisson(mu, logits, **options),
        "mixture": lambda: NegativeBinomialMixture(mu, 4 * mu, theta, logits, **options),
    }[name]()


ALL = ["nb", "zinb", "poisson", "zip", "mixture"]


# Values ---------------------------------------------------------------------------------------------------------------


def test_nb_is_scipys():
    mu, theta, x = grid(MU, THETA, COUNT)
    np.testing.assert_allclose(NegativeBinomial(mu, theta).log_prob(x), scipy_nb(x, mu, theta), rtol=2e-7, atol=2e-6)


def test_zinb_is_the_mixture_of_scipys():
    mu, theta, logits, x = grid(MU, THETA, LOGITS, COUNT)
    truth = inflated(x, scipy_nb(x, mu, theta), logits)
    ours = ZeroInflatedNegativeBinomial(mu, theta, logits).log_prob(x)
    np.testing.assert_allclose(ours, truth, rtol=2e-7, atol=2e-6)


def test_poisson_is_scipys():
    rate, x = grid(MU, COUNT)
    np.testing.assert_allclose(Poisson(rate).log_prob(x), stats.poisson.logpmf(x, rate), rtol=1e-10, atol=1e-10)


def test_zip_is_the_mixture_of_scipys():
    rate, logits, x = grid(MU, LOGITS, COUNT)
    truth = inflated(x, stats.poisson.logpmf(x, rate), logits)
    np.testing.assert_allclose(ZeroInflatedPoisson(rate, logits).log_prob(x), truth, rtol=1e-10, atol=1e-10)


def test_mixture_is_that_of_scipys():
    mu, theta, logits, x = grid(MU, THETA, LOGITS, COUNT)
    high = 1 + 3 * mu
    log_pi, log_rest = stats.logistic.logcdf(logits), stats.logistic.logsf(logits)
    background, foreground = log_pi + scipy_nb(x, mu, theta), log_rest + scipy_nb(x, high, theta)
    ours = NegativeBinomialMixture(mu, high, theta, logits)
    np.testing.assert_allclose(ours.log_prob(x), np.logaddexp(background, foreground), rtol=2e-7, atol=2e-6)
    probability = 1 / (1 + np.exp(np.clip(background - foreground, -700, 700)))
    np.testing.assert_allclose(ours.foreground_probability(x), probability, rtol=1e-5, atol=1e-12)


def test_mixture_at_the_ends_is_its_components():
    mu, theta, x = grid(MU, THETA, COUNT)
    one = torch.ones_like(mu)
    low = NegativeBinomialMixture(mu, 9 * mu + 1, theta, 1e6 * one)
    high = NegativeBinomialMixture(mu, 9 * mu + 1, theta, -1e6 * one)
    torch.testing.assert_close(low.log_prob(x), NegativeBinomial(mu, theta).log_prob(x))
    torch.testing.assert_close(high.log_prob(x), NegativeBinomial(9 * mu + 1, theta).log_prob(x))
    assert (low.foreground_probability(x) < 1e-30).sum() > 0


def test_masked_leaves_out_single_entries():
    fn = NegativeBinomial(torch.tensor([[2.0, 5.0], [1.0, 3.0]]), torch.tensor(2.0)).to_event(1)
    mask = torch.tensor([[True, False], [False, False]])
    x = torch.tensor([[1.0, 4.0], [0.0, 2.0]])
    truth = torch.stack([fn.base_dist.log_prob(x)[0, 0], torch.tensor(0.0)])
    torch.testing.assert_close(masked(fn, mask).log_prob(x), truth)
    assert masked(fn, None) is fn
    with pytest.raises(ValueError, match=r"fn must have independent entries.*; got "):
        masked(torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2)), mask)


def test_nb_at_large_theta_is_poisson():
    mu, x = grid(MU[:-1], COUNT[:-1])
    limit = stats.poisson.logpmf(x, mu)
    for theta in (1e10, 1e13):
        ours = NegativeBinomial(mu, torch.tensor(theta, dtype=torch.float64)).log_prob(x)
        np.testing.assert_allclose(ours, limit, rtol=2e-7, atol=2e-6)
        single = NegativeBinomial(mu.float(), torch.tensor(theta)).log_prob(x.float())
        np.testing.assert_allclose(single, limit, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("theta", [0.5, 40.0, 2000.0])
@pytest.mark.parametrize("name", ALL)
def test_probabilities_sum_to_one(name, theta):
    x = torch.arange(4000, dtype=torch.float64)
    total = make(name, 15.0, theta).log_prob(x).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-6)


# Moments and samples --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theta", [0.5, 40.0, 2000.0])
@pytest.mark.parametrize("name", ALL)
def test_mean_and_variance_are_those_of_the_probabilities(name, theta):
    d = make(name, 15.0, theta)
    x = torch.arange(4000, dtype=torch.float64)
    p = d.log_prob(x).exp()
    mean = (p * x).sum()
    assert d.mean.item() == pytest.approx(mean.item(), rel=1e-5)
    assert d.variance.item() == pytest.approx((p * (x - mean).square()).sum().item(), rel=1e-5)


@pytest.mark.parametrize("mu", [0.3, 15.0])
@pytest.mark.parametrize("name", ALL)
def test_samples_have_the_probabilities_of_log_prob(name, mu):
    torch.manual_seed(0)
    n = 100_000
    x = make(name, mu).sample((n,))
    assert x.dtype == torch.float64
    assert (x == x.floor()).all()
    assert (x >= 0).all()
    d = make(name, mu)
    assert abs(x.mean() - d.mean) < 4 * (d.variance / n).sqrt()
    fourth = (x - d.mean).pow(4).mean()
    assert abs(x.var() - d.variance) < 4 * ((fourth - d.variance**2) / n).sqrt()
    support = torch.arange(40, dtype=torch.float64)
    p = make(name, mu).log_prob(support).exp()
    share = (x[:, None] == support).double().mean(0)
    assert (abs(share - p) < 4.5 * (p * (1 - p) / n).sqrt() + 1e-4).all()


@pytest.mark.parametrize("name", ALL)
def test_samples_at_mean_zero_are_zero(name):
    torch.manual_seed(0)
    assert (make(name, torch.zeros(5), dtype=torch.float32).sample((200,)) == 0).all()


# Shapes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_expand_and_to_event_keep_the_probabilities(name):
    d = make(name, torch.tensor([1.0, 4.0, 9.0]))
    x = torch.tensor([0.0, 3.0, 12.0], dtype=torch.float64)
    wide = d.expand((5, 3))
    assert wide.batch_shape == (5, 3)
    assert wide.event_shape == ()
    torch.testing.assert_close(wide.log_prob(x), d.log_prob(x).expand(5, 3))
    rows = wide.to_event(1)
    assert rows.batch_shape == (5,)
    assert rows.event_shape == (3,)
    torch.testing.assert_close(rows.log_prob(x), d.log_prob(x).sum().expand(5))
    assert rows.sample((2,)).shape == (2, 5, 3)


@pytest.mark.parametrize("name", ALL)
def test_parameters_broadcast(name):
    d = make(name, torch.ones(4, 1), theta=torch.ones(3), logits=torch.zeros(4, 1))
    expected = (4, 1) if name in ("poisson", "zip") else (4, 3)
    assert d.batch_shape == expected
    assert d.log_prob(torch.zeros(expected, dtype=torch.float64)).shape == expected


@pytest.mark.parametrize("used", ["mean", "variance", "sample"])
@pytest.mark.parametrize("name", ALL)
def test_a_distribution_is_the_same_after_use(name, used):
    """Pyro's zero-inflated base keeps the gate's probability once it was asked for."""
    d = make(name, 200.0, theta=1e5, logits=-150.0, dtype=torch.float32)
    x = torch.tensor([0.0, 3.0])
    before = d.log_prob(x)
    d.sample() if used == "sample" else getattr(d, used)
    torch.testing.assert_close(d.log_prob(x), before)
    torch.testing.assert_close(d.expand((2,)).log_prob(x), before)


# float32 --------------------------------------------------------------------------------------------------------------


def exact_nb(x, mu, theta):
    """Value, and derivatives by log mu and by log theta, in 40 digits."""
    with mpmath.workdps(40):
        x, mu, theta = mpmath.mpf(x), mpmath.mpf(mu), mpmath.mpf(theta)
        value = mpmath.loggamma(x + theta) - mpmath.loggamma(theta) - mpmath.loggamma(x + 1)
        value += theta * mpmath.log(theta / (theta + mu)) + x * mpmath.log(mu / (theta + mu))
        by_mu = x / mu - (x + theta) / (theta + mu)
        by_theta = mpmath.digamma(x + theta) - mpmath.digamma(theta) + mpmath.log(theta / (theta + mu))
        by_theta += (mu - x) / (theta + mu)
        return float(value), float(mu * by_mu), float(theta * by_theta)


@pytest.mark.parametrize("theta", [0.05, 1.0, 30.0, 999.0, 1001.0, 1e5, 1e7])
def test_nb_in_float32_follows_float64(theta):
    # Where the truth is small beside the terms that it is summed from, float32 allows an absolute tolerance only. The
    # usual form is 0.1 nats off at theta = 1e5, in value and gradient, and 14 at 1e7.
    for m in MU:
        for c in COUNT:
            mu, t = torch.tensor(m, requires_grad=True), torch.tensor(theta, requires_grad=True)
            ours = NegativeBinomial(mu, t).log_prob(torch.tensor(c))
            by_mu, by_theta = torch.autograd.grad(ours, (mu, t))
            value, by_log_mu, by_log_theta = exact_nb(c, mu.item(), t.item())
            assert ours.item() == pytest.approx(value, rel=1e-4, abs=3e-3), (m, c)
            assert m * by_mu.item() == pytest.approx(by_log_mu, rel=1e-2, abs=3e-4), (m, c)
            assert theta * by_theta.item() == pytest.approx(by_log_theta, rel=1e-2, abs=1e-3), (m, c)


@pytest.mark.parametrize("theta", [1e5, 1e7])
def test_zinb_in_float32_follows_float64_at_large_theta(theta):
    for x in (0.0, 3.0, 80.0):
        grads = []
        for dtype in (torch.float32, torch.float64):
            inputs = [torch.tensor(v, dtype=dtype, requires_grad=True) for v in (60.0, theta, -1.0)]
            value = ZeroInflatedNegativeBinomial(*inputs).log_prob(torch.tensor(x, dtype=dtype))
            by_mu, by_theta, by_logits = torch.autograd.grad(value, inputs)
            grads.append([value.item(), by_mu.item(), by_theta.item() * theta, by_logits.item()])
        np.testing.assert_allclose(grads[0], grads[1], rtol=1e-2, atol=1e-3)


# Corners --------------------------------------------------------------------------------------------------------------


def finite_with_finite_gradients(log_prob, *inputs):
    value = log_prob(*inputs)
    grads = torch.autograd.grad(value.sum(), inputs)
    return torch.isfinite(value).all() and all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("theta", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("name", ALL)
def test_cell_without_counts_is_finite(name, theta):
    mu = torch.zeros(2, 5, requires_grad=True)
    x = torch.zeros(2, 5)
    assert finite_with_finite_gradients(lambda mu: make(name, mu, theta, dtype=torch.float32).log_prob(x), mu)
    torch.testing.assert_close(make(name, mu, theta, dtype=torch.float32).log_prob(x).detach(), x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ALL)
def test_count_at_mean_zero_is_finite(name):
    mu = torch.zeros(3, requires_grad=True)
    x = torch.tensor([1.0, 7.0, 300.0])
    assert finite_with_finite_gradients(lambda mu: make(name, mu, dtype=torch.float32).log_prob(x), mu)


def test_extreme_dispersions_do_not_spoil_each_other():
    theta = torch.tensor([1e-30, 1.0, 1e36], requires_grad=True)
    mu, x = torch.tensor(5.0, requires_grad=True), torch.tensor(3.0)
    assert finite_with_finite_gradients(lambda mu, theta: NegativeBinomial(mu, theta).log_prob(x), mu, theta)


@pytest.mark.parametrize("logits", [-500.0, -100.0, 0.0, 100.0, 500.0])
@pytest.mark.parametrize("rate", [0.0, 200.0])
def test_zip_with_extreme_gates_is_right_and_finite(rate, logits):
    rate_t, logits_t = torch.tensor(rate, requires_grad=True), torch.tensor(logits, requires_grad=True)
    x = torch.tensor([0.0, 200.0])
    assert finite_with_finite_gradients(lambda r, g: ZeroInflatedPoisson(r, g).log_prob(x), rate_t, logits_t)
    truth = inflated(x, stats.poisson.logpmf(x, max(rate, 1e-8)), logits)
    np.testing.assert_allclose(ZeroInflatedPoisson(rate_t, logits_t).log_prob(x).detach(), truth, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("logits", [-500.0, 0.0, 500.0])
def test_zinb_with_extreme_gates_is_right_and_finite(logits):
    inputs = [torch.tensor(v, requires_grad=True) for v in (200.0, 5.0, logits)]
    x = torch.tensor([0.0, 200.0])
    assert finite_with_finite_gradients(lambda *a: ZeroInflatedNegativeBinomial(*a).log_prob(x), *inputs)
    truth = inflated(x, scipy_nb(x, 200.0, 5.0), logits)
    np.testing.assert_allclose(ZeroInflatedNegativeBinomial(*inputs).log_prob(x).detach(), truth, rtol=1e-5, atol=1e-4)


# Gradients ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_gradients_in_double(name):
    # By the logarithms of mean and dispersion, in which the numerical derivative is of order 1 everywhere.
    mu, theta, logits, x = grid([0.3, 6.0, 50.0], [0.2, 5.0, 3000.0], [-3.0, 0.5], [0.0, 1.0, 40.0])
    inputs = [v.requires_grad_() for v in (mu.log(), theta.log(), logits)]
    used = {"nb": inputs[:2], "poisson": inputs[:1], "zip": inputs[::2]}.get(name, inputs)
    make_of = {
        "nb": lambda mu, theta: NegativeBinomial(mu.exp(), theta.exp()),
        "zinb": lambda mu, theta, logits: ZeroInflatedNegativeBinomial(mu.exp(), theta.exp(), logits),
        "poisson": lambda mu: Poisson(mu.exp()),
        "zip": lambda mu, logits: ZeroInflatedPoisson(mu.exp(), logits),
        "mixture": lambda mu, theta, logits: NegativeBinomialMixture(mu.exp(), 7 * mu.exp(), theta.exp(), logits),
    }[name]

    def log_prob(*values):
        return make_of(*values).log_prob(x)

    # The change to Stirling's series at theta = 1e3 costs 1e-12, a numerical derivative at theta = 3000 about 1e-6.
    assert torch.autograd.gradcheck(log_prob, used, atol=1e-5, rtol=1e-4)


def test_series_and_exact_form_meet_at_the_change():
    mu, x = grid(MU, COUNT)
    sides = [
        NegativeBinomial(mu, torch.tensor(t, dtype=torch.float64)).log_prob(x) for t in (1e3, math.nextafter(1e3, 2e3))
    ]
    torch.testing.assert_close(sides[0], sides[1], rtol=2e-7, atol=1e-6)


# Validation -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1.0, 0.5, math.nan])
@pytest.mark.parametrize("name", ALL)
def test_values_that_are_no_counts_are_refused(name, value):
    with pytest.raises(ValueError, match="support"):
        make(name, 2.0, validate_args=True).log_prob(torch.tensor(value, dtype=torch.float64))


@pytest.mark.parametrize("mu", [-1.0, math.nan])
@pytest.mark.parametrize("name", ALL)
def test_means_that_are_no_means_are_refused(name, mu):
    with pytest.raises(ValueError, match=r"Expected parameter (mu|rate)"):
        make(name, mu, validate_args=True)


@pytest.mark.parametrize("theta", [0.0, -1.0, math.nan])
@pytest.mark.parametrize("name", ["nb", "zinb"])
def test_dispersions_that_are_none_are_refused(name, theta):
    with pytest.raises(ValueError, match="Expected parameter theta"):
        make(name, 1.0, theta, validate_args=True)


@pytest.mark.parametrize("name", ALL)
def test_validation_can_be_off(name):
    d = make(name, 2.0, validate_args=False)
    assert torch.isfinite(d.log_prob(torch.tensor(0.5, dtype=torch.float64)))
    assert not d.expand((2,))._validate_args
