"""The base of distributions over counts whose rows have a kernel."""

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
    """A distribution over single counts; where rows of them are an event, its ``kernel`` sums their log-probabilities.

    Where a subclass, a mixin, an instance or the base distribution replaces ``log_prob``, that is used and not the
    kernel, unless the subclass names a kernel of its own.
    """

    kernel: ClassVar[Kernel | None] = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kernel" not in vars(cls) and cls.log_prob is not cls._owner().log_prob:
            cls.kernel = None

    @classmethod
    def _owner(cls) -> Any:
        """The class that named the kernel."""
        return next(base for base in cls.__mro__ if "kernel" in vars(base))

    @property
    def has_kernel(self) -> bool:
        """Whether the kernel computes the ``log_prob`` of this instance."""
        base = vars(self).get("base_dist")
        own = type(self).kernel is not None and "log_prob" not in vars(self)
        return own and (not isinstance(base, CountDistribution) or base.has_kernel)

    def kernel_parameters(self) -> tuple[Tensor, ...]:
        """The kernel's parameters: those of the constructor, theta without its broadcast dimensions."""
        raise NotImplementedError(f"{type(self).__name__} has a kernel and must define kernel_parameters()")

    @classmethod
    def entries(cls, value: Tensor, *parameters: Tensor) -> Tensor:
        """Log-probabilities of single counts by the elementwise formula of the class that named the kernel."""
        rows: Tensor = cls._owner()(*parameters, validate_args=False).log_prob(value)
        return rows

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> TorchDistribution:
        """The same counts as events."""
        event = super().to_event(reinterpreted_batch_ndims)
        return event if event is self else Rows(self, event.reinterpreted_batch_ndims)


class Rows(dist.Independent):
    """Independent counts, whose log-probabilities are summed by a kernel where `can_use_kernel` says so."""

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> TorchDistribution:
        """The same counts as larger events."""
        more = len(self.batch_shape) if reinterpreted_batch_ndims is None else reinterpreted_batch_ndims
        return self.base_dist.to_event(self.reinterpreted_batch_ndims + more)

    def log_prob(self, value: Tensor) -> Tensor:
        """Natural log of the probability of each event."""
        fn = self.base_dist
        if not fn.has_kernel:
            return super().log_prob(value)
        # The likelihood of a network that computes in 16 bits is computed in the counts' 32.
        given = fn.kernel_parameters()
        parameters = [p.to(value.dtype) if p.dtype in HALF_PRECISION else p for p in given]
        if not can_use_kernel(value, *parameters, smallest=fn.kernel.smallest(parameters[0])):
            if all(p is own for p, own in zip(parameters, given, strict=True)):
                return super().log_prob(value)
            return sum_rightmost(fn.entries(value, *parameters), self.reinterpreted_batch_ndims)
        if fn._validate_args:
            fn._validate_sample(value)
        rows = row_log_prob(fn.kernel, fn.entries, value, parameters)
        return sum_rightmost(rows, self.reinterpreted_batch_ndims - 1)
