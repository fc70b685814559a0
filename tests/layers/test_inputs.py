"""Global latents with dimensions in front: entries, products and layers are those of each particle by itself."""

import pytest
import torch
from pyro.nn import PyroSample
from torch.testing import assert_close

from pyro_omics.layers import (
    BatchNorm,
    GatedAttention,
    LayerNorm,
    Linear,
    SparseLinear,
    at_entries,
    at_levels,
    beside_rows,
    row_product,
)

P, N, LEVELS, K = 3, 4, 2, 5
CODES = torch.tensor([0, 1, 1, 0])


def forms(value):
    """The shapes in which a value (P, *event) comes: in a plate of particles, and without the place of the rows."""
    return {"particles": value.unsqueeze(1), "draws": value}


@pytest.mark.parametrize("form", ["particles", "draws"])
def test_entries_are_those_of_each_particle(form):
    table, vector = torch.randn(P, LEVELS, K), torch.randn(P, LEVELS)
    entry_codes = torch.randint(0, LEVELS, (N, K))
    assert_close(at_levels(forms(table)[form], CODES, 2), torch.stack([one[CODES] for one in table]))
    assert_close(at_levels(forms(vector)[form], CODES, 1), torch.stack([one[CODES] for one in vector]))
    assert_close(
        at_entries(forms(table)[form], entry_codes), torch.stack([one.gather(0, entry_codes) for one in table])
    )
    assert_close(beside_rows(forms(vector)[form], 1), vector.unsqueeze(1))
    assert_close(beside_rows(forms(vector[:, 0])[form], 0), vector[:, :1])


def test_enumerated_levels_meet_every_particle():
    """Levels (levels, 1, 1) of a discrete latent that is summed out, to the left of the particles."""
    table = torch.randn(P, 1, LEVELS, K)
    found = at_levels(table, torch.arange(LEVELS).reshape(LEVELS, 1, 1), 2)
    assert_close(found, table.squeeze(1).movedim(1, 0).unsqueeze(2))


def test_a_value_without_dimensions_in_front_is_read_as_ever():
    table = torch.randn(LEVELS, K, requires_grad=True)
    assert beside_rows(table, 2) is table
    assert torch.equal(at_levels(table, CODES, 2), table[CODES])
    assert torch.equal(at_levels(table.unsqueeze(0), CODES, 2), table[CODES])  # a looped Predictive's
    codes = torch.randint(0, LEVELS, (N, K))
    for found in (at_entries(table, codes), at_entries(table.unsqueeze(0), codes)):
        assert torch.equal(found, table.gather(0, codes))
        assert torch.equal(torch.autograd.grad(found.sum(), table)[0].sum(0), torch.full((K,), float(N)))


@pytest.mark.parametrize("form", ["particles", "draws"])
@pytest.mark.parametrize("has_particles", [False, True])
def test_products_are_those_of_each_particle(form, has_particles):
    weight = torch.randn(P, K, 2)
    x = torch.randn(P, N, K) if has_particles else torch.randn(N, K)
    expected = torch.stack([(x[i] if has_particles else x) @ weight[i] for i in range(P)])
    assert_close(row_product(x, forms(weight)[form]), expected)
    assert_close(row_product(x, weight[:1]), x @ weight[0])


class Given:
    """Values that a PyroSample reads, in place of a distribution."""

    def __init__(self, value):
        self.value = value

    def __call__(self, owner):
        return self.value


@pytest.mark.parametrize("form", ["particles", "draws"])
@pytest.mark.parametrize("has_particles", [False, True])
@pytest.mark.parametrize(
    "make", [lambda: Linear(K, K), lambda: SparseLinear(K, K), lambda: LayerNorm(K), lambda: BatchNorm(K)]
)
def test_layers_with_latent_weights_are_those_of_each_particle(make, has_particles, form):
    layer, alone = make().eval(), make().eval()  # in training, BatchNorm takes the rows of all particles together
    alone.load_state_dict(layer.state_dict())
    x = torch.randn(P, N, K) if has_particles else torch.randn(N, K)
    values = {name: torch.randn(P, *p.shape) for name, p in layer.named_parameters()}
    expected = []
    for i in range(P):
        with torch.no_grad():
            for name, p in alone.named_parameters():
                p.copy_(values[name][i])
            expected.append(alone(x[i] if has_particles else x))
    for name in values:
        delattr(layer, name)
        setattr(layer, name, PyroSample(Given(forms(values[name])[form])))
    assert_close(layer(x), torch.stack(expected))


def test_attention_with_latent_weights_is_that_of_each_particle():
    attention = GatedAttention(K, 2)
    h = torch.randn(N, P, K)  # as many members as particles
    score = attention.score.weight.detach().clone()
    gate = attention.gate.weight.detach().clone()
    one = GatedAttention(K, 2)
    one.load_state_dict(attention.state_dict())
    with torch.no_grad():
        one.gate.weight.copy_(-gate)
        one.score.weight.copy_(3 * score)
        expected = torch.stack([attention(h), one(h)])
    for layer, values in ((attention.gate, [gate, -gate]), (attention.score, [score, 3 * score])):
        del layer.weight
        layer.weight = PyroSample(Given(torch.stack(values).unsqueeze(1)))
    assert_close(attention(h), expected)
