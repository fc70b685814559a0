"""Single layers."""

import pytest
import torch

from pyro_omics.layers import Dropout


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.003])
@pytest.mark.parametrize("shape", [(1001, 129), (3, 7), (4, 300, 100)])  # by the layer's own draws, and by torch's
def test_dropout_drops_its_share_and_keeps_the_mean(p, shape):
    x = (2 * torch.ones(shape)).requires_grad_()
    draws = torch.stack([Dropout(p)(x) for _ in range(1 if x.numel() > 1000 else 500)])
    share = (draws == 0).double().mean().item()
    sd = (p * (1 - p) / draws.numel()) ** 0.5
    assert abs(share - p) < 4 * sd
    assert torch.allclose(draws[draws > 0], torch.tensor(2 / (1 - p)), rtol=1e-4)
    draws[0].sum().backward()
    assert torch.equal(x.grad, draws[0].detach() / 2)


def test_dropout_follows_torchs_generator_and_the_mode():
    layer, x = Dropout(0.3), torch.ones(256, 256)
    torch.manual_seed(1)
    one, other = layer(x), layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), one)
    assert not torch.equal(one, other)
    both = (one == 0) & (other == 0)
    assert abs(both.float().mean() - 0.09) < 0.01
    columns = (one == 0).float()
    assert abs((columns[:, 1:] * columns[:, :-1]).mean() - 0.09) < 0.01  # neighbours do not know of each other
    assert torch.equal(layer.eval()(x), x)
