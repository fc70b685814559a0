"""What Pyro and torch ask of a distribution, of every distribution of the package."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch.testing import assert_close

from pyro_omics import distributions
from pyro_omics.distributions.quadrature import Quadrature
from pyro_omics.parts.priors import FlowPrior

N, G = 3, 4
MU = torch.tensor([[0.5, 2.0, 7.0, 20.0]]) * torch.tensor([[1.0], [2.0], [0.3]])
THETA = torch.tensor([0.5, 2.0, 30.0, 2000.0])
LOGITS = torch.linspace(-2, 2, N * G).reshape(N, G)
COUNTS = {
    distributions.NegativeBinomial: {"mu": MU, "theta": THETA},
    distributions.Poisson: {"rate": MU},
    distributions.ZeroInflatedNegativeBinomial: {"mu": MU, "theta": THETA, "gate_logits": LOGITS},
    distributions.ZeroInflatedPoisson: {"rate": MU, "gate_logits": LOGITS},
    distributions.NegativeBinomialMixture: {
        "mu_background": MU, "mu_foreground": 4 * MU, "theta": THETA, "background_logits": LOGITS,
    },
}  # fmt: skip
X = torch.tensor([0.0, 1.0, 5.0, 12.0]).expand(N, G)


def quadrature():
    """Gamma(2, 1) tilted by a Poisson count of each row: Gamma(2 + x, 2)."""
    x = torch.tensor([0.0, 2.0, 5.0])
    edges = torch.cat([torch.zeros(1), torch.logspace(-3, 1.5, 400)]).expand(N, 401)
    return Quadrature(
        edges, lambda g: dist.Gamma(2.0, 1.0).log_prob(g) + dist.Poisson(g).log_prob(x), torch.tensor(2.0)
    )


def test_every_distribution_is_here():
    found = {value for name in distributions.__all__ if isinstance(value := getattr(distributions, name), type)}
    assert found == {*COUNTS, Quadrature}


@pytest.fixture(params=COUNTS, ids=lambda cls: cls.__name__)
def kind(request):
    return request.param


def test_its_arguments_are_attributes_with_constraints(kind):
    """So that a distribution can be made anew from what it says of itself, as reparameterisers do."""
    arguments, fn = COUNTS[kind], kind(**COUNTS[kind])
    assert set(kind.arg_constraints) == set(arguments)
    for name, constraint in kind.arg_constraints.items():
        assert constraint.check(getattr(fn, name)).all()
        assert_close(getattr(fn, name), arguments[name].expand(N, G))
    again = kind(**{name: getattr(fn, name) for name in kind.arg_constraints})
    assert_close(again.log_prob(X), fn.log_prob(X))
    for name, constraint in kind.arg_constraints.items():
        if constraint is not constraints.real:
            with pytest.raises(ValueError, match=name if "inflated" not in kind.__name__ else ""):
                kind(**{**arguments, name: -arguments[name]}, validate_args=True)


def test_its_shapes_are_known_without_numbers(kind):
    arguments = COUNTS[kind]
    fn = kind(**arguments)
    assert kind.infer_shapes(**{name: value.shape for name, value in arguments.items()}) == (fn.batch_shape, ())
    assert kind.support is constraints.nonnegative_integer and fn.support is constraints.nonnegative_integer
    assert not fn.has_rsample and not fn.has_enumerate_support
    with pytest.raises(NotImplementedError):
        fn.enumerate_support()


def test_its_moments_are_those_of_its_probabilities(kind):
    fn = kind(**COUNTS[kind])
    x = torch.arange(3000.0).reshape(-1, 1, 1).double()
    p = fn.log_prob(x.expand(-1, N, G).float()).double().exp()
    mean = (x * p).sum(0)
    assert_close(fn.mean.double(), mean, rtol=1e-3, atol=1e-4)
    assert_close(fn.variance.double(), ((x - mean).square() * p).sum(0), rtol=1e-2, atol=1e-3)


def test_it_expands_masks_and_groups(kind):
    fn = kind(**COUNTS[kind])
    expected = fn.log_prob(X)
    expanded = fn.expand((2, N, G))
    assert type(expanded) is kind and expanded.batch_shape == (2, N, G)
    assert_close(expanded.log_prob(X), expected.expand(2, N, G))
    assert expanded.sample().shape == (2, N, G) and fn.sample((7,)).shape == (7, N, G)
    keep = LOGITS > 0
    assert_close(fn.mask(keep).log_prob(X), expected.where(keep, torch.zeros(())))
    rows = fn.to_event(1)
    assert (rows.batch_shape, rows.event_shape) == ((N,), (G,))
    assert_close(rows.log_prob(X), expected.sum(-1))
    for larger in (rows.expand((2, N)), expanded.to_event(1)):
        assert_close(larger.log_prob(X), expected.sum(-1).expand(2, N))
    assert_close(rows.mask(keep[:, 0]).log_prob(X), expected.sum(-1).where(keep[:, 0], torch.zeros(())))
    assert_close(rows.to_event(1).log_prob(X), expected.sum())
    with pyro.plate("particles", 2, dim=-2), pyro.plate("rows", N, dim=-1):
        assert pyro.sample("x", rows).shape == (2, N, G)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch.func's own
@pytest.mark.parametrize("event", [False, True])
def test_torch_func_goes_through_it(kind, event):
    """vmap, grad, jvp and jacobians of the log-probability: of arguments, and of counts."""
    arguments = COUNTS[kind]

    def log_prob(arguments, x):
        fn = kind(**arguments, validate_args=False)
        return (fn.to_event(1) if event else fn).log_prob(x)

    several = {name: torch.stack([value, 1.5 * value]) for name, value in arguments.items()}
    expected = torch.stack([log_prob({name: value[i] for name, value in several.items()}, X) for i in range(2)])
    assert_close(torch.func.vmap(log_prob, (0, None))(several, X), expected)
    xs = torch.stack([X, 2 * X])
    assert_close(torch.func.vmap(log_prob, (None, 0))(arguments, xs), torch.stack([log_prob(arguments, x) for x in xs]))
    total = lambda arguments: log_prob(arguments, X).sum()  # noqa: E731
    inputs = {name: value.clone().requires_grad_() for name, value in arguments.items()}
    by_autograd = torch.autograd.grad(total(inputs), list(inputs.values()))
    by_func = torch.func.grad(total)(arguments)
    for name, gradient in zip(arguments, by_autograd, strict=True):
        assert_close(by_func[name], gradient, rtol=1e-4, atol=1e-5)
    tangent = {name: torch.ones_like(value) for name, value in arguments.items()}
    _, along = torch.func.jvp(total, (arguments,), (tangent,))
    assert_close(along, sum(gradient.sum() for gradient in by_autograd), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["meta", "fake"])
def test_its_shapes_are_found_without_a_computation(kind, mode):
    from torch._subclasses import FakeTensorMode

    def run(convert):
        fn = kind(**{name: convert(value) for name, value in COUNTS[kind].items()}, validate_args=False).to_event(1)
        return fn.log_prob(convert(X))

    if mode == "meta":
        found = run(lambda value: value.to("meta"))
    else:
        fake = FakeTensorMode()
        found = run(fake.from_tensor)
        with fake:
            assert run(fake.from_tensor).shape == (N,)
    assert found.shape == (N,)


def test_the_quadrature():
    fn = quadrature()
    exact = dist.Gamma(2.0 + torch.tensor([0.0, 2.0, 5.0]), 2.0)
    g = torch.tensor([0.3, 1.0, 2.0])
    assert_close(fn.log_prob(g), exact.log_prob(g), rtol=1e-3, atol=1e-3)
    assert Quadrature.infer_shapes(edges=fn.edges.shape, power=()) == (fn.batch_shape, ())
    assert set(Quadrature.arg_constraints) == {"power"} and fn.support.check(fn.sample((5,))).all()
    expanded = fn.expand((2, N))
    assert expanded.batch_shape == (2, N) and expanded.has_rsample
    both = torch.stack([g, 2 * g])
    assert_close(expanded.log_prob(both), exact.log_prob(both), rtol=1e-3, atol=1e-3)
    assert_close(expanded.cdf(1.0), fn.cdf(1.0).expand(2, N))
    assert_close(expanded.mean_of(lambda at: at), exact.mean.expand(2, N), rtol=1e-3, atol=1e-3)
    torch.manual_seed(0)
    draws = expanded.sample((4000,))
    assert draws.shape == (4000, 2, N)
    assert_close(draws.mean(0), exact.mean.expand(2, N), rtol=0.06, atol=0.0)
    keep = torch.tensor([True, False, True])
    assert_close(fn.mask(keep).log_prob(g), fn.log_prob(g).where(keep, torch.zeros(())))
    assert_close(fn.to_event(1).log_prob(g), fn.log_prob(g).sum())
    several = torch.func.vmap(fn.log_prob)(both) if not fn._validate_args else None
    assert several is None or torch.isfinite(several).all()


def test_the_flow():
    fn = FlowPrior(n_transforms=1, n_latent=2)()
    z = torch.randn(5, 2)
    expected = fn.log_prob(z)
    assert fn.expand((3, 5)).log_prob(z.expand(3, 5, 2)).shape == (3, 5)
    assert_close(fn.expand((3, 5)).log_prob(z.expand(3, 5, 2))[1], expected)
    assert fn.arg_constraints == {} and fn.support.check(fn.sample((2,))).all() and fn.has_rsample
    keep = torch.arange(5) > 2
    assert_close(fn.expand((5,)).mask(keep).log_prob(z), expected.where(keep, torch.zeros(())))
