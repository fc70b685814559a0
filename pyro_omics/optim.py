"""Pyro's ClippedAdam with torch's fused kernel, and schedules of the learning rate."""

from __future__ import annotations

import inspect
import math
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from pyro.optim import clipped_adam
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

FUSED = ("cpu", "cuda")  # devices for which torch has the kernel
UNKNOWN_WARMUP = 100  # steps in which the rate of a fit of unknown length rises


class ClippedAdam(clipped_adam.ClippedAdam):
    r"""Pyro's ClippedAdam, with torch's fused kernel for all parameters at once.

    .. math::
        g &\leftarrow \mathrm{clamp}(g, \pm c) + \lambda w, \qquad \eta_t = \eta_{t-1} d \\
        m_t &= \beta_1 m_{t-1} + (1 - \beta_1) g, \qquad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g^2 \\
        w &\leftarrow w - \eta_t \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t} \frac{m_t}{\sqrt{v_t} + \epsilon}

    Trajectory, state and arguments are those of Pyro's ClippedAdam, and a checkpoint of one can be resumed with the
    other. (Torch adds its epsilon to the bias-corrected root of v, so it gets epsilon / sqrt(1 - beta_2^t).) Sparse
    gradients are made dense. Pyro's own step is used where the kernel does not apply: a centred variance, strided or
    complex parameters, other devices.

    Parameters
    ----------
    params
        parameters, or groups of them.
    lr
        eta, the learning rate.
    betas
        beta_1 and beta_2, decay of the running means of the gradient and of its square.
    eps
        epsilon, added to the denominator.
    weight_decay
        lambda, added to the gradient as lambda w.
    clip_norm
        c: each entry of a gradient is clipped to (-c, c).
    lrd
        d: the learning rate is multiplied by it at each step.
    centered_variance
        whether v averages (g - m)^2 in place of g^2.

    Source: Kingma and Ba 2015; pyro.optim.clipped_adam.ClippedAdam.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the state of a ClippedAdam, this one or Pyro's.

        Raises
        ------
        ValueError
            If the state is of another optimizer.
        """
        groups = state_dict["param_groups"]
        if missing := sorted({name for group in groups for name in self.defaults if name not in group}):
            raise ValueError(
                f"state_dict must be of a ClippedAdam; got one without {missing}: resume with the optimizer of the "
                "fit, SVIModule(model, optimizer=...)"
            )
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step over all parameters that have a gradient, and return the value of ``closure``."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        trained = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        for p in (p for params in trained for p in params):
            if p.grad.is_sparse:
                p.grad = p.grad.to_dense()
        if not all(self._is_supported(group, params) for group, params in zip(self.param_groups, trained, strict=True)):
            inspect.unwrap(clipped_adam.ClippedAdam.step)(
                self
            )  # unwrapped, because torch runs its hooks around this step
            return loss
        for group, params in zip(self.param_groups, trained, strict=True):
            group["lr"] *= group["lrd"]
            self._fused_step(group, params)
        return loss

    def _fused_step(self, group: dict[str, Any], params: list[Tensor]) -> None:
        # One call for all parameters of the same device, dtype and number of steps: nearly always all.
        groups: dict[Any, list[Tensor]] = defaultdict(list)
        for p in params:
            state = self.state[p]
            if not state:
                state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
            state["step"] += 1
            groups[p.device, p.dtype, state["step"]].append(p)
        beta1, beta2 = group["betas"]
        for (device, _, step), members in groups.items():
            grads = [p.grad for p in members if p.grad is not None]
            torch._foreach_clamp_min_(grads, -group["clip_norm"])
            torch._foreach_clamp_max_(grads, group["clip_norm"])
            states = [self.state[p] for p in members]
            torch._fused_adam_(
                members,
                grads,
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [torch.full((), float(step), device=device)] * len(members),
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"] / math.sqrt(1 - beta2**step),
                amsgrad=False,
                maximize=False,
            )

    def _is_supported(self, group: dict[str, Any], params: list[Tensor]) -> bool:
        """Whether the fused kernel supports these parameters, which must be contiguous."""
        if group["centered_variance"]:
            return False
        for p in params:
            state = self.state.get(p) or {}
            if p.device.type not in FUSED or not p.is_floating_point():
                return False
            for tensor in (p, p.grad, state.get("exp_avg"), state.get("exp_avg_sq")):
                if tensor is not None and not (tensor.is_contiguous() and _has_layout_of(tensor, p)):
                    return False
        return True


def _has_layout_of(tensor: Tensor, p: Tensor) -> bool:
    return tensor.dtype == p.dtype and tensor.device == p.device and tensor.shape == p.shape


class OneCycle(LRScheduler):
    r"""One cycle of the learning rate over a fit: it rises linearly to the optimizer's rate, then falls to 0.

    .. math::
        \eta_t = \eta \, \begin{cases}
            t / wT & t < wT \\
            \frac12 \left(1 + \cos \pi \frac{t/T - w}{1 - w}\right) & t \ge wT
        \end{cases}

    with eta the optimizer's own rate, t the number of steps taken and half of the one being taken, T the number that
    the optimizer takes in the fit (fewer than minibatches where gradients are accumulated), and w the warm-up's share.

    A fit that is resumed goes on where it was. If it was made longer or shorter, the rest of the cycle is stretched
    over the rest of the steps; if the cycle had ended, another one begins. In a fit of unknown length
    (``max_epochs=-1``), the rate rises over 100 steps and then falls with the inverse square root of the step. A fit
    that EarlyStopping ends early has not lowered its rate: give it a length instead.

    Parameters
    ----------
    optimizer
        the optimizer.
    n_steps
        T; inf where it is not known. `SVIModule` passes that of the fit.
    warmup
        w, in [0, 1).

    Source: Smith and Topin 2018, arXiv:1708.07120 (one cycle); Loshchilov and Hutter 2017, arXiv:1608.03983 (cosine).
    """

    def __init__(self, optimizer: Optimizer, n_steps: float = math.inf, warmup: float = 0.2) -> None:
        if not 0 <= warmup < 1:
            raise ValueError(f"warmup must be a share of the training, in [0, 1); got {warmup}")
        self.n_steps, self.warmup = n_steps, warmup
        self.begin, self.done = 0, 0.0  # a step, and the share of the cycle that was done then
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The rate of each group of parameters at this step."""
        return [rate * self.factor(self.last_epoch) for rate in self.base_lrs]

    def factor(self, step: int) -> float:
        """The rate after ``step`` steps, as a share of the peak."""
        if math.isinf(self.n_steps):
            return min((step + 1) / UNKNOWN_WARMUP, math.sqrt(UNKNOWN_WARMUP / (step + 1)))
        left = max(self.n_steps - self.begin, 1)
        # The rate of the middle of the step, so that neither the first step nor the last has the rate 0.
        share = min(self.done + (1 - self.done) * (step + 0.5 - self.begin) / left, 1.0)
        if share < self.warmup:
            return share / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (share - self.warmup) / (1 - self.warmup)))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where another scheduler stood, over the number of steps that this one was made with."""
        n_steps = self.n_steps
        super().load_state_dict(state_dict)
        if n_steps != self.n_steps:
            self._go_on_until(n_steps)

    def _go_on_until(self, n_steps: float) -> None:
        left = max(self.n_steps - self.begin, 1)
        done = self.done + (1 - self.done) * (self.last_epoch - self.begin) / left if math.isfinite(left) else 0.0
        self.done = 0.0 if done >= 1 else done
        self.begin, self.n_steps = self.last_epoch, n_steps
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate
        self._last_lr = self.get_lr()


class Constant(LRScheduler):
    """The schedule that keeps the optimizer's learning rate.

    Parameters
    ----------
    optimizer
        the optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The rate of each group of parameters."""
        return list(self.base_lrs)


def takes_steps(schedule: Callable[..., Any]) -> bool:
    """Whether a schedule has an argument ``n_steps``, the number of steps, and is so stepped after each.

    By its name, because torch's schedulers have second arguments of other meanings.
    """
    # Of a class in a configuration, jsonargparse makes a partial of its own function, with the class among its args.
    classes: list[Any] = [item for item in getattr(schedule, "args", ()) if isinstance(item, type)]
    return any("n_steps" in inspect.signature(one).parameters for one in (schedule, *classes))


def lowers_its_rate(optimizer: Optimizer) -> bool:
    """Whether the optimizer is a ClippedAdam that changes its learning rate at each step (``lrd``)."""
    is_clipped = isinstance(optimizer, clipped_adam.ClippedAdam)
    return is_clipped and any(group["lrd"] != 1.0 for group in optimizer.param_groups)


def warn_of_two_decays(optimizer: Optimizer, scheduler: LRScheduler) -> None:
    """Warn if both ClippedAdam (``lrd``) and a scheduler change the learning rate."""
    if lowers_its_rate(optimizer):
        effect = "replaces" if isinstance(scheduler, LambdaLR) else "multiplies"
        warnings.warn(
            f"ClippedAdam(lrd={optimizer.param_groups[0]['lrd']}) decays the learning rate at each step, and "
            f"{type(scheduler).__name__} {effect} it: set lrd=1.0, or pass no scheduler",
            UserWarning,
            stacklevel=3,
        )
