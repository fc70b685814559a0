"""Priors over the weights of networks, for `bayesianize`."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule, PyroSample
from torch import Tensor

from pyro_omics.layers.inputs import beside_rows
from pyro_omics.serialization.arguments import RecordsArguments


class WeightPrior(RecordsArguments):
    """Prior of a parameter of any shape, made of one or several latents; a subclass overrides `parts`."""

    def parts(self, name: str, shape: torch.Size) -> dict[str, PyroSample]:
        """The latents that replace a parameter.

        Parameters
        ----------
        name
            name of the parameter in its module, such as "weight".
        shape
            shape of the parameter.

        Returns
        -------
        Name of an attribute -> its PyroSample, in the order of sampling; the last is ``name``, the weight itself. Each
        is set on the module that had the parameter. The distributions are made on the device and with the dtype of that
        module's first remaining floating-point parameter or buffer.
        """
        raise NotImplementedError(f"{type(self).__name__} must define parts(name, shape)")


class WeightNormal(WeightPrior):
    r"""Independent Normal for each weight.

    .. math:: w_j \sim \mathrm{Normal}(0, s^2)

    Parameters
    ----------
    scale
        s, above 0.

    Raises
    ------
    ValueError
        If ``scale`` is not above 0.

    Source: Blundell et al. 2015, ICML (weight uncertainty in neural networks).
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = _check_scale("scale", scale)

    def parts(self, name: str, shape: torch.Size) -> dict[str, PyroSample]:
        """``name``: Normal(0, scale^2), event shape ``shape``."""
        return {name: PyroSample(partial(_normal, shape=shape, scale=self.scale))}


class Horseshoe(WeightPrior):
    r"""Horseshoe prior: most weights near 0, a few large.

    .. math::
        \tau &\sim \mathrm{HalfCauchy}(s) \\
        \lambda_j &\sim \mathrm{HalfCauchy}(1) \\
        w_j &\sim \mathrm{Normal}(0, \tau^2 \lambda_j^2)

    tau, one number for the parameter, is the latent "NAME_global_scale"; lambda is "NAME_local_scale". With a slab of
    width c (the regularised horseshoe), lambda_j^2 is replaced by c^2 lambda_j^2 / (c^2 + tau^2 lambda_j^2): no
    weight's standard deviation exceeds c, and the gradients of large weights stay finite.

    Parameters
    ----------
    scale
        s, above 0. If about p0 of p weights are relevant, in n rows with noise sigma: p0 / (p - p0) sigma / sqrt(n).
    slab
        c, above 0; None for the horseshoe without a slab.

    Raises
    ------
    ValueError
        If ``scale`` or ``slab`` is not above 0.

    Source: Carvalho, Polson and Scott 2010, Biometrika 97, 465; Piironen and Vehtari 2017, Electronic Journal of
    Statistics 11, 5018 (the regularised horseshoe, here with c fixed; the scale from p0).
    """

    def __init__(self, scale: float = 1.0, slab: float | None = None) -> None:
        self.scale = _check_scale("scale", scale)
        self.slab = None if slab is None else _check_scale("slab", slab)

    def parts(self, name: str, shape: torch.Size) -> dict[str, PyroSample]:
        """``name_global_scale`` (), ``name_local_scale`` of ``shape``, and ``name``."""
        global_, local = f"{name}_global_scale", f"{name}_local_scale"
        return {
            global_: PyroSample(partial(_half_cauchy, shape=torch.Size(), scale=self.scale)),
            local: PyroSample(partial(_half_cauchy, shape=shape, scale=1.0)),
            name: PyroSample(partial(_horseshoe, global_=global_, local=local, slab=self.slab, event_dim=len(shape))),
        }


def _check_scale(argument: str, value: float) -> float:
    if not (isinstance(value, int | float) and 0 < value < math.inf):
        raise ValueError(f"{argument} must be a standard deviation, above 0; got {value!r}")
    return float(value)


# Distributions for PyroSample, which calls each with the module that owns the weight. They are module-level functions
# in a partial, because a lambda could not be pickled.


def _full_like(owner: PyroModule, shape: torch.Size, value: float) -> Tensor:
    tensors = itertools.chain(owner.parameters(), owner.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(()))
    return torch.full(shape, value, dtype=like.dtype, device=like.device)


def _normal(owner: PyroModule, shape: torch.Size, scale: float) -> TorchDistribution:
    return dist.Normal(_full_like(owner, shape, 0.0), _full_like(owner, shape, scale)).to_event()


def _half_cauchy(owner: PyroModule, shape: torch.Size, scale: float) -> TorchDistribution:
    return dist.HalfCauchy(_full_like(owner, shape, scale)).to_event()


def _horseshoe(owner: PyroModule, global_: str, local: str, slab: float | None, event_dim: int) -> TorchDistribution:
    tau = beside_rows(getattr(owner, global_), 0)
    scale = tau.reshape(tau.shape + (1,) * event_dim) * beside_rows(getattr(owner, local), event_dim)
    if slab is not None:
        scale = scale * torch.rsqrt(1 + (scale / slab).square())
    return dist.Normal(torch.zeros_like(scale), scale).to_event(event_dim)
