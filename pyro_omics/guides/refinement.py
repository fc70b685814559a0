"""`Refinement`: location and scale of each row, optimized with all parameters frozen, as for held-out rows."""

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
from pyro_omics.layers.module import local_parameters
from pyro_omics.parts.base import check_positive
from pyro_omics.sites import latent_sites, replayed, row_terms, sample_sites

CACHED_BATCHES = 8  # batches whose offsets are cached
BETAS = (0.5, 0.9)  # of Adam: shorter averages than by default, because there are only tens of steps
SEED = 0  # of the noise, so that offsets depend on the row, the model and the guide only


class Refinement:
    r"""Gradient ascent on the local ELBO of each row, in the offsets of the row's location and log scale.

    .. math:: (\delta_n, \rho_n) = \arg\max E_q [\log p(x_n, z_n \mid w) - \log q(z_n)], \quad
        q(z_n) = \mathrm{Normal}(\mu_n + \delta_n, (\sigma_n e^{\rho_n})^2)

    by Adam from 0, with a learning rate that falls to 0 along a cosine. Model and guide are in eval mode and keep their
    parameters; the global latents w are drawn from the guide anew at each step. The gradient is the path derivative,
    whose variance vanishes where q is the posterior. All rows share the noise of a step, from a fixed seed, so that the
    offsets of a row do not depend on the other rows of the batch.

    Parameters
    ----------
    n_steps
        number of Adam steps.
    lr
        learning rate of the first step.

    Raises
    ------
    ValueError
        If ``n_steps`` is below 1, or ``lr`` is not above 0.

    Source: Roeder et al. 2017, arXiv:1703.09194 (the path's gradient); Kim et al. 2018, arXiv:1802.02550.
    """

    def __init__(self, n_steps: int, lr: float) -> None:
        check_positive(n_steps=n_steps)
        if not lr > 0:
            raise ValueError(f"lr must be a learning rate above 0; got {lr}")
        self.n_steps, self.lr = n_steps, lr
        self._cache = OffsetCache()

    def __call__(self, guide: LocalGuide, batch: RowBatch) -> Offsets:
        """Site -> offsets of location and log scale of the rows of a batch, (n, d) each."""
        if not guide.model.local_sites:
            return {}
        known = self._cache.find(guide, batch)
        if known is None:
            with _isolated(guide, batch):
                # Tensors made in inference mode, such as Lightning's validation batches, cannot be differentiated.
                batch = map_tensors(batch, Tensor.clone)
                known = self._optimize(guide, batch)
                self._cache.store(guide, batch, known)
        return known

    def _optimize(self, guide: LocalGuide, batch: RowBatch) -> Offsets:
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
        nesting = _max_plate_nesting(guide.model, batch)
        for _ in range(self.n_steps):
            # Not backward(), which would change the gradients of the model's parameters.
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
    """A one-sample estimate of the local ELBO, summed over rows; its gradient in the offsets is the path derivative."""
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


def _max_plate_nesting(model: GuidedModel, batch: RowBatch) -> int | None:
    """Depth of the model's plates if it has discrete latents to be summed out; otherwise None."""
    trace = prototype_trace(model, batch)
    discrete = latent_sites(trace, summed_out=True)
    sites = [*discrete.values(), *latent_sites(trace).values()] if discrete else []
    return max((-frame.dim for site in sites for frame in site["cond_indep_stack"] if frame.vectorized), default=None)


@contextmanager
def _isolated(guide: LocalGuide, batch: RowBatch) -> Iterator[None]:
    """Run the block in eval mode, with gradients, hidden from outer handlers; restore modes and random state after."""
    modules = [module for part in (guide, guide.model) for module in part.modules() if module.training]
    device = batch.index.device
    with ExitStack() as stack:
        stack.enter_context(local_parameters(guide, guide.model))
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


class OffsetCache:
    """Offsets of the last few batches, valid until a parameter or a buffer of model or guide changes.

    It saves repeating the optimization when a query takes many draws for the same batch. Values are compared, because
    optimizers write through ``.data``, which torch's version counters miss. Copies and pickles of it are empty.
    """

    def __init__(self) -> None:
        self._state: list[Tensor] = []
        self._entries: list[tuple[Any, Offsets]] = []

    def find(self, guide: LocalGuide, batch: RowBatch) -> Offsets | None:
        """The offsets of this batch if they are cached, otherwise None."""
        if not self._entries or not _equal(self._state, _state(guide)):
            self._entries.clear()
            return None
        return next((offsets for cached, offsets in self._entries if _equal(cached, batch)), None)

    def store(self, guide: LocalGuide, batch: RowBatch, offsets: Offsets) -> None:
        """Cache the offsets of this batch."""
        if not self._entries:
            self._state = [value.detach().clone() for value in _state(guide)]
        self._entries = [(batch, offsets), *self._entries[: CACHED_BATCHES - 1]]

    def __reduce__(self) -> tuple[type[OffsetCache], tuple[()]]:
        """Copy and pickle as an empty cache."""
        return OffsetCache, ()


def _state(guide: LocalGuide) -> list[Tensor]:
    """Every parameter and buffer that the offsets depend on."""
    modules: list[Any] = [guide.model, *([] if guide.rest is None else [guide.rest])]
    return [value for module in modules for value in (*module.parameters(), *module.buffers())]


def _equal(ours: Any, theirs: Any) -> bool:
    """Whether two sequences hold equal tensors and the same other objects."""
    return len(ours) == len(theirs) and all(
        (a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)) if isinstance(a, Tensor) and
        isinstance(b, Tensor) else a is b
        for a, b in zip(ours, theirs, strict=True)
    )  # fmt: skip
