"""`Laplace`: a Laplace approximation of the global latents."""

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
    r"""Pyro's AutoLaplaceApproximation, with the Hessian computed at the end of training.

    .. math:: q(w) = \mathrm{Normal}(\hat w, H^{-1}), \quad
        H = -\nabla^2_w \, \mathrm{E}_{q(z)} [\log p(x, z, w)] \text{ at } \hat w

    in unconstrained space, with the local latents z drawn once from their guide, and H averaged over the training
    minibatches, each scaled to the data set. During training the guide is a point: its ELBO lacks the entropy of w, and
    is not a bound on the evidence. H costs d backward passes for each minibatch, with d global dimensions.

    Source: Tierney and Kadane 1986, JASA 81, 82.
    """

    scale_tril: Tensor
    found: Tensor
    _at_point = False  # whether the posterior is the point while the Hessian is computed

    @classmethod
    def from_pyro(cls, guide: AutoLaplaceApproximation) -> Laplace:
        """Convert Pyro's guide, before its first call; program and initial values are the same.

        Pyro wraps the program of a guide in the handler that sets initial values. That handler takes precedence over
        the one of the guide made here.
        """
        return cls(guide.model)

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        self.register_buffer("scale_tril", torch.zeros(self.latent_dim, self.latent_dim))
        self.register_buffer("found", torch.tensor(False))

    def get_posterior(self, *args: Any, **kwargs: Any) -> TorchDistribution:
        """The Normal in eval mode, once its Hessian is known; otherwise the point."""
        if self.training or self._at_point or not self.found:
            return super().get_posterior(*args, **kwargs)
        return dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril)

    def on_train_end(self, loss: Loss, batches: Iterable[Any], summed: Callable[[Tensor], Tensor]) -> None:
        """Compute H at the trained optimum."""
        self.approximate(loss, ((batch, len(batch.index)) for batch in batches), summed)

    def approximate(
        self,
        loss: Loss,
        batches: Iterable[tuple[Any, int]],
        summed: Callable[[Tensor], Tensor] = lambda part: part,
    ) -> None:
        """Compute H and set the Normal.

        Parameters
        ----------
        loss
            the negative ELBO over the full data, in nats, estimated from a minibatch.
        batches
            minibatches with the number of rows of each.
        summed
            sums a tensor over all processes; the identity by default.
        """
        total, n = torch.zeros_like(self.scale_tril), torch.zeros_like(self.loc[0])
        with self._point_posterior():
            for batch, n_rows in batches:
                total, n = total + n_rows * hessian(loss(batch), self.loc), n + n_rows
        curvature, axes = torch.linalg.eigh(summed(total) / summed(n))
        if flat := int((curvature <= 0).sum()):
            warnings.warn(
                f"AutoLaplaceApproximation: in {flat} of {len(curvature)} directions the global latents are not at a "
                "maximum; there the standard deviation is set to the largest of the other directions: train longer",
                UserWarning,
                stacklevel=2,
            )
            curvature = curvature.clamp(min=curvature[curvature > 0].min() if flat < len(curvature) else 1.0)
        self.scale_tril.copy_(torch.linalg.cholesky((axes / curvature) @ axes.T))
        self.found.fill_(True)

    @contextmanager
    def _point_posterior(self) -> Iterator[None]:
        """Make the posterior the point inside the block, in eval mode."""
        self._at_point = True
        try:
            with eval_mode(self):
                yield
        finally:
            self._at_point = False
