"""Several processes: shares of the rows, noise by observation, and two processes' fit against one's."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from ddp_fits import FITS, fit
from helpers import counts, quiet_trainer, small
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from scipy import stats

import pyro_omics as po
from pyro_omics.data import splits
from pyro_omics.inference.keyed_noise import KeyedNoise, standard_normal

TOGETHER = Path(__file__).parents[1] / "ddp_fits.py"


# Two processes against one ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What each of two processes ended with, by model."""
    folder = tmp_path_factory.mktemp("ddp")
    paths = os.pathsep.join([str(TOGETHER.parents[1]), os.environ.get("PYTHONPATH", "")])
    # Gloo on the loopback: a machine's name need not resolve.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "GLOO_SOCKET_IFNAME": loopback()}
    done = subprocess.run(
        [sys.executable, str(TOGETHER), str(folder)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return {name: [torch.load(folder / f"{name}-{rank}.pt") for rank in (0, 1)] for name in FITS}


def loopback():
    names = os.listdir("/sys/class/net") if os.path.isdir("/sys/class/net") else []
    return "lo" if "lo" in names else "lo0"


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("name", FITS)
def test_two_processes_give_the_parameters_of_one_at_the_same_global_batch(together, name):
    alone = fit(name, processes=1)
    first, second = together[name]
    for key, value in alone["weights"].items():
        torch.testing.assert_close(first["weights"][key], value, rtol=1e-5, atol=1e-5)
        assert torch.equal(first["weights"][key], second["weights"][key]), key
    # 630 rows: nine whole minibatches of 64 and one of 54; 69 held out, which do not halve.
    for one, other, all_rows in zip(first["rows"], second["rows"], alone["rows"], strict=True):
        assert [len(rows) for rows in all_rows] == [64] * 9 + [54]
        assert [len(rows) for rows in one] == [len(rows) for rows in other] == [32] * 9 + [27]
        for a, b, both in zip(one, other, all_rows, strict=True):
            assert set(torch.cat([a, b]).tolist()) == set(both.tolist())
    for rows, expected in (("held_out", np.arange(0, 690, 10)), ("predicted", np.arange(699))):
        seen = [torch.cat(list(part[rows])) if rows == "held_out" else part[rows] for part in together[name]]
        assert sorted(torch.cat(seen).tolist()) == expected.tolist()
    # Means over rows, not over processes or minibatches.
    for metric in ("train_elbo", "val_elbo"):
        assert first["logged"][metric] == second["logged"][metric] == pytest.approx(alone["logged"][metric], rel=1e-5)


@pytest.mark.slow
@pytest.mark.distributed
def test_the_global_latent_is_one_and_moved(together):
    first, second = together["TotalVI"]
    found = {key: value for key, value in first["weights"].items() if "guide.rest" in key}
    assert found
    for key, value in found.items():
        assert torch.equal(value, second["weights"][key])
        assert not torch.equal(value, torch.full_like(value, value.flatten()[0].item()))


@pytest.mark.slow
@pytest.mark.distributed
def test_a_laplace_approximation_is_of_all_rows(together):
    first, _ = together["Laplace"]
    (scale_tril,) = (value for key, value in first["weights"].items() if key.endswith("scale_tril"))
    assert (scale_tril.diagonal() > 0).all()  # and is that of one process, as all weights are


# Shares of the rows --------------------------------------------------------------------------------------------------


def shares(monkeypatch, n, world, shuffle, epoch=0, size=3):
    """The samplers of ``world`` processes over n rows."""
    samplers = []
    for rank in range(world):
        monkeypatch.setattr(splits, "_rank_and_world_size", lambda rank=rank: (rank, world))
        samplers.append(splits.EpochSampler(torch.arange(n) * 10, size, seed=3, shuffle=shuffle))
        samplers[-1].set_epoch(epoch)
    return samplers


def rows_of(sampler):
    return torch.cat(list(sampler)).tolist()


@pytest.mark.parametrize(("n", "world"), [(20, 2), (21, 2), (23, 4), (4, 4)])
def test_no_row_is_trained_on_twice_and_all_take_as_many_steps_of_one_size(monkeypatch, n, world):
    (alone,) = shares(monkeypatch, n, 1, True, size=3 * world)
    whole = rows_of(alone)[: n - n % world]
    samplers = shares(monkeypatch, n, world, True)
    for step, together in enumerate(zip(*samplers, strict=True)):
        assert len({len(rows) for rows in together}) == 1
        expected = whole[3 * world * step : 3 * world * (step + 1)]
        assert sorted(torch.cat(together).tolist()) == sorted(expected)
    assert {len(sampler) for sampler in samplers} == {-(-(n // world) // 3)}
    assert sorted(row for sampler in samplers for row in rows_of(sampler)) == sorted(whole)


def test_what_is_left_out_of_an_epoch_is_in_another(monkeypatch):
    seen = Counter()
    samplers = shares(monkeypatch, 11, 4, True)
    for epoch in range(400):
        for sampler in samplers:
            sampler.set_epoch(epoch)
            seen.update(rows_of(sampler))
    assert len(seen) == 11
    # Each of 11 rows is left out of 3 / 11 of the epochs: five standard deviations.
    expected, sd = 400 * 8 / 11, (400 * 8 / 11 * 3 / 11) ** 0.5
    assert all(abs(times - expected) < 5 * sd for times in seen.values())


@pytest.mark.parametrize(("n", "world"), [(20, 2), (21, 2), (23, 4), (9, 2)])
@pytest.mark.parametrize("size", [1, 3, 4, 5])
def test_every_held_out_row_is_scored_once_in_as_many_minibatches(monkeypatch, n, world, size):
    samplers = shares(monkeypatch, n, world, False, size=size)
    assert sorted(row for sampler in samplers for row in rows_of(sampler)) == [10 * i for i in range(n)]
    assert len({len(list(sampler)) for sampler in samplers}) == 1
    assert all(len(sampler) == len(list(sampler)) for sampler in samplers)
    assert size <= samplers[0].batch_size <= size + 2


def test_one_process_has_all_rows_in_minibatches_of_the_size_that_was_asked_for():
    sampler = splits.EpochSampler(torch.arange(10), 4, seed=0, shuffle=False)
    assert [rows.tolist() for rows in sampler] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(sampler) == 3


def test_fewer_rows_than_processes_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="3 held-out rows cannot be shared by 4 processes"):
        shares(monkeypatch, 3, 4, False)


# Noise by observation -----------------------------------------------------------------------------------------------


def test_keyed_noise_is_standard_normal_and_independent():
    noise = standard_normal(torch.arange(20_000), torch.Size((20_000, 5)), -2, key=-7)
    assert noise.dtype == torch.float64
    for column in noise.T:
        assert stats.kstest(column.numpy(), "norm").pvalue > 1e-3
    correlation = np.corrcoef(noise.T.numpy()) - np.eye(5)
    assert np.abs(correlation).max() < 5 / 20_000**0.5
    # Neighbours in index, and the same row under the next key.
    other = standard_normal(torch.arange(20_000), torch.Size((20_000, 5)), -2, key=-6)
    for a, b in ((noise[1:, 0], noise[:-1, 0]), (noise[:, 0], other[:, 0]), (noise[1:, 0], noise[:-1, 1])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 5 / 20_000**0.5


@pytest.mark.parametrize(("shape", "dim"), [((4,), -1), ((4, 3), -2), ((2, 4), -1), ((2, 4, 3), -2), ((4, 3, 2), -3)])
def test_a_row_s_noise_depends_on_its_index_alone(shape, dim):
    index = torch.tensor([5, 2, 9, 0])
    whole = standard_normal(index, torch.Size(shape), dim, key=3)
    assert whole.shape == shape
    at = list(shape)
    at[dim] = 2
    part = standard_normal(index[[2, 0]], torch.Size(at), dim, key=3)
    assert torch.equal(part, whole.index_select(dim, torch.tensor([2, 0])))
    assert len(whole.unique()) == whole.numel()


def local_model(index, fn):
    """Sites "f", global, and "z", of rows."""
    f = pyro.sample("f", dist.Gamma(2.0, torch.ones(3)).to_event(1))
    with pyro.plate("obs", 100, subsample=index):
        return f, pyro.sample("z", fn)


def drawn(index, fn, *key):
    with pyro.validation_enabled(False), KeyedNoise(index, *key):
        return local_model(index, fn)


MAKES = {
    "Normal": lambda loc: dist.Normal(loc, 0.5).to_event(1),
    "LogNormal": lambda loc: dist.LogNormal(loc, 0.5).to_event(1),
    "simplex": lambda loc: dist.TransformedDistribution(
        dist.Normal(loc, 0.5).to_event(1), [dist.transforms.StickBreakingTransform()]
    ),
    "masked": lambda loc: dist.Normal(loc, 0.5).mask(loc > 0).to_event(1),
}


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_draws_of_any_minibatch_are_those_of_the_whole(make):
    index, loc = torch.arange(40), torch.linspace(-1, 1, 120).reshape(40, 3).requires_grad_()
    f, z = drawn(index, make(loc), 1, "step", 7)
    half_f, half_z = drawn(index[10:20], make(loc[10:20]), 1, "step", 7)
    torch.testing.assert_close(half_z, z[10:20], rtol=1e-6, atol=0)
    assert torch.equal(half_f, f)
    assert z.requires_grad
    again = drawn(index, make(loc), 1, "step", 8)
    assert not torch.equal(again[0], f) and not (again[1] == z).any()


def test_torch_s_generator_is_left_alone_and_particles_differ():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    index, fn = torch.arange(5), dist.Normal(torch.zeros(5), 1.0)
    with pyro.validation_enabled(False), KeyedNoise(index, 0):
        first, second = (local_model(index, fn) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(first[0], second[0]) and not (first[1] == second[1]).any()


def test_rows_of_another_distribution_are_refused_by_name():
    with pytest.raises(ValueError, match=r"the guide must draw 'z' from a Normal .*; got a StudentT"):
        drawn(torch.arange(4), dist.StudentT(5.0, torch.zeros(4), 1.0), 0)


def test_a_replayed_site_keeps_its_value():
    index, fn = torch.arange(4), dist.Normal(torch.zeros(4), 1.0)
    trace = poutine.trace(local_model).get_trace(index, fn)
    with KeyedNoise(index, 0):
        again = poutine.trace(poutine.replay(local_model, trace=trace)).get_trace(index, fn)
    assert torch.equal(again.nodes["z"]["value"], trace.nodes["z"]["value"])


def test_fits_from_one_noise_seed_are_alike_whatever_torch_s_seed():
    dm = po.CellDataModule(counts(), batch_size=20, validation_size=0.2)

    def weights(noise_seed, seed):
        svi = po.SVIModule(small(dm, dropout=0.0), noise_seed=noise_seed)
        torch.manual_seed(seed)
        trainer = quiet_trainer(2)
        trainer.fit(svi, dm)
        return torch.nn.utils.parameters_to_vector(svi.parameters()), trainer.callback_metrics["val_elbo"]

    first, again, other = weights(1, 0), weights(1, 9), weights(2, 0)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize(
    "elbo",
    [None, TraceMeanField_ELBO(), po.elbos.RenyiELBO(0.5), po.elbos.TraceELBO(num_particles=2)],
    ids=["default", "mean-field", "Renyi", "particles"],
)
def test_any_bound_is_the_same_sum_over_parts_of_a_batch(elbo):
    # What two processes do: the mean of their losses, each scaled to the data from its own rows, is the whole's.
    dm = po.CellDataModule(counts(), batch_size=20, validation_size=0.0)
    model = po.bayesianize(small(dm, dropout=0.0, norm=po.layers.LayerNorm), "likelihood")
    guide = lambda model: po.guides.Amortized(model, rest=AutoMultivariateNormal)  # noqa: E731
    svi = po.SVIModule(model, guide, elbo=elbo, noise_seed=1).double()
    batch = next(iter(dm.train_dataloader()))
    batch = batch._replace(x=batch.x.double())

    def loss(rows):
        part = type(batch)(*(None if field is None else field[rows] for field in batch))
        with pyro.validation_enabled(False), KeyedNoise(part.index, 1):
            value = svi(part)
        return value, torch.autograd.grad(value, list(svi.parameters()), allow_unused=True)

    whole, halves = loss(slice(None)), [loss(slice(10)), loss(slice(10, 20))]
    torch.testing.assert_close((halves[0][0] + halves[1][0]) / 2, whole[0], rtol=1e-10, atol=0)
    for full, a, b in zip(whole[1], halves[0][1], halves[1][1], strict=True):
        if full is not None:
            torch.testing.assert_close((a + b) / 2, full, rtol=1e-8, atol=1e-12)


def test_the_example_batch_has_an_index_to_key_by():
    assert po.sizes.Sizes(5, 3).example_batch().index.tolist() == [0, 1]
