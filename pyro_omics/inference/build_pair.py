"""Build a model and its guide as one module, from one run of each."""

from __future__ import annotations

from collections.abc import Callable

from pyro.infer.autoguide import AutoGuide
from pyro.infer.elbo import ELBOModule
from pyro.poutine import Trace
from torch import nn

from pyro_omics.batch import RowBatch
from pyro_omics.inference.checks import check_guide, check_model, check_pair, check_rows, make_guide, run
from pyro_omics.inference.elbos.adapters import BoundAdapter
from pyro_omics.layers import without_side_effects
from pyro_omics.lightning import rank_zero_info
from pyro_omics.models.base import CountModel, Guide
from pyro_omics.sites import latent_sites


def build_pair(
    model: CountModel, guide: Callable[[CountModel], Guide] | Guide | None, adapter: BoundAdapter, batch: RowBatch
) -> ELBOModule:
    """Build the guide and every lazy parameter of the pair, so that the optimizer gets them all.

    The model runs once; the guide is built from the sites in that trace, and then runs once itself. Pyro's autoguides
    run the model once more, for their prototype trace.

    Parameters
    ----------
    model
        the model.
    guide
        as in `SVIModule`: a callable, a guide, or None for the model's default guide.
    adapter
        adapter of the bound.
    batch
        an example batch.

    Returns
    -------
    Module of the pair; calling it on a batch gives the bound's loss.

    Raises
    ------
    ValueError, TypeError
        Where model, guide and bound do not fit together.
    """
    make = model.default_guide() if guide is None else guide
    if isinstance(make, type) and issubclass(make, AutoGuide):
        check_rows(make, model)
    with without_side_effects(model):
        p = run("model", model, batch)
    check_model(model, p)
    with model.reuse_trace(p):
        made = make if isinstance(make, nn.Module) else make_guide(make, model, batch)
        check_guide(made, model)
        pair = adapter.bound(model, made)
        with without_side_effects(pair):
            q = run("guide", made, batch)
            _run_checks(pair, adapter, batch, p, q)
    if not latent_sites(p):
        rank_zero_info(f"{type(model).__name__} has no latent variables: training is maximum likelihood")
    return pair


def check_on_data(pair: ELBOModule, adapter: BoundAdapter, batch: RowBatch) -> None:
    """Run the pair on a batch of the data and repeat the checks, before training starts."""
    with without_side_effects(pair):
        _run_checks(pair, adapter, batch, run("model", pair.model, batch), run("guide", pair.guide, batch))


def _run_checks(pair: ELBOModule, adapter: BoundAdapter, batch: RowBatch, p: Trace, q: Trace) -> None:
    adapter.check(type(pair.model).__name__, pair.model.n_obs, p, q)
    check_pair(pair.model, pair.guide, batch, p, q)
    adapter.check_particles(pair, batch)
