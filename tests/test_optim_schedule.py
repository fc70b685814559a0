"""The default schedule of the learning rate, and how it goes on in a resumed fit."""

import math

import pytest
import torch
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, StepLR

import pyro_omics as po


def schedule(n_steps, warmup=0.2, lr=2.0):
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    return optimizer, po.optim.OneCycle(optimizer, n_steps, warmup)


def rates(optimizer, scheduler, n):
    seen = []
    for _ in range(n):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_the_rate_rises_linearly_and_falls_with_a_cosine():
    seen = rates(*schedule(10), 10)
    shares = [(t + 0.5) / 10 for t in range(10)]
    expected = [s / 0.2 if s < 0.2 else 0.5 * (1 + math.cos(math.pi * (s - 0.2) / 0.8)) for s in shares]
    assert seen == pytest.approx([2 * rate for rate in expected])


def test_a_cycle_of_unknown_length_falls_with_the_root_of_the_step():
    seen = rates(*schedule(math.inf), 400)
    assert max(seen) == pytest.approx(2.0) and seen.index(max(seen)) == 99
    assert seen[399] == pytest.approx(1.0)


def test_a_resumed_cycle_is_the_uninterrupted_one_and_a_longer_one_stretches_its_rest():
    whole = rates(*schedule(10), 10)
    optimizer, scheduler = schedule(10)
    assert rates(optimizer, scheduler, 4) == whole[:4]
    weights, state = optimizer.state_dict(), scheduler.state_dict()
    for n_steps in (10, 16):
        again, resumed = schedule(n_steps)
        again.load_state_dict(weights)
        resumed.load_state_dict(state)
        rest = rates(again, resumed, n_steps - 4)
        if n_steps == 10:
            assert rest == whole[4:]
        assert whole[3] > rest[0] or n_steps == 16
        assert rest == sorted(rest, reverse=True) and rest[-1] < 0.05


def test_a_cycle_that_had_ended_begins_again():
    optimizer, scheduler = schedule(5)
    rates(optimizer, scheduler, 5)
    again, resumed = schedule(15)
    again.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    assert rates(again, resumed, 10) == pytest.approx(rates(*schedule(10), 10))


def test_a_schedule_of_torch_is_not_given_the_number_of_steps():
    assert po.optim.takes_steps(po.optim.OneCycle) and po.optim.takes_steps(lambda optimizer, n_steps: None)
    for scheduler in (ExponentialLR, StepLR, CosineAnnealingLR, po.optim.Constant):
        assert not po.optim.takes_steps(scheduler)


@pytest.mark.parametrize("warmup", [-0.1, 1.0])
def test_the_share_of_the_warm_up_is_checked(warmup):
    with pytest.raises(ValueError, match=r"warmup must be a share of the training, in \[0, 1\); got"):
        schedule(10, warmup)
