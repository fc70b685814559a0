"""The contract that every model of this package passes, for models of one's own: ``testing.check_model(model, dm)``."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.infer.autoguide import AutoContinuous
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_omics.checks import quietly
from pyro_omics.draws import latent_values
from pyro_omics.elbos import global_terms, replayed, row_terms, sample_sites
from pyro_omics.models.base import CountModel, Guide, is_local
from pyro_omics.saving import load
from pyro_omics.svi import SVIModule


def check_model(
    model: CountModel,
    dm: Any,
    guide: Callable[[CountModel], Guide] | None = None,
    elbo: ELBO | None = None,
) -> None:
    """Check that a model (with a guide and an ELBO) keeps the contract that training and queries rely on.

    Checked, on a copy: the loss is finite; every parameter gets a gradient and is in the optimizer; model and guide
    sample the same sites; Pyro's global parameter store stays empty; a minibatch touches its own rows only; the
    batch-size-weighted mean of minibatch ELBOs is the full ELBO; global terms do not depend on the batch size; prior
    predictive draws lie in the likelihood's support; saving and loading is exact.

    Parameters
    ----------
    model
        not changed.
    dm
        a DataModule whose data the model is for.
    guide, elbo
        as in `SVIModule`.

    Raises
    ------
    AssertionError, ValueError
        That says what is not kept, and what is usually the reason.
    """
    stored = set(pyro.get_param_store().keys())
    with torch.random.fork_rng(devices=[]), pyro.validation_enabled(True):
        torch.manual_seed(0)
        svi = SVIModule(copy.deepcopy(model), guide=guide, elbo=elbo)  # refuses pairs that do not fit
        rows = np.random.default_rng(0).permutation(dm.rows("training"))[:48]
        batch = dm.data[rows]
        _check_loss(svi, batch)
        _check_rows(svi, batch)
        with quietly(svi):
            _check_minibatches(svi, dm, rows)
            _check_prior_predictive(svi.model, batch)
            _check_saving(svi, batch, guide)
    _require(set(pyro.get_param_store().keys()) == stored, "the model writes to Pyro's global parameter store")


def _require(kept: bool, message: str) -> None:
    if not kept:
        raise AssertionError(message)


def _check_loss(svi: SVIModule, batch: Any) -> None:
    svi.train()
    before = len(list(svi.parameters()))
    loss = svi(batch)
    _require(bool(torch.isfinite(loss)), f"the loss is {loss.item()} on a batch of {len(batch.index)} rows")
    _require(loss.requires_grad, "the loss does not depend on any parameter")
    loss.backward()
    without = [name for name, p in svi.named_parameters() if p.requires_grad and p.grad is None]
    _require(not without, f"no gradient reaches {without}: they are unused, or read outside the loss")
    bad = [name for name, p in svi.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
    _require(not bad, f"the gradients of {bad} are not finite")
    _require(len(list(svi.parameters())) == before, "a training step made parameters that no optimizer has")
    optimizer = svi.make_optimizer(svi.parameters())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in svi.named_parameters() if id(p) not in held]
    _require(not missing, f"the optimizer does not have {missing}")


def _check_rows(svi: SVIModule, batch: Any) -> None:
    """Per-observation parameters (a table of n_obs rows) get gradients in the batch's own rows only."""
    other = torch.ones(svi.n_obs, dtype=torch.bool)
    other[batch.index] = False
    # A joint autoguide's vectors are of all global latents, and may have that length by chance.
    joint = {id(p) for m in svi.guide.modules() if isinstance(m, AutoContinuous) for p in m.parameters()}
    for name, p in svi.guide.named_parameters():
        if p.ndim and len(p) == svi.n_obs and p.grad is not None and id(p) not in joint:
            _require(not p.grad[other].any(), f"a minibatch changes rows of {name} that are not its own")
    svi.zero_grad()


def _check_minibatches(svi: SVIModule, dm: Any, rows: np.ndarray) -> None:
    """At fixed latents, minibatches of 20 (the last one ragged) must add up to the batch of all rows."""
    whole = dm.data[rows]
    drawn = poutine.trace(svi.guide).get_trace(whole)
    full_local, full_global = _terms(svi, whole, drawn)
    locals_, globals_ = [], []
    for at in np.array_split(np.arange(len(rows)), [20, 40]):
        if len(at):
            local, shared = _terms(svi, dm.data[rows[at]], _sliced(drawn, torch.from_numpy(at)))
            locals_.append(local * len(at) / len(rows))
            globals_.append(shared)
    _require(
        bool(torch.isclose(sum(locals_, torch.zeros(())), full_local, rtol=1e-3, atol=1e-2)),
        f"minibatch ELBOs do not average to the full one ({float(sum(locals_)):.4g}, {float(full_local):.4g} nats): a "
        "site is outside self.plate(batch), scaled by hand (the plate scales), or mixes the rows of a batch",
    )
    for shared in globals_:
        _require(
            bool(torch.isclose(shared, full_global, rtol=1e-3, atol=1e-2)),
            f"the global terms depend on the batch size ({float(shared):.4g}, {float(full_global):.4g} nats): sample "
            "globals outside self.plate(batch), without pyro.poutine.scale",
        )


def _sliced(trace: Trace, at: Tensor) -> Trace:
    sliced = trace.copy()
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and site_is_subsample(site):
            sliced.remove_node(name)  # or the plate would replay the whole batch's index
        elif site["type"] == "sample" and is_local(site):
            sliced.nodes[name] = {**site, "value": site["value"][at]}
    return sliced


def _terms(svi: SVIModule, batch: Any, drawn: Trace) -> tuple[Tensor, Tensor]:
    """Local and global parts of log p - log q at the drawn values, scaled to the data set, in nats."""
    guide = poutine.trace(poutine.replay(svi.guide, trace=drawn)).get_trace(batch)
    model = replayed(svi.model, guide, (batch,), svi.nesting)
    local, shared = torch.zeros(()), torch.zeros(())
    for sign, trace in ((1, model), (-1, guide)):
        sites = sample_sites(trace)
        for term in row_terms(sites).values():
            local = local + sign * svi.n_obs * term.mean()
        for term in global_terms(sites).values():
            shared = shared + sign * term
    return local, shared


def _check_prior_predictive(model: CountModel, batch: Any) -> None:
    observed = poutine.trace(model).get_trace(batch).observation_nodes
    _require(bool(observed), "the model observes nothing: pyro.sample(..., obs=batch.x)")
    trace = poutine.trace(poutine.uncondition(model)).get_trace(batch)
    for name in observed:
        site = trace.nodes[name]
        inside = site["fn"].support.check(site["value"])
        _require(bool(inside.all()), f"prior predictive draws of {name!r} leave the support of its distribution")


def _check_saving(svi: SVIModule, batch: Any, guide: Callable[[CountModel], Guide] | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = svi.save(Path(folder) / "model")
        loaded = load(path, model=type(svi.model), guide=guide, elbo=svi.bound).eval()
    torch.manual_seed(1)
    ours = latent_values(poutine.trace(svi.guide).get_trace(batch))
    torch.manual_seed(1)
    theirs = latent_values(poutine.trace(loaded.guide).get_trace(batch))
    differ = [name for name, value in ours.items() if not torch.equal(value, theirs[name])]
    _require(not differ, f"a saved and loaded model draws other {differ}: part of its state is no parameter or buffer")


__all__ = ["check_model"]
