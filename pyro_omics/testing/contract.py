"""`check_model`: checks of everything that training and queries assume of a model."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO

from pyro_omics.batch import RowBatch
from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.layers import without_side_effects
from pyro_omics.models.base import CountModel, Guide
from pyro_omics.schema import RowData
from pyro_omics.testing.gradients import check_gradients, check_loss
from pyro_omics.testing.pairs import check_sites
from pyro_omics.testing.reloading import check_reloading
from pyro_omics.testing.required import perturb_parameters, require
from pyro_omics.testing.rows import check_rows

ROWS = 48


def check_model(
    model: CountModel,
    dm: RowData,
    guide: Callable[[CountModel], Guide] | None = None,
    elbo: ELBO | None = None,
) -> None:
    """Check that a model, with a guide and an ELBO, satisfies what training and queries assume.

    The checks run on a copy of the model, warm-started as in training and with slightly perturbed parameters:

    - model and guide sample the same sites, in the same plates, on the same supports;
    - the loss and its gradients are finite; every tensor with a gradient is in the optimizer, and every parameter has a
      gradient that is not 0 everywhere;
    - a row's terms of the ELBO, in model and guide, depend neither on the other rows of its minibatch nor on their
      order, and only the plate scales them, so that minibatch ELBOs average to the full ELBO;
    - global terms do not depend on the batch size;
    - prior predictive draws lie in the likelihood's support;
    - a saved and loaded pair has the same draws, log-probabilities and loss;
    - nothing is written to Pyro's global parameter store.

    Parameters
    ----------
    model
        the model; it is not changed.
    dm
        a DataModule with data for the model.
    guide, elbo
        as in `SVIModule`.

    Raises
    ------
    AssertionError, ValueError, TypeError
        For the first check that fails, with its usual cause.
    """
    stored = set(pyro.get_param_store().keys())
    local = pyro.settings.context(module_local_params=True)
    with torch.random.fork_rng(devices=[]), pyro.validation_enabled(True), local:
        torch.manual_seed(0)
        svi = SVIModule(copy.deepcopy(model), guide=guide, elbo=elbo)  # raises for pairs that do not fit
        batches = _batches(dm)
        batch = dm.data[batches[0]]
        with without_side_effects(svi):
            check_sites(svi, batch)
        check_loss(svi, batch)
        svi.model.warm_start(svi.guide, dm)
        perturb_parameters(svi)
        check_gradients(svi, [dm.data[rows] for rows in batches])
        with without_side_effects(svi):
            check_rows(svi, dm, batches[0])
            _check_prior_predictive(svi.model, batch)
            check_reloading(svi, batch, guide)
    require(set(pyro.get_param_store().keys()) == stored, "the model writes to Pyro's global parameter store")


def _batches(dm: RowData) -> list[np.ndarray]:
    """Positions of the training rows in each of three minibatches."""
    rng = np.random.default_rng(0)
    return [rng.permutation(dm.rows("training"))[:ROWS] for _ in range(3)]


def _check_prior_predictive(model: CountModel, batch: RowBatch) -> None:
    observed = poutine.trace(model).get_trace(batch).observation_nodes
    require(bool(observed), "the model observes nothing: use pyro.sample(..., obs=batch.x)")
    trace = poutine.trace(poutine.uncondition(model)).get_trace(batch)
    for name in observed:
        site = trace.nodes[name]
        inside = site["fn"].support.check(site["value"])
        require(bool(inside.all()), f"prior predictive draws of {name!r} leave the support of its distribution")
