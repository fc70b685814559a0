"""The fused ClippedAdam against Pyro's own."""

import copy

import pytest
import pytorch_lightning as pl
import torch
from helpers import counts, quiet_trainer, small
from pyro.optim import clipped_adam

import pyro_omics as po
from pyro_omics.optim import ClippedAdam

OPTIONS = [
    {},
    {"eps": 0.01, "lr": 4e-3},
    {"lrd": 0.99},
    {"weight_decay": 0.1, "clip_norm": 0.5, "betas": (0.8, 0.9)},
    {"centered_variance": True},
]


def parameters(dtype=torch.float64):
    """A matrix, a vector and a number."""
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, dtype=dtype)) for shape in ((20, 7), (7,), ())]


def gradients(params, step, dtype=torch.float64):
    """Gradients over six orders of magnitude, so that some are clipped and some are below epsilon."""
    torch.manual_seed(step)
    return [torch.randn(p.shape, dtype=dtype) * 10 ** torch.empty((), dtype=dtype).uniform_(-4, 2) for p in params]


def run(optimizer, params, steps, dtype=torch.float64, missing=lambda step, i: False):
    for step in steps:
        for i, (p, g) in enumerate(zip(params, gradients(params, step, dtype), strict=True)):
            p.grad = None if missing(step, i) else g
        optimizer.step()


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
def test_the_trajectory_is_pyro_s(options, dtype, atol):
    ours, theirs = parameters(dtype), parameters(dtype)
    a = ClippedAdam(ours, **options)
    b = clipped_adam.ClippedAdam(theirs, **options)
    run(a, ours, range(400), dtype)
    run(b, theirs, range(400), dtype)
    moved = max((p - q).abs().max() for p, q in zip(ours, parameters(dtype), strict=True))
    assert moved > 0.01
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=atol)
    assert a.param_groups[0]["lr"] == b.param_groups[0]["lr"]


def test_gradients_are_clipped_in_their_place_as_pyro_does():
    (p,) = params = parameters()[:1]
    p.grad = torch.full_like(p, -50.0)
    ClippedAdam(params, clip_norm=10.0).step()
    assert (p.grad == -10).all()


def test_a_parameter_without_a_gradient_keeps_its_value_and_its_number_of_steps():
    def missing(step, i):
        return i == 1 and step % 3 == 0

    ours, theirs = parameters(), parameters()
    a, b = ClippedAdam(ours), clipped_adam.ClippedAdam(theirs)
    run(a, ours, range(30), missing=missing)
    run(b, theirs, range(30), missing=missing)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)
    assert a.state[ours[0]]["step"] == 30
    assert a.state[ours[1]]["step"] == 20


def test_groups_have_their_own_options():
    def groups(params):
        return [{"params": params[:1], "lr": 0.1, "clip_norm": 0.1}, {"params": params[1:], "lrd": 0.9}]

    ours, theirs = parameters(), parameters()
    run(ClippedAdam(groups(ours)), ours, range(50))
    run(clipped_adam.ClippedAdam(groups(theirs)), theirs, range(50))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("first", [ClippedAdam, clipped_adam.ClippedAdam])
def test_a_checkpoint_of_either_goes_on_in_the_other(first):
    (other,) = {ClippedAdam, clipped_adam.ClippedAdam} - {first}
    whole, halves = parameters(), parameters()
    run(first(whole, lrd=0.99), whole, range(40))
    begun = first(halves, lrd=0.99)
    run(begun, halves, range(20))
    resumed = other(halves)
    resumed.load_state_dict(copy.deepcopy(begun.state_dict()))
    run(resumed, halves, range(20, 40))
    torch.testing.assert_close(halves, whole, rtol=1e-12, atol=1e-13)


def test_a_sparse_gradient_is_made_dense():
    dense, sparse = (torch.nn.Parameter(torch.ones(6, 2)) for _ in range(2))
    a, b = clipped_adam.ClippedAdam([dense]), ClippedAdam([sparse])
    rows = torch.tensor([1, 1, 4])
    for _ in range(3):
        dense.grad = sparse.grad = None
        torch.nn.functional.embedding(rows, dense).sum().backward()
        torch.nn.functional.embedding(rows, sparse, sparse=True).sum().backward()
        a.step(), b.step()
    torch.testing.assert_close(dense, sparse)


def test_what_the_kernel_does_not_walk_through_takes_pyro_s_step():
    start = torch.randn(4, 3)
    ours, theirs = (torch.nn.Parameter(start.clone().T) for _ in range(2))
    a, b = ClippedAdam([ours]), clipped_adam.ClippedAdam([theirs])
    for _ in range(5):
        ours.grad, theirs.grad = torch.ones(3, 4), torch.ones(3, 4)
        a.step(), b.step()
    torch.testing.assert_close(ours, theirs)
    assert not torch.equal(ours, start.T)


def test_a_closure_is_run_with_gradients():
    (p,) = params = parameters()[:1]
    optimizer = ClippedAdam(params)

    def closure():
        optimizer.zero_grad()
        loss = p.square().sum()
        loss.backward()
        return loss

    before = closure().item()
    assert optimizer.step(closure).item() == before
    assert p.square().sum() < before


def test_it_is_the_models_default_and_trains_as_pyro_s_does():
    dm = po.CellDataModule(counts(), batch_size=20, validation_size=0.0)

    def trained(optimizer):
        svi = po.SVIModule(small(dm).double(), optimizer=optimizer)
        pl.seed_everything(1, verbose=False)
        trainer = quiet_trainer(3, precision="64-true")
        trainer.fit(svi, dm)
        return trainer, torch.nn.utils.parameters_to_vector(svi.parameters())

    trainer, ours = trained(None)
    assert type(trainer.optimizers[0]) is ClippedAdam
    _, theirs = trained(lambda params: clipped_adam.ClippedAdam(params, lr=2e-2))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_a_state_in_another_layout_or_type_takes_pyros_step():
    """Strided gradients, then others; a module moved to another dtype under its optimizer."""
    torch.manual_seed(0)
    gradients = [torch.randn(6, 5) for _ in range(6)]
    found = []
    for cls in (ClippedAdam, clipped_adam.ClippedAdam):
        p = torch.nn.Parameter(torch.zeros(6, 5))
        optimizer = cls([p], lr=0.1)
        for step, g in enumerate(gradients):
            p.grad = g.T.contiguous().T if step < 3 else g.clone()
            optimizer.step()
        found.append(p.detach().clone())
    torch.testing.assert_close(*found)
    for before, after in ((torch.float64, torch.float32), (torch.float32, torch.float64)):
        found = []
        for cls in (ClippedAdam, clipped_adam.ClippedAdam):
            module = torch.nn.Linear(3, 4).to(before)
            with torch.no_grad():
                module.weight.zero_(), module.bias.zero_()
            optimizer = cls(module.parameters(), lr=0.1)
            for dtype in (before, after):
                module.to(dtype)
                for p in module.parameters():
                    p.grad = torch.ones_like(p)
                optimizer.step()
            found.append(module.weight.detach().clone())
        torch.testing.assert_close(*found)


def test_another_optimizer_s_state_is_refused_by_name():
    weights = [torch.nn.Parameter(torch.ones(3))]
    with pytest.raises(ValueError, match=r"must be of a ClippedAdam; got one without \['centered_variance'"):
        po.optim.ClippedAdam(weights).load_state_dict(torch.optim.Adam(weights).state_dict())
