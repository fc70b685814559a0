"""How a distribution over counts comes to its kernel."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.distributions.util import sum_rightmost
from torch import Tensor

from pyro_omics.kernels.dispatch import HALVES, serve
from pyro_omics.kernels.likelihood.autograd import row_log_prob
from pyro_omics.kernels.likelihood.torch_kernels import Kernel


class CountDistribution(TorchDistributionMixin):
    """A distribution over single counts; as events, rows of them are summed by its ``kernel``.

    A subclass with a ``log_prob`` of its own, or of a mixin's, has no kernel, unless it names one; nor has an instance
    that was given one, or a part that has.
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
        """Whether the kernel is of the ``log_prob`` that this instance has."""
        base = vars(self).get("base_dist")
        own = type(self).kernel is not None and "log_prob" not in vars(self)
        return own and (not isinstance(base, CountDistribution) or base.has_kernel)

    def kernel_parameters(self) -> tuple[Tensor, ...]:
        """What the kernel takes: the constructor's parameters, theta as it was before it was broadcast."""
        raise NotImplementedError(f"{type(self).__name__} has a kernel and must define kernel_parameters()")

    @classmethod
    def entries(cls, value: Tensor, *parameters: Tensor) -> Tensor:
        """The plain form: log-probabilities of single counts, of the class that named the kernel."""
        rows: Tensor = cls._owner()(*parameters, validate_args=False).log_prob(value)
        return rows

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> TorchDistribution:
        """The same counts as events."""
        event = super().to_event(reinterpreted_batch_ndims)
        return event if event is self else Rows(self, event.reinterpreted_batch_ndims)


class Rows(dist.Independent):
    """Independent counts, whose log-probabilities are summed by a kernel where `serve` says so."""

    def to_event(self, reinterpreted_batch_ndims: int | None = None) -> TorchDistribution:
        """The same counts as larger events."""
        more = len(self.batch_shape) if reinterpreted_batch_ndims is None else reinterpreted_batch_ndims
        return self.base_dist.to_event(self.reinterpreted_batch_ndims + more)

    def log_prob(self, value: Tensor) -> Tensor:
        """Natural log of the probability of each event."""
        fn = self.base_dist
        if not fn.has_kernel:
            return super().log_prob(value)
        # Networks in 16 bits have their likelihood in the counts' 32.
        given = fn.kernel_parameters()
        parameters = [p.to(value.dtype) if p.dtype in HALVES else p for p in given]
        if not serve(value, *parameters, enough=fn.kernel.enough(parameters[0])):
            if all(p is own for p, own in zip(parameters, given, strict=True)):
                return super().log_prob(value)
            return sum_rightmost(fn.entries(value, *parameters), self.reinterpreted_batch_ndims)
        if fn._validate_args:
            fn._validate_sample(value)
        rows = row_log_prob(fn.kernel, fn.entries, value, parameters)
        return sum_rightmost(rows, self.reinterpreted_batch_ndims - 1)
