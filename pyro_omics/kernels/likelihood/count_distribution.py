"""Base class of distributions over counts, whose log-probabilities of rows are computed by a kernel."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import sum_rightmost
from torch import Tensor

from pyro_omics.kernels.dispatch import HALF_PRECISION, can_use_kernel
from pyro_omics.kernels.likelihood.autograd import row_log_prob
from pyro_omics.kernels.likelihood.torch_kernels import Kernel


class CountDistribution(TorchDistributionMixin):
    """A distribution over single counts, with a ``kernel`` that sums the log-probabilities of rows, ``to_event(1)``.

    If a subclass, a mixin, an instance or the base distribution overrides ``log_prob``, that is used instead of the
    kernel, unless the subclass sets a kernel of its own.
    """

    kernel: ClassVar[Kernel | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kernel" not in vars(cls) and cls.log_prob is not cls._kernel_owner().log_prob:
            cls.kernel = None

    @classmethod
    def _kernel_owner(cls) -> Any:
        """The class that sets the kernel."""
        return next(base for base in cls.__mro__ if "kernel" in vars(base))

    @property
    def has_kernel(self) -> bool:
        """Whether the kernel computes the ``log_prob`` of this instance."""
        base = vars(self).get("base_dist")
        has_own_kernel = type(self).kernel is not None and "log_prob" not in vars(self)
        return has_own_kernel and (not isinstance(base, CountDistribution) or base.has_kernel)

    def kernel_parameters(self) -> tuple[Tensor, ...]:
        """Parameters of the kernel: those of the constructor, with theta not broadcast."""
        raise NotImplementedError(f"{type(self).__name__} must define kernel_parameters(), because it has a kernel")

    @classmethod
    def elementwise_log_prob(cls, value: Tensor, *parameters: Tensor) -> Tensor:
        """Log-probabilities of single counts, from the elementwise formula of the class that sets the kernel."""
        log_prob: Tensor = cls._kernel_owner()(*parameters, validate_args=False).log_prob(value)
        return log_prob

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> TorchDistribution:
        """The distribution with its last dimensions as one event, as `Distribution.to_event`."""
        event = super().to_event(reinterpreted_batch_ndims)
        return event if event is self else CountRows(self, event.reinterpreted_batch_ndims)


class CountRows(dist.Independent):
    """Independent counts, whose log-probabilities a kernel sums where `can_use_kernel` allows it."""

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> TorchDistribution:
        """The distribution with more dimensions in an event."""
        extra = len(self.batch_shape) if reinterpreted_batch_ndims is None else reinterpreted_batch_ndims
        return self.base_dist.to_event(self.reinterpreted_batch_ndims + extra)

    def log_prob(self, value: Tensor) -> Tensor:
        """Natural log of the probability of each event."""
        base = self.base_dist
        if not base.has_kernel:
            return super().log_prob(value)
        # Parameters from a network that computes in 16 bits are converted to the dtype of the counts, 32 bits.
        own_parameters = base.kernel_parameters()
        parameters = [p.to(value.dtype) if p.dtype in HALF_PRECISION else p for p in own_parameters]
        if not can_use_kernel(value, *parameters, smallest=base.kernel.smallest(parameters[0])):
            if all(p is given for p, given in zip(parameters, own_parameters, strict=True)):
                return super().log_prob(value)
            return sum_rightmost(base.elementwise_log_prob(value, *parameters), self.reinterpreted_batch_ndims)
        if base._validate_args:
            base._validate_sample(value)
        log_prob = row_log_prob(base.kernel, base.elementwise_log_prob, value, parameters)
        return sum_rightmost(log_prob, self.reinterpreted_batch_ndims - 1)
