"""Each row's own location and scale, sought with everything else frozen: for rows that no training step has seen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_omics.batch import RowBatch, map_tensors
from pyro_omics.guides.base import LocalGuide, Offsets
from pyro_omics.guides.guided_model import GuidedModel
from pyro_omics.layers.eval_mode import prototype_trace
from pyro_omics.parts.base import check_positive
from pyro_omics.sites import latent_sites, replayed, row_terms, sample_sites

KEPT = 8  # batches whose offsets are remembered
BETAS = (0.5, 0.9)  # of Adam: a memory of tens of steps would be as long as the whole search
SEED = 0  # of the noise: the offsets are a function of the row, the model and the guide


class Refinement:
    r"""Gradient ascent on the local ELBO of each row, in the offsets of its own location and log scale.

    .. math:: (\delta_n, \rho_n) = \arg\max E_q [\log p(x_n, z_n \mid w) - \log q(z_n)], \quad
        q(z_n) = \mathrm{Normal}(\mu_n + \delta_n, (\sigma_n e^{\rho_n})^2)

    by Adam from 0, with a learning rate that falls to 0 along a cosine. Model and guide are in eval mode and keep
    their parameters; global latents w are drawn afresh from the guide at each step. The gradient is that of the path
    alone, whose variance vanishes where q is the posterior. All rows share a step's noise, from a seed of its own, so
    that what a row gets does not depend on the rows beside it.

    Parameters
    ----------
    n_steps
        of Adam.
    lr
        learning rate of the first step.

    Raises
    ------
    ValueError
        For a number of steps below 1, or a learning rate of 0 or below.

    Source: Roeder et al. 2017, arXiv:1703.09194 (the path's gradient); Kim et al. 2018, arXiv:1802.02550.
    """

    def __init__(self, n_steps: int, lr: float) -> None:
        check_positive(n_steps=n_steps)
        if not lr > 0:
            raise ValueError(f"lr must be a learning rate, above 0; got {lr}")
        self.n_steps, self.lr = n_steps, lr
        self._memory = Memory()

    def __call__(self, guide: LocalGuide, batch: RowBatch) -> Offsets:
        """The offsets of the rows of a batch, by site: of the location and of the log scale, (n, d) each."""
        if not guide.model.local_sites:
            return {}
        known = self._memory.find(guide, batch)
        if known is None:
            with _apart(guide, batch):
                # Tensors made in inference mode, such as Lightning's validation batches, cannot be differentiated.
                batch = map_tensors(batch, Tensor.clone)
                known = self._sought(guide, batch)
                self._memory.keep(guide, batch, known)
        return known

    def _sought(self, guide: LocalGuide, batch: RowBatch) -> Offsets:
        dtype = next((p.dtype for p in guide.model.parameters()), torch.get_default_dtype())
        offsets = {
            name: tuple(
                torch.zeros(len(batch.index), guide.size(name), dtype=dtype, device=batch.index.device).requires_grad_()
                for _ in range(2)
            )
            for name in guide.model.local_sites
        }
        rows = [offset for pair in offsets.values() for offset in pair]
        adam = torch.optim.Adam(rows, lr=self.lr, betas=BETAS)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.n_steps)
        nesting = _nesting(guide.model, batch)
        for _ in range(self.n_steps):
            # Not backward(): the model's parameters keep the gradients that they have.
            for row, grad in zip(
                rows, torch.autograd.grad(-local_elbo(guide, batch, offsets, nesting), rows), strict=True
            ):
                row.grad = grad.nan_to_num(0.0, 0.0, 0.0)
            adam.step()
            schedule.step()
        return {name: (shift.detach(), stretch.detach()) for name, (shift, stretch) in offsets.items()}


def local_elbo(
    guide: LocalGuide, batch: RowBatch, offsets: Mapping[str, tuple[Tensor, ...]], nesting: int | None
) -> Tensor:
    """One draw of the rows' local ELBO terms, summed; its gradient in the offsets is that of the path alone."""
    with torch.no_grad():
        shared = poutine.Trace() if guide.rest is None else poutine.trace(guide.rest).get_trace(batch)
    latents: dict[str, Tensor] = {}
    log_q = torch.zeros((), device=batch.index.device)
    for name, (shift, stretch) in offsets.items():
        loc, scale = guide.start(name, batch, latents)
        noise = torch.randn(loc.shape[-1], dtype=loc.dtype, device=loc.device)
        value = loc + shift + scale * stretch.exp() * noise
        frozen = guide.distribution(name, batch, loc + shift.detach(), scale * stretch.detach().exp())
        latents[name] = guide.constrained(name, value)
        log_q = log_q + frozen.log_prob(latents[name]).sum()
    program = poutine.condition(guide.model, data=latents)
    trace = replayed(program, shared, (batch,), nesting)
    return sum((term.sum() for term in row_terms(sample_sites(trace)).values()), torch.zeros(())) - log_q


def _nesting(model: GuidedModel, batch: RowBatch) -> int | None:
    """How deep the model's plates are nested, where it has discrete latents to be summed out; else None."""
    trace = prototype_trace(model, batch)
    discrete = latent_sites(trace, summed_out=True)
    sites = [*discrete.values(), *latent_sites(trace).values()] if discrete else []
    return max((-frame.dim for site in sites for frame in site["cond_indep_stack"] if frame.vectorized), default=None)


@contextmanager
def _apart(guide: LocalGuide, batch: RowBatch) -> Iterator[None]:
    """In eval mode, with gradients, unseen by outer handlers; modes and the random state are put back after."""
    modules = [module for part in (guide, guide.model) for module in part.modules() if module.training]
    device = batch.index.device
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        stack.enter_context(pyro.validation_enabled(False))
        stack.enter_context(poutine.block())
        torch.manual_seed(SEED)
        try:
            for module in modules:
                module.training = False
            yield
        finally:
            for module in modules:
                module.training = True


class Memory:
    """The offsets of the last few batches, as long as model and guide are what they were.

    A query asks the same batch for many draws. Contents are compared, because optimizers write through ``.data``, which
    torch's version counters do not see. Copies and pickles of it are empty.
    """

    def __init__(self) -> None:
        self._state: list[Tensor] = []
        self._entries: list[tuple[Any, Offsets]] = []

    def find(self, guide: LocalGuide, batch: RowBatch) -> Offsets | None:
        """The offsets of this batch, if they are remembered."""
        if not self._entries or not _equal(self._state, _state(guide)):
            self._entries.clear()
            return None
        return next((offsets for known, offsets in self._entries if _equal(known, batch)), None)

    def keep(self, guide: LocalGuide, batch: RowBatch, offsets: Offsets) -> None:
        """Remember the offsets of this batch."""
        if not self._entries:
            self._state = [value.detach().clone() for value in _state(guide)]
        self._entries = [(batch, offsets), *self._entries[: KEPT - 1]]

    def __reduce__(self) -> tuple[type[Memory], tuple[()]]:
        """An empty one."""
        return Memory, ()


def _state(guide: LocalGuide) -> list[Tensor]:
    """Every parameter and buffer that the offsets depend on."""
    modules: list[Any] = [guide.model, *([] if guide.rest is None else [guide.rest])]
    return [value for module in modules for value in (*module.parameters(), *module.buffers())]


def _equal(ours: Any, theirs: Any) -> bool:
    """Whether two sequences hold the same tensors (or other values)."""
    return len(ours) == len(theirs) and all(
        (a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)) if isinstance(a, Tensor) and
        isinstance(b, Tensor) else a is b
        for a, b in zip(ours, theirs, strict=True)
    )  # fmt: skip
