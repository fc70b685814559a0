"""The Laplace approximation of the global latents: a point while it is trained, a Normal around it after."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.infer.autoguide import AutoLaplaceApproximation
from pyro.ops.hessian import hessian
from torch import Tensor

from pyro_omics.guides.hooks import Loss, TrainingHooks
from pyro_omics.layers import eval_mode


class Laplace(AutoLaplaceApproximation, TrainingHooks):
    r"""Pyro's AutoLaplaceApproximation, completed at the end of training.

    .. math:: q(w) = \mathrm{Normal}(\hat w, H^{-1}), \quad
        H = -\nabla^2_w \, \mathrm{E}_{q(z)} [\log p(x, z, w)] \text{ at } \hat w

    in unconstrained space, with the rows' own latents z drawn from their guide once, and H the mean over the training
    minibatches, each scaled to the data set. In training it is a point: an ELBO of a point has no entropy of w in it,
    and is no bound on the evidence. H costs d backward passes for each minibatch, with d global dimensions.

    Source: Tierney and Kadane 1986, JASA 81, 82.
    """

    scale_tril: Tensor
    found: Tensor
    _seeking = False

    @classmethod
    def of(cls, guide: AutoLaplaceApproximation) -> Laplace:
        """The same guide as one of Pyro's that was not called yet: over the same program, started at the same values.

        Pyro's holds its program inside the handler that sets the start, which acts before that of the guide made here.
        """
        return cls(guide.model)

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        self.register_buffer("scale_tril", torch.zeros(self.latent_dim, self.latent_dim))
        self.register_buffer("found", torch.tensor(False))

    def get_posterior(self, *args: Any, **kwargs: Any) -> TorchDistribution:
        """The Normal, once it is found and outside of training; else the point."""
        if self.training or self._seeking or not self.found:
            return super().get_posterior(*args, **kwargs)
        return dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril)

    def on_train_end(self, loss: Loss, batches: Iterable[Any], summed: Callable[[Tensor], Tensor]) -> None:
        """Find H at the trained optimum."""
        self.approximate(loss, ((batch, len(batch.index)) for batch in batches), summed)

    def approximate(
        self,
        loss: Loss,
        batches: Iterable[tuple[Any, int]],
        summed: Callable[[Tensor], Tensor] = lambda part: part,
    ) -> None:
        """Find H.

        Parameters
        ----------
        loss
            the negative ELBO over the full data, in nats, estimated from a minibatch.
        batches
            minibatches, and the number of rows in each.
        summed
            the sum of each process's part, where several have minibatches of their own.
        """
        total, n = torch.zeros_like(self.scale_tril), torch.zeros_like(self.loc[0])
        with self._point():
            for batch, n_rows in batches:
                total, n = total + n_rows * hessian(loss(batch), self.loc), n + n_rows
        curvature, axes = torch.linalg.eigh(summed(total) / summed(n))
        if flat := int((curvature <= 0).sum()):
            warnings.warn(
                f"AutoLaplaceApproximation: in {flat} of {len(curvature)} directions the global latents are at no "
                "maximum, and are taken to be as wide as in the widest other one: train longer",
                UserWarning,
                stacklevel=2,
            )
            curvature = curvature.clamp(min=curvature[curvature > 0].min() if flat < len(curvature) else 1.0)
        self.scale_tril.copy_(torch.linalg.cholesky((axes / curvature) @ axes.T))
        self.found.fill_(True)

    @contextmanager
    def _point(self) -> Iterator[None]:
        self._seeking = True
        try:
            with eval_mode(self):
                yield
        finally:
            self._seeking = False
