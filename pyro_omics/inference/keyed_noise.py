"""Keyed noise: a row's random draws are the same in any minibatch and any process."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from typing import Any

import torch
from pyro.distributions import Delta
from pyro.distributions.torch_distribution import MaskedDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import Independent, Normal, TransformedDistribution

from pyro_omics.sites import PLATE, is_local

# splitmix64 (Steele et al. 2014), in int64: products wrap around, and masks make right shifts unsigned.
GOLDEN = 0x9E3779B97F4A7C15 - 2**64
MIX = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


class KeyedNoise(Messenger):
    r"""Draw every latent with noise that is a function of a key and, for local latents, of the row's index.

    .. math:: z_n = \mu_n + \sigma_n \, \Phi^{-1}(u_n), \quad u_{nk} = \mathrm{hash}(\mathrm{key}, \mathrm{site}, n, k)

    A row's noise does not depend on the other rows, and that of global latents is the same in every process, so two
    processes draw the same values as one. Dropout in networks is not affected.

    Parameters
    ----------
    index
        (n,) indices of the rows, `batch.CellBatch.index`.
    key
        numbers and names that the noise is a function of, such as a seed and a step.

    Raises
    ------
    ValueError
        For a local latent that is not drawn from a Normal or a transformed Normal.

    Source: Salmon et al. 2011 (counter-based random numbers); Steele et al. 2014 (splitmix64).
    """

    def __init__(self, index: Tensor, *key: int | str) -> None:
        super().__init__()
        self.index, self.key = index, key
        self._draws: Counter[str] = Counter()

    def _pyro_sample(self, msg: Any) -> None:
        if msg["done"] or msg["is_observed"] or msg["value"] is not None or site_is_subsample(msg):
            return
        fn, name = msg["fn"], msg["name"]
        if isinstance(fn, Delta):
            return
        self._draws[name] += 1  # each particle has its own noise
        key = _hash(*self.key, name, self._draws[name])
        if is_local(msg):
            (frame,) = (frame for frame in msg["cond_indep_stack"] if frame.name == PLATE)
            msg["value"] = _draw_local(name, fn, self.index, frame.dim, key)
        else:
            devices = [self.index.device] if self.index.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(key)
                msg["value"] = fn()
        msg["done"] = True


def _hash(*key: int | str) -> int:
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _draw_local(name: str, fn: Any, index: Tensor, dim: int, key: int) -> Tensor:
    """A reparameterised draw from a (transformed) Normal, with the rows along batch dimension ``dim``."""
    transforms: list[Any] = []
    base = fn
    while isinstance(base, Independent | MaskedDistribution | TransformedDistribution):
        transforms = [*getattr(base, "transforms", ()), *transforms]
        base = base.base_dist
    if not isinstance(base, Normal):
        raise ValueError(
            f"with noise_seed, the guide must draw {name!r} from a Normal or a transformed Normal; got a "
            f"{type(base).__name__}: use guides.Amortized or guides.PerObservation, or noise_seed=None"
        )
    shape = base.loc.shape
    noise = standard_normal(index, shape, len(fn.batch_shape) + dim - len(shape), key)
    value = base.loc + base.scale * noise.to(base.loc)
    for transform in transforms:
        value = transform(value)
    return value


def standard_normal(index: Tensor, shape: torch.Size, dim: int, key: int) -> Tensor:
    """Standard normal numbers of a shape; those of row i are a function of the key and ``index[i]``.

    Parameters
    ----------
    index
        (n,) indices of the rows.
    shape
        shape of the result, with n at ``dim``.
    dim
        dimension of the rows, counted from the right: -1 is the last.
    key
        64-bit integer.
    """
    others = torch.Size((*shape[:dim], *(shape[dim + 1 :] if dim < -1 else ())))
    lane = torch.arange(math.prod(others), device=index.device)
    bits = _mix(_mix(index * GOLDEN + key).unsqueeze(-1) + lane * GOLDEN)
    # Midpoints of 2^52 intervals, exact in float64: never 0 or 1, where ndtri is infinite.
    uniform = (((bits >> 12) & (2**52 - 1)).double() + 0.5) * 2.0**-52
    normal = torch.special.ndtri(uniform).reshape(len(index), *others)
    return normal.movedim(0, dim)


def _mix(x: Tensor) -> Tensor:
    for shift, factor in MIX:
        x = (x ^ ((x >> shift) & (2 ** (64 - shift) - 1))) * factor
    return x ^ ((x >> 31) & (2**33 - 1))
