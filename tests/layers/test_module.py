"""`FastPyroModule`: whatever handlers are on Pyro's stack, it reads as a PyroModule does."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroSample
from torch import nn

from pyro_omics.layers import FastPyroModule, Linear

NAMES = ["linear.bias", "linear.weight", "plain$$$bias", "plain$$$weight"]


class Net(FastPyroModule):
    def __init__(self):
        super().__init__()
        self.linear = Linear(2, 2)
        self.plain = nn.Linear(2, 2)

    def forward(self):
        return self.plain(self.linear(torch.ones(2)))


class PyroLinear(nn.Linear, PyroModule):
    pass


class Reference(PyroModule):
    """The same network as a PyroModule."""

    def __init__(self, net):
        super().__init__()
        self.linear, self.plain = PyroLinear(2, 2), nn.Linear(2, 2)
        self.load_state_dict(net.state_dict())

    def forward(self):
        return self.plain(self.linear(torch.ones(2)))


@pytest.fixture
def heard():
    """The names that a handler hears which listens to every message."""

    class Listener(poutine.messenger.Messenger):
        names = []

        def _process_message(self, msg):
            self.names.append(msg["name"])

    with Listener():
        yield Listener.names


def test_a_trace_has_every_parameter():
    net = Net()
    trace = poutine.trace(net).get_trace()
    assert sorted(name for name, site in trace.nodes.items() if site["type"] == "param") == NAMES
    assert trace.nodes["linear.weight"]["value"] is net.linear.weight


@pytest.mark.parametrize("validation", [True, False])
def test_a_handler_of_one_s_own_hears_of_every_parameter(heard, validation):
    with pyro.validation_enabled(validation):
        Net()()
    assert sorted(heard) == NAMES


@pytest.mark.parametrize("validation", [True, False])
def test_lifted_parameters_are_drawn_as_of_a_pyro_module(validation):
    net = Net()
    prior = {"linear.weight": dist.Normal(5.0, 1.0).expand([2, 2]).to_event(), "linear.bias": dist.Delta(torch.ones(2))}
    found = []
    with pyro.validation_enabled(validation):
        for module in (net, Reference(net)):
            torch.manual_seed(1)
            trace = poutine.trace(poutine.lift(module, prior=prior)).get_trace()
            found.append({name: site["value"] for name, site in trace.nodes.items() if site["type"] != "args"})
    ours, theirs = found
    assert {"linear.weight", "linear.bias"} < set(ours)
    for name, value in theirs.items():
        assert torch.equal(ours[name], value)


@pytest.mark.parametrize("outer", [False, True])
def test_plates_and_scales_read_as_a_pyro_module_does(outer):
    net = Net()
    reference = Reference(net)

    def program(module):
        with pyro.plate("obs", 10, subsample=torch.arange(2)), poutine.scale(scale=0.5):
            return module()

    torch.testing.assert_close(program(net), program(reference))
    if outer:
        ours, theirs = (poutine.trace(program).get_trace(module) for module in (net, reference))
        assert sorted(ours.nodes) == sorted(theirs.nodes)
        for name in NAMES:
            assert torch.equal(ours.nodes[name]["value"], theirs.nodes[name]["value"])
            assert ours.nodes[name]["scale"] == theirs.nodes[name]["scale"]


def test_latent_weights_are_sampled_once_under_any_handler():
    net = Net()
    net.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([2, 2]).to_event(2))
    with pyro.validation_enabled(False), poutine.trace() as trace:
        net()
    assert [name for name, site in trace.trace.nodes.items() if site["type"] == "sample"] == ["linear.weight"]
    with pyro.validation_enabled(False):
        assert not torch.equal(net(), net())


def test_an_optimizer_s_handler_gets_every_parameter_of_plain_modules_too():
    """Of a list of PyroModules, plain modules are read without a message."""

    class Listed(FastPyroModule):
        def __init__(self):
            super().__init__()
            self.layers = PyroModule[nn.ModuleDict]({"plain": nn.Sequential(nn.Linear(2, 2)), "own": Linear(2, 2)})

        def forward(self):
            return self.layers["own"](self.layers["plain"](torch.ones(2)))

    net = Listed()
    with poutine.trace(param_only=True) as collected:
        net()
    found = {name: site["value"].unconstrained() for name, site in collected.trace.nodes.items()}
    assert set(map(id, found.values())) == set(map(id, net.parameters()))
    assert "layers.plain.0.weight" in found


def test_a_store_that_others_use_is_left_as_it_is():
    """Its parameters keep what an optimizer reads of them, while a module runs by itself or in a larger one."""

    class Larger(PyroModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self):
            return self.net()

    pyro.clear_param_store()
    alone, larger = Net(), Larger()
    for program in (alone, larger, lambda: larger.net()):
        with poutine.trace(param_only=True) as collected:
            value = pyro.param("loc", torch.tensor(1.0))
            program()
        assert value.unconstrained() is collected.trace.nodes["loc"]["value"].unconstrained()
        assert all(hasattr(site["value"], "unconstrained") for site in collected.trace.nodes.values())
        assert "loc" in pyro.get_param_store()
    pyro.clear_param_store()


@pytest.mark.parametrize("local", [False, True])
def test_a_parameter_of_a_handler_goes_to_the_store(local):
    pyro.clear_param_store()
    with pyro.settings.context(module_local_params=local):
        net = Net()
        net.linear.bias = PyroSample(dist.Normal(torch.zeros(2), 1.0).to_event(1))
        program = poutine.reparam(net, config={"linear.bias": LocScaleReparam()})
        trace = poutine.trace(program).get_trace()
        assert trace.nodes["linear.bias_centered"]["type"] == "param"
        assert list(pyro.get_param_store().keys()) == ["linear.bias_centered"]
        for _ in range(2):
            assert "linear.bias_centered" not in poutine.trace(net).get_trace().nodes
    pyro.clear_param_store()


def test_a_part_made_latent_after_it_was_read_is_found():
    net = Net()
    net()
    pyro.nn.module.to_pyro_module_(net.plain)
    net.plain.bias = PyroSample(dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with poutine.trace() as trace:
        net()
    assert "plain.bias" in trace.trace.nodes
