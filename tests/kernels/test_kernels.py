"""Kernels of rows against the plain forms: values, gradients and second derivatives, and when which is taken."""

import math
import os
import subprocess
import sys

import mpmath
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.sparse as sp
import torch
from pyro.ops.hessian import hessian
from pyro.ops.provenance import ProvenanceTensor, detach_provenance, get_provenance
from torch.nn.utils import parameters_to_vector

from pyro_omics import kernels, layers
from pyro_omics.data.matrices.memory import CountMatrix
from pyro_omics.distributions import (
    NegativeBinomial,
    NegativeBinomialMixture,
    Poisson,
    ZeroInflatedNegativeBinomial,
    ZeroInflatedPoisson,
    masked,
)
from pyro_omics.kernels import dense_rows, nonzero, sparse_product
from pyro_omics.kernels.compiled import cache, threads
from pyro_omics.kernels.compiled import run as running
from pyro_omics.kernels.likelihood import compiled_kernels, stirling
from pyro_omics.kernels.likelihood import sparse_counts as counts_of_kernels

N, G = 5, 7
TAKES = {
    "nb": ("mu", "theta"),
    "zinb": ("mu", "theta", "logits"),
    "poisson": ("mu",),
    "zip": ("mu", "logits"),
    "mixture": ("mu", "high", "theta", "logits"),
}
CLASSES = {
    "nb": NegativeBinomial,
    "zinb": ZeroInflatedNegativeBinomial,
    "poisson": Poisson,
    "zip": ZeroInflatedPoisson,
    "mixture": NegativeBinomialMixture,
}
ALL = sorted(TAKES)
COMPILED = ["mixture", "nb", "zinb"]


@pytest.fixture(autouse=True)
def _even_on_small_matrices(monkeypatch):
    """Small matrices, on which no kernel pays, are what is tested."""
    monkeypatch.setattr(kernels.dispatch, "MIN_ENTRIES", 0)
    monkeypatch.setattr(kernels.dispatch, "MIN_COLUMNS", 0)
    monkeypatch.setattr(compiled_kernels, "SMALLEST", (0, 0))


# Shapes of the parameters, and of the counts.
SHAPES = {
    "theta of a gene": ({"theta": (G,)}, (N, G)),
    "theta of a cell and gene": ({}, (N, G)),
    "one theta": ({"theta": ()}, (N, G)),
    "theta of a cell": ({"theta": (N, 1)}, (N, G)),
    "theta in a row": ({"theta": (1, G)}, (N, G)),
    "gate of a gene": ({"logits": (G,)}, (N, G)),
    "one gate": ({"logits": ()}, (N, G)),
    "particles": ({"mu": (3, N, G), "high": (3, N, G), "theta": (G,), "logits": (3, N, G)}, (N, G)),
    "particles of theta": ({"mu": (3, N, G), "high": (3, N, G), "theta": (3, 1, G), "logits": (N, G)}, (N, G)),
    "levels of the mean": ({"mu": (2, 1, G), "high": (2, 1, G), "theta": (G,), "logits": (2, 1, G)}, (N, G)),
    "counts of particles": ({"theta": (G,)}, (2, N, G)),
    "counts between": ({"mu": (3, N, G), "high": (3, N, G), "theta": (G,), "logits": (N, G)}, (3, 1, G)),
    "one row": ({"mu": (G,), "high": (G,), "theta": (G,), "logits": (G,)}, (G,)),
    "leading ones": ({"theta": (G,)}, (1, N, G)),
}


def parameters(name, shapes=None, dtype=torch.float64, seed=0):
    shapes = shapes or {}
    torch.manual_seed(seed)
    drawn = {
        "mu": 20 * torch.rand(shapes.get("mu", (N, G)), dtype=torch.float64),
        "high": 60 * torch.rand(shapes.get("high", (N, G)), dtype=torch.float64),
        "theta": torch.exp(2 * torch.randn(shapes.get("theta", (N, G)), dtype=torch.float64)),
        "logits": 2 * torch.randn(shapes.get("logits", (N, G)), dtype=torch.float64),
    }
    return [drawn[key].to(dtype).requires_grad_() for key in TAKES[name]]


def draw(shape=(N, G), dtype=torch.float64, rate=6.0):
    torch.manual_seed(7)
    return (torch.poisson(torch.full(shape, rate)) * (torch.rand(shape) < 0.5)).to(dtype)


def of_rows(name, values, x, **options):
    return CLASSES[name](*values, **options).to_event(1).log_prob(x)


def both(name, values, x, weights=None):
    """Value and gradients by the kernel, and by the plain form."""
    results = []
    for plain in (False, True):
        with kernels.reference() if plain else torch.enable_grad():
            value = of_rows(name, values, x)
        weighted = value * (torch.linspace(0.5, 2, value.numel()).to(value).reshape(value.shape))
        results.append([value, *torch.autograd.grad(weighted.sum(), values)])
    return results


def is_kernels(value):
    seen = [value.grad_fn]
    while seen:
        node = seen.pop()
        if "_RowLogProbBackward" in type(node).__name__:
            return True
        seen += [parent for parent, _ in node.next_functions if parent is not None and "Accumulate" not in str(parent)]
    return False


# Values and gradients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("name", ALL)
def test_values_and_gradients_are_the_plain_forms(name, shapes):
    of_parameters, of_counts = SHAPES[shapes]
    values, x = parameters(name, of_parameters), draw(of_counts)
    ours, plain = both(name, values, x)
    assert is_kernels(ours[0])
    assert not is_kernels(plain[0])
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("shapes", SHAPES)
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_loops_are_the_plain_forms_in_float64(name, shapes, monkeypatch):
    of_parameters, of_counts = SHAPES[shapes]
    values, x = parameters(name, of_parameters, torch.float32), draw(of_counts, torch.float32)
    doubles = [v.detach().double().requires_grad_() for v in values]
    taken = []
    monkeypatch.setattr(
        compiled_kernels, "run", lambda loop, *given, run=compiled_kernels.run: taken.append(loop) or run(loop, *given)
    )
    ours, (_, plain) = both(name, values, x)[0], both(name, doubles, x.double())
    assert len(taken) == 1
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=5e-5, atol=1e-5 * float(b.detach().abs().max()))  # sums cancel


@pytest.mark.parametrize("bad", [-1e-3, float("nan")])
@pytest.mark.parametrize("shape", ["theta of a gene", "theta of a cell and gene"])
@pytest.mark.parametrize("name", COMPILED)
def test_numbers_that_no_density_has_come_out_as_nan_in_their_rows(name, shape, bad):
    of_parameters, of_counts = SHAPES[shape]
    x = draw(of_counts, torch.float32)
    for at, which in enumerate((*TAKES[name], "x")):
        if which == "logits" and bad < 0:
            continue
        values, counted = parameters(name, of_parameters, torch.float32), x.clone()
        changed = counted if which == "x" else values[at]
        with torch.no_grad():
            changed[(slice(2, None), 3) if changed.ndim > 1 else 3] = bad
        with pyro.validation_enabled(False):  # as it is after the first step
            (rows, *slopes), (plain, *_) = both(name, values, counted)
        assert torch.equal(rows.isnan(), torch.tensor([changed.ndim == 1] * 2 + [True] * 3)), which
        assert all(slope.isnan().any() for slope in slopes), which
        assert bool(plain.isnan().any()) or which == "x"


class Halved:
    def log_prob(self, value):
        return 0.5 * super().log_prob(value)


class HalvedByMixin(Halved, ZeroInflatedNegativeBinomial):
    pass


class HalvedAbove(HalvedByMixin):
    pass


@pytest.mark.parametrize("how", ["mixin", "mixin of a parent", "instance", "part"])
def test_a_log_prob_from_elsewhere_is_taken(how):
    values, x = parameters("zinb", {}, torch.float32), draw((N, G), torch.float32)
    made = {"mixin": HalvedByMixin, "mixin of a parent": HalvedAbove}.get(how, ZeroInflatedNegativeBinomial)(*values)
    if how == "instance":
        made.log_prob = lambda value: 0.5 * ZeroInflatedNegativeBinomial.log_prob(made, value)
    if how == "part":
        made.base_dist.log_prob = lambda value: torch.full_like(value, -1.0)
    found = made.to_event(1).log_prob(x)
    with kernels.reference():
        torch.testing.assert_close(found, made.to_event(1).log_prob(x))
    assert not torch.allclose(found, ZeroInflatedNegativeBinomial(*values).to_event(1).log_prob(x), rtol=1e-2)


def test_without_numba_s_compiler_an_error_says_so(monkeypatch):
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)
    running._compiled.cache_clear()
    with pytest.raises(RuntimeError, match="NUMBA_DISABLE_JIT is set"):
        CountMatrix(sp.csr_matrix(np.eye(3))).rows(torch.arange(3))


@pytest.mark.parametrize("x", [0.0, 1.0, 50.0, 1e4])
@pytest.mark.parametrize("logit", [-80.0, -20.0, 0.0, 20.0, 80.0])
def test_a_compiled_mixture_at_corners(logit, x):
    means = torch.tensor([1e-6, 1.0, 30.0, 3e4])
    low, high = (m.flatten().clone().requires_grad_() for m in torch.meshgrid(means, means, indexing="ij"))
    theta, logits = torch.full((16,), 2.0, requires_grad=True), torch.full((16,), logit, requires_grad=True)
    values, counts = [v.unsqueeze(0) for v in (low, high, theta, logits)], torch.full((1, 16), x)
    doubles = [v.detach().double().requires_grad_() for v in values]
    found = of_rows("mixture", values, counts)
    with kernels.reference():
        truth = of_rows("mixture", doubles, counts.double())
    torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=1e-4)
    ours, theirs = torch.autograd.grad(found, values), torch.autograd.grad(truth, doubles)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("shapes", ["theta of a gene", "particles", "one row"])
@pytest.mark.parametrize("name", ALL)
def test_blocks_of_rows_are_all_rows(name, shapes, monkeypatch):
    of_parameters, of_counts = SHAPES[shapes]
    values, x = parameters(name, of_parameters), draw(of_counts)
    whole, _ = both(name, values, x)
    for entries in (1, 2 * G, 3 * G + 1):
        monkeypatch.setattr(counts_of_kernels, "BLOCK", entries)
        for a, b in zip(both(name, values, x)[0], whole, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("x", [torch.zeros(N, G), torch.full((N, G), 3.0)], ids=["zeros", "no zeros"])
@pytest.mark.parametrize("name", ALL)
def test_counts_all_of_a_kind(name, x):
    for a, b in zip(*both(name, parameters(name, {"theta": (G,)}), x.double()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ALL)
def test_parameters_in_other_layouts(name):
    values, x = parameters(name), draw()
    turned = [v.detach().T.contiguous().T.requires_grad_() for v in values]
    sparse_view = torch.stack([x, x + 1], -1)[..., 0]
    for a, b in zip(both(name, turned, sparse_view)[0], both(name, values, x)[0], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("shapes", [key for key, (_, of_counts) in SHAPES.items() if of_counts == (N, G)])
@pytest.mark.parametrize("name", ALL)
def test_first_and_second_derivatives_by_differences(name, shapes):
    of_parameters, _ = SHAPES[shapes]
    cut = {key: tuple(min(2, size) for size in shape) for key, shape in of_parameters.items()}
    values = parameters(name, {"mu": (2, 2), "high": (2, 2), "theta": (2, 2), "logits": (2, 2)} | cut)
    x = torch.tensor([[0.0, 3.0], [14.0, 0.0]], dtype=torch.float64)

    def log_prob(*values):
        return of_rows(name, values, x)

    assert torch.autograd.gradcheck(log_prob, values)
    assert torch.autograd.gradgradcheck(log_prob, values)


@pytest.mark.parametrize("name", ALL)
def test_hessians_are_the_plain_forms(name):
    """What AutoLaplaceApproximation takes, with one parameter made of another."""
    x, start = draw(), torch.randn(G, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def log_prob(v):
        given = {"mu": v.exp(), "high": 3 * v.exp(), "theta": (v.exp() + 1).sqrt(), "logits": v}
        return of_rows(name, [given[key] for key in TAKES[name]], x).sum()

    found = []
    for plain in (False, True):
        with kernels.reference() if plain else torch.enable_grad():
            v = start.clone().requires_grad_()
            found.append((hessian(log_prob(v), v), torch.autograd.functional.hessian(log_prob, start)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_a_retained_graph_gives_the_same_gradient_again(name):
    values, x = parameters(name), draw()
    value = of_rows(name, values, x).sum()
    first = [g.clone() for g in torch.autograd.grad(value, values, retain_graph=True)]
    torch.testing.assert_close(list(torch.autograd.grad(2 * value, values, retain_graph=True)), [2 * g for g in first])
    torch.testing.assert_close(list(torch.autograd.grad(value, values)), first)


def test_autocast_does_not_round_the_gradient():
    values, x = [v.detach().float().requires_grad_() for v in parameters("nb", {"theta": (G,)})], draw().float()
    plain = torch.autograd.grad(of_rows("nb", values, x).sum(), values)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = of_rows("nb", values, x).sum()
        torch.testing.assert_close(torch.autograd.grad(value, values), plain)


@pytest.mark.parametrize("name", COMPILED)
def test_networks_in_16_bits_have_their_likelihood_in_32(name):
    values = parameters(name, {"theta": (G,)}, torch.float32)
    logits = values[-1].detach().bfloat16().requires_grad_()
    rounded = [*values[:-1], logits.detach().float().requires_grad_()]
    x = draw(dtype=torch.float32)
    ours, truth = of_rows(name, [*values[:-1], logits], x), of_rows(name, rounded, x)
    assert ours.dtype == torch.float32
    if name != "nb":  # whose last parameter is theta: nothing is decoded to it
        assert is_kernels(ours)
    assert torch.equal(ours, truth)
    (gradient,) = torch.autograd.grad(ours.sum(), logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(truth.sum(), rounded[-1])[0].bfloat16())


# float32, and corners -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_float32_follows_float64(name):
    values, x = parameters(name, {"theta": (G,)}), draw(rate=40.0)
    single = [v.detach().float().requires_grad_() for v in values]
    for a, b in zip(both(name, single, x.float())[0], both(name, values, x)[1], strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a.double(), b, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("theta", [1e-3, 0.05, 1.0, 30.0, 999.0, 1001.0, 1e5, 1e7, 1e10])
@pytest.mark.parametrize("mu", [0.1, 7.0, 60.0, 2000.0])
def test_nb_in_float32_is_closer_to_the_truth_than_the_plain_form(theta, mu):
    """To the Poisson limit without another form for large theta; derivatives by the logarithms."""
    x = torch.tensor([0.0, 1.0, 2.0, 9.0, 80.0, 1500.0, 1e5])
    inputs = [torch.full((7, 1), v, requires_grad=True) for v in (mu, theta)]
    value = NegativeBinomial(*inputs).to_event(1).log_prob(x.unsqueeze(-1))
    assert is_kernels(value)
    by_mu, by_theta = torch.autograd.grad(value.sum(), inputs)
    for i, count in enumerate(x.tolist()):
        truth, by_log_mu, by_log_theta = exact_nb(count, inputs[0][i].item(), inputs[1][i].item())
        assert value[i].item() == pytest.approx(truth, rel=2e-6, abs=1e-5 + 4e-7 * (count + mu))
        assert mu * by_mu[i].item() == pytest.approx(by_log_mu, rel=1e-5, abs=1e-6 + 4e-7 * (count + mu))
        assert theta * by_theta[i].item() == pytest.approx(by_log_theta, rel=1e-5, abs=1e-5 + 4e-7 * (count + mu))


def exact_nb(x, mu, theta):
    with mpmath.workdps(50):
        x, mu, theta = mpmath.mpf(x), mpmath.mpf(mu), mpmath.mpf(theta)
        value = mpmath.loggamma(x + theta) - mpmath.loggamma(theta) - mpmath.loggamma(x + 1)
        value += theta * mpmath.log(theta / (theta + mu)) + x * mpmath.log(mu / (theta + mu))
        by_theta = mpmath.digamma(x + theta) - mpmath.digamma(theta) + mpmath.log(theta / (theta + mu))
        by_theta += (mu - x) / (theta + mu)
        return float(value), float(x - mu * (x + theta) / (theta + mu)), float(theta * by_theta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_series_is_the_gamma_function(dtype):
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-13}[dtype]
    x = torch.tensor([0.5, 1.0, 2.0, 3.0, 10.0, 255.0, 256.0, 1e4, 1e6], dtype=dtype)
    for theta in (1e-6, 0.03, 1.0, 8.0, 1e3):
        thetas = torch.full_like(x, theta)
        coefficient = stirling.log_coefficient(x, thetas, stirling.theta_terms(thetas, True))
        by_theta = torch.digamma(x.double() + theta) - torch.digamma(torch.tensor(theta, dtype=torch.float64))
        torch.testing.assert_close(coefficient.derivative.double(), by_theta, rtol=tolerance, atol=tolerance)
        # The value's own part, log(Gamma(x + theta) / Gamma(theta) / x!) - x log(Z / V).
        truth = torch.lgamma(x.double() + theta) - math.lgamma(theta) - torch.lgamma(x.double() + 1)
        truth -= (
            x.double() * ((x.double() + theta + stirling.SHIFT[dtype]) / (x.double() + 1 + stirling.SHIFT[dtype])).log()
        )
        torch.testing.assert_close(coefficient.value.double(), truth, rtol=10 * tolerance, atol=1e-8 + 10 * tolerance)


@pytest.mark.parametrize("theta", [1e-3, 1.0, 1e4, 1e36])
@pytest.mark.parametrize("logits", [-500.0, -100.0, 0.0, 100.0, 500.0])
@pytest.mark.parametrize("name", ALL)
def test_corners_are_finite_and_the_plain_forms(name, theta, logits):
    x = torch.tensor([[0.0, 0.0, 0.0, 1.0, 300.0], [0.0, 200.0, 3.0, 0.0, 0.0]])
    mu = torch.tensor([[0.0, 200.0, 0.3, 0.0, 0.0], [5.0, 200.0, 1e-3, 0.0, 9.0]])
    given = {"mu": mu, "high": 4 * mu, "theta": torch.full((5,), theta), "logits": torch.full_like(mu, logits)}
    values = [given[key].clone().requires_grad_() for key in TAKES[name]]
    ours, plain = both(name, values, x)
    wide = [v.detach().double().requires_grad_() for v in values]
    truth = both(name, wide, x.double())[1]
    for mine, plains, exact in zip(ours, plain, truth, strict=True):
        assert torch.isfinite(mine).all()
        near = torch.maximum(2 * (plains.double() - exact).abs(), 1e-4 + 1e-4 * exact.abs())
        assert ((mine.double() - exact).abs() <= near).all()


@pytest.mark.parametrize("name", ["nb", "zinb", "mixture"])
def test_extreme_dispersions_do_not_spoil_each_other(name):
    given = {"mu": [[5.0, 5.0, 0.0]] * 2, "high": [[9.0, 9.0, 0.0]] * 2, "theta": [1e-30, 1.0, 1e36]}
    given["logits"] = [[0.3, 0.3, 0.3]] * 2
    values = [torch.tensor(given[key], requires_grad=True) for key in TAKES[name]]
    value = of_rows(name, values, torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, 0.0]]))
    assert is_kernels(value)
    for each in (value, *torch.autograd.grad(value.sum(), values)):
        assert torch.isfinite(each).all()


def test_values_that_are_no_counts_are_still_refused_or_as_the_plain_form():
    values = parameters("zinb")
    for wrong in (-1.0, 0.5, math.nan):
        x = draw()
        x[1, 2] = wrong
        with pytest.raises(ValueError, match="support"):
            of_rows("zinb", values, x, validate_args=True)
    x[1, 2] = 0.5
    ours = of_rows("zinb", values, x, validate_args=False)
    with kernels.reference():
        torch.testing.assert_close(ours, of_rows("zinb", values, x, validate_args=False))


# What is asked for, and when ------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch):
    """Which derivatives each call of a kernel was asked for."""
    calls = []
    for name in ("FamilyKernel", "ZeroInflated", "Mixture"):
        kernel = getattr(kernels.likelihood.torch_kernels, name)
        original = kernel.__call__

        def spy(self, counts, given, wanted, original=original):
            rows, slopes = original(self, counts, given, wanted)
            calls.append(list(wanted))
            assert [slope is not None for slope in slopes] == list(wanted)
            return rows, slopes

        monkeypatch.setattr(kernel, "__call__", spy)
    return calls


@pytest.mark.parametrize("name", ALL)
def test_only_what_needs_a_gradient_gets_one(name, asked):
    for wanted in range(len(TAKES[name])):
        values = [v.detach().requires_grad_(i == wanted) for i, v in enumerate(parameters(name, {"theta": (G,)}))]
        ours = torch.autograd.grad(of_rows(name, values, draw()).sum(), values[wanted])
        assert asked[-1] == [i == wanted for i in range(len(values))]
        with kernels.reference():
            plain = torch.autograd.grad(of_rows(name, values, draw()).sum(), values[wanted])
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("name", ALL)
def test_evaluation_takes_values_alone(name, asked):
    values, x = parameters(name), draw()
    with torch.no_grad():
        ours = of_rows(name, values, x)
    with torch.inference_mode():
        torch.testing.assert_close(of_rows(name, values, x.clone()).clone(), ours)
    assert len(asked) == 2
    assert not any(map(any, asked))
    with kernels.reference():
        torch.testing.assert_close(ours, of_rows(name, values, x).detach())


@pytest.mark.parametrize("name", ALL)
def test_entries_and_masks_are_plain(name, asked):
    values, x = parameters(name), draw()
    fn = CLASSES[name](*values)
    entries = fn.log_prob(x)
    assert fn.to_event(0) is fn
    mask = torch.rand(N, G) < 0.5
    torch.testing.assert_close(masked(fn.to_event(1), mask).log_prob(x), (entries * mask).sum(-1))
    assert asked == []
    for event in (fn.to_event(2), fn.to_event(1).to_event(1), fn.to_event(), fn.to_event(1).to_event()):
        assert isinstance(event, dist.Independent)
        torch.testing.assert_close(event.log_prob(x), entries.sum())
    torch.testing.assert_close(fn.to_event(1).to_event(-1).log_prob(x), entries)
    wide = fn.to_event(1).expand((2, N))
    assert wide.batch_shape == (2, N)
    torch.testing.assert_close(wide.log_prob(x), entries.sum(-1).expand(2, N))
    torch.testing.assert_close(fn.to_event(1).mask(mask[:, 0]).log_prob(x), entries.sum(-1) * mask[:, 0])
    assert len(asked) == 6


def test_a_class_with_a_log_prob_of_its_own_has_no_kernel(asked):
    class Doubled(NegativeBinomial):
        def log_prob(self, value):
            return 2 * super().log_prob(value)

    class Renamed(NegativeBinomial):
        def __init__(self, mean):
            super().__init__(mean, torch.ones((), dtype=mean.dtype))

    values, x = parameters("nb"), draw()
    torch.testing.assert_close(
        Doubled(*values).to_event(1).log_prob(x), 2 * NegativeBinomial(*values).log_prob(x).sum(-1)
    )
    assert asked == []
    value = Renamed(values[0]).to_event(1).log_prob(x)
    assert len(asked) == 1
    (once,) = torch.autograd.grad(value.sum(), values[:1], create_graph=True)
    assert torch.isfinite(torch.autograd.grad(once.sum(), values[:1])[0]).all()


def test_reference_switches_the_kernels_off(asked):
    values, x = parameters("zinb"), draw()

    def fail():
        with kernels.reference():
            of_rows("zinb", values, x)
        of_rows("zinb", values, x)
        raise RuntimeError("of the block")

    with pytest.raises(RuntimeError, match="of the block"), kernels.reference():
        fail()
    assert asked == []
    of_rows("zinb", values, x)
    assert len(asked) == 1


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch.func's own
def test_transforms_see_the_elementwise_formulas(asked):
    values, x = parameters("nb"), draw()
    given = [v.detach() for v in values]

    def total(mu):
        return of_rows("nb", (mu, given[1]), x).sum()

    _, along = torch.func.jvp(total, (given[0],), (torch.ones_like(given[0]),))
    (by_mu,) = torch.autograd.grad(of_rows("nb", values, x).sum(), values[:1])
    torch.testing.assert_close(along, by_mu.sum())
    torch.testing.assert_close(torch.func.grad(total)(given[0]), by_mu)
    several = torch.func.vmap(total)(torch.stack([given[0], 2 * given[0]]))
    torch.testing.assert_close(several[0], total(given[0]))
    assert len(asked) == 2


@pytest.mark.parametrize("change", ["dtype", "half", "gradient"])
def test_inputs_that_no_kernel_takes_are_plain(change, asked):
    values, x = parameters("nb"), draw()
    if change == "dtype":
        x = x.long()
    if change == "half":
        values, x = [v.bfloat16() for v in values], x.bfloat16()
    if change == "gradient":
        x.requires_grad_()
    fn = NegativeBinomial(*values)
    torch.testing.assert_close(fn.to_event(1).log_prob(x), fn.log_prob(x).sum(-1))
    assert asked == []


def test_a_kernel_is_taken_where_it_pays(monkeypatch):
    monkeypatch.undo()
    for rows, columns, is_taken in ((300, 100, True), (3000, 10, False), (5, 100, False)):
        x = torch.ones(rows, columns)
        value = Poisson(x.clone().requires_grad_()).to_event(1).log_prob(x)
        assert is_kernels(value) is is_taken


# Non-zero entries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(G,), (N, G), (3, 16), (4, 33), (2, 3, 100), (0, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_positions_are_those_of_the_entries_that_are_not_zero(dtype, shape, share):
    torch.manual_seed(1)
    x = (torch.rand(shape) < share).to(dtype) * torch.randint(1, 5, shape).to(dtype)
    if x.numel():
        x.view(-1)[:3] = torch.tensor([math.nan, -0.0, -1.0])
    for matrix in (x, x.mT.contiguous().mT if x.ndim > 1 else x, torch.stack([x, x + 1], -1)[..., 0]):
        found = nonzero.positions(matrix)
        assert found.dtype == torch.int64
        assert found.tolist() == matrix.flatten().bool().nonzero().squeeze(-1).tolist()


def test_counts_written_to_are_seen_by_the_kernel():
    values, x = parameters("zinb"), draw()
    of_rows("zinb", values, x)
    x[x == 0] = 4.0
    torch.testing.assert_close(of_rows("zinb", values, x), of_rows("zinb", values, x.clone()))
    x.data = draw() + 2
    torch.testing.assert_close(of_rows("zinb", values, x), of_rows("zinb", values, draw() + 2))
    value = of_rows("zinb", values, x)
    x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(value.sum(), values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_encoders_inputs_through_stored_positions(dtype, monkeypatch):
    x = draw(dtype=dtype)
    x[2] = 0
    torch.testing.assert_close(layers.log_counts(x), torch.log1p(x))
    torch.testing.assert_close(layers.log_counts(x.long()), torch.log1p(x.long()))
    for other in (x.T, x.expand(3, N, G), torch.stack([x, x + 1]).transpose(0, 1), x[:0]):
        torch.testing.assert_close(layers.log_counts(other), torch.log1p(other))
    scale = torch.rand(N, 1, dtype=dtype, requires_grad=True)
    (gradient,) = torch.autograd.grad(layers.log_counts(x, scale).sum(), scale)
    torch.testing.assert_close(gradient, (x / (1 + x * scale)).sum(-1, keepdim=True))
    torch.testing.assert_close(torch.func.vmap(layers.log_counts)(x), torch.log1p(x))
    monkeypatch.setattr(torch.jit, "is_tracing", lambda: True)
    with monkeypatch.context() as patch:
        patch.setattr(dense_rows, "run", None)  # not to be called
        torch.testing.assert_close(layers.log_counts(x), torch.log1p(x))
    truth = torch.log1p(x / (1 + x.mean(-1, keepdim=True)))
    torch.testing.assert_close(layers.log_normalised(x), truth)
    torch.testing.assert_close(layers.log_normalised(x, torch.ones(N, G, dtype=torch.bool)), truth)
    particles = torch.stack([x, x + 1])
    torch.testing.assert_close(layers.log_normalised(particles)[0], truth)
    w = x.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(layers.log_counts(w).sum(), w)[0], 1 / (1 + x))


@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_rows_made_dense(index):
    x = draw().numpy()
    x[2] = 0
    rows = CountMatrix(sp.csr_matrix(x)).csr
    rows.indptr, rows.indices = rows.indptr.astype(index), rows.indices.astype(index)
    at = torch.tensor([3, 2, 2, 0])
    found = dense_rows.dense_rows(at, rows.indptr, rows.indices, rows.data, G)
    assert torch.equal(found, torch.from_numpy(x)[at])
    assert dense_rows.dense_rows(at[:0], rows.indptr, rows.indices, rows.data, G).shape == (0, G)


# Threads --------------------------------------------------------------------------------------------------------------


def everything_compiled():
    """What each compiled loop says of one minibatch, in a list."""
    torch.manual_seed(0)
    matrix = CountMatrix(sp.csr_matrix(draw().numpy()))
    x = matrix.rows(torch.tensor([1, 3, 0, 2, 3]))
    found = [x, nonzero.positions(x), layers.log_counts(x), layers.log_normalised(x)]
    first = layers.SparseLinear(G, 8)
    out = sparse_product.product(x, first.weight)
    found += [out, *torch.autograd.grad(out.square().sum(), [first.weight])]
    for family in COMPILED:
        values = parameters(family, dtype=torch.float32)
        value = of_rows(family, values, draw(dtype=torch.float32))
        found += [value, *torch.autograd.grad(value.sum(), values)]
    return found


@pytest.mark.parametrize("n_threads", [2, 3, 7])
def test_threads_share_the_loops_out(n_threads):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = everything_compiled()
        torch.set_num_threads(n_threads)
        shared = everything_compiled()
    finally:
        torch.set_num_threads(before)
    assert threads.threads()[1], "the OpenMP runtime of this torch was not found"
    for ours, theirs in zip(shared, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)  # some entries go by another instruction


def test_where_the_runtime_is_not_found_one_thread_does_all(monkeypatch):
    expected = everything_compiled()
    monkeypatch.setattr(threads, "_runtime", lambda: (0, 0, 0))
    assert threads.threads() == (1, 0, 0, 0)
    for ours, theirs in zip(everything_compiled(), expected, strict=True):
        assert torch.equal(ours, theirs)


LIMITED = """
import torch
from pyro_omics import kernels, layers
torch.set_num_threads(4)
x = torch.poisson(torch.full((40, 300), 0.3))
assert torch.allclose(layers.log_counts(x), torch.log1p(x))
"""
FORKED = """
import os, torch
from pyro_omics import layers
torch.set_num_threads(2)
x = torch.poisson(torch.full((40, 300), 0.3))
truth = layers.log_counts(x)
child = os.fork()
if not child:
    os._exit(0 if (layers.log_counts(x) - truth).abs().max() == 0 else 3)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.parametrize(
    ("program", "settings"),
    [(LIMITED, {"OMP_THREAD_LIMIT": "2"}), (LIMITED, {"OMP_DYNAMIC": "true"}), (FORKED, {})],
    ids=["limit", "dynamic", "fork"],
)
def test_fewer_threads_than_asked_for_do_all(program, settings):
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **settings}, check=True, timeout=120)


def test_machine_code_is_kept_by_what_all_kernels_are(monkeypatch):
    def double(x):
        return 2 * x

    kept = cache.compiled()(double)
    assert kept(3) == 6
    key = kept._cache._index_key("sig", kept.targetctx.codegen())
    monkeypatch.setattr(cache, "STAMP", "another")
    assert kept._cache._index_key("sig", kept.targetctx.codegen()) != key

    class Nowhere:
        def __init__(self, function):
            raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(cache, "_FolderCache", Nowhere)
    assert cache.compiled()(double)(3) == 6


# Products -------------------------------------------------------------------------------------------------------------


def fingerprints(dtype, n=64, d=512, set_bits=10):
    """A matrix of few ones."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(n, d, dtype=dtype)
    x[torch.arange(n).unsqueeze(-1), torch.randint(d, (n, set_bits), generator=generator)] = 1.5
    x[3] = 0
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_product_through_non_zero_entries_is_the_dense_one(dtype, monkeypatch):
    torch.manual_seed(0)
    x = fingerprints(dtype)
    weight = torch.randn(512, 32, dtype=dtype)
    taken = []
    monkeypatch.setattr(
        sparse_product, "run", lambda name, *given: taken.append(name) or compiled_kernels.run(name, *given)
    )
    found = []
    for multiply in (sparse_product.product, torch.matmul):
        w = weight.clone().requires_grad_()
        out = multiply(x, w)
        (gradient,) = torch.autograd.grad(out.square().sum(), w, create_graph=True)
        (again,) = torch.autograd.grad(gradient.square().sum(), w)
        (once,) = torch.autograd.grad(multiply(x, w).square().sum(), w)
        found.append((out, gradient, again, once))
    assert taken == ["sparse_rows.product", "sparse_rows.outer_product"] * 2
    for ours, theirs in zip(*found, strict=True):
        rounding = torch.finfo(dtype).eps * 100 * float(theirs.detach().abs().max())  # of sums whose terms may cancel
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=rounding)


def test_a_dense_product_is_taken_of_what_is_not_mostly_zero(monkeypatch):
    monkeypatch.setattr(sparse_product, "run", None)  # not to be called
    x, weight = fingerprints(torch.float32), torch.randn(512, 32)
    with kernels.reference():
        torch.testing.assert_close(sparse_product.product(x, weight), x @ weight)
    for inputs in (torch.ones(64, 512), x.expand(2, 64, 512), x.clone().requires_grad_()):
        torch.testing.assert_close(sparse_product.product(inputs, weight), inputs @ weight)


def test_a_sparse_linear_starts_as_torchs_and_is_its_transpose():
    torch.manual_seed(3)
    ours = layers.SparseLinear(512, 8)
    torch.manual_seed(3)
    theirs = torch.nn.Linear(512, 8)
    assert torch.equal(ours.weight, theirs.weight.T)
    x = fingerprints(torch.float32)
    torch.testing.assert_close(ours(x), theirs(x))
    assert sum(p.numel() for p in ours.parameters()) == len(parameters_to_vector(ours.parameters()))


# Tensors that are not only numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_provenance_passes_through(name, asked):
    values, x = parameters(name), draw()
    values = [v.detach() for v in values]
    traced = [ProvenanceTensor(v, frozenset({f"p{i}"})) for i, v in enumerate(values)]
    found = of_rows(name, traced, x)
    assert get_provenance(found) == {f"p{i}" for i in range(len(values))}
    assert asked == []
    torch.testing.assert_close(detach_provenance(found), of_rows(name, values, x))
    weight = ProvenanceTensor(torch.randn(G, 2, dtype=x.dtype), frozenset({"w"}))
    assert get_provenance(sparse_product.product(x, weight)) == {"w"}
    assert get_provenance(dense_rows.log1p(x, ProvenanceTensor(torch.ones(len(x), 1), frozenset({"s"})))) == {"s"}


@pytest.mark.parametrize("name", ALL)
def test_several_gradients_at_once_are_those_one_by_one(name, asked):
    values, x = parameters(name), draw()
    rows = of_rows(name, values, x)
    assert len(asked) == 1
    vectors = torch.randn(3, *rows.shape, dtype=rows.dtype)
    together = torch.autograd.grad(rows, values, vectors, is_grads_batched=True, retain_graph=True)
    for i, vector in enumerate(vectors):
        one = torch.autograd.grad(rows, values, vector, retain_graph=True)
        for found, expected in zip(together, one, strict=True):
            torch.testing.assert_close(found[i], expected)
