"""A model and its guide as one module, made and checked from one run of each."""

from __future__ import annotations

from collections.abc import Callable

from pyro.infer.autoguide import AutoGuide
from pyro.infer.elbo import ELBOModule
from pyro.poutine import Trace
from pytorch_lightning.utilities import rank_zero_info
from torch import nn

from pyro_omics.batch import RowBatch
from pyro_omics.inference.checks import check_guide, check_model, check_pair, check_rows, run
from pyro_omics.inference.elbos.adapters import BoundAdapter
from pyro_omics.layers import without_side_effects
from pyro_omics.models.base import CountModel, Guide
from pyro_omics.sites import latent_sites


def build_pair(
    model: CountModel, guide: Callable[[CountModel], Guide] | Guide | None, adapter: BoundAdapter, batch: RowBatch
) -> ELBOModule:
    """Make the guide and everything that is lazy in the pair, before an optimizer can miss it.

    The model runs once, before the guide is made, which reads the sites in that trace; and the guide runs once. An
    autoguide of Pyro's runs the model once more by itself, for its prototype.

    Parameters
    ----------
    model
        the model.
    guide
        as in `SVIModule`: a callable, a guide made already, or None for the model's default.
    adapter
        of the bound.
    batch
        an example.
    """
    make = model.default_guide() if guide is None else guide
    if isinstance(make, type) and issubclass(make, AutoGuide):
        check_rows(make, model)
    with without_side_effects(model):
        p = run("model", model, batch)
    check_model(model, p)
    with model.reuse_trace(p):
        made = make if isinstance(make, nn.Module) else make(model)
        check_guide(made, model)
        pair = adapter.bound(model, made)
        with without_side_effects(pair):
            q = run("guide", made, batch)
            _check(pair, adapter, batch, p, q)
    if not latent_sites(p):
        rank_zero_info(f"{type(model).__name__} has no latent variables: training is maximum likelihood")
    return pair


def check_on_data(pair: ELBOModule, adapter: BoundAdapter, batch: RowBatch) -> None:
    """Run a pair once more, on a batch of the data: what it asks of them and they lack is said before training."""
    with without_side_effects(pair):
        _check(pair, adapter, batch, run("model", pair.model, batch), run("guide", pair.guide, batch))


def _check(pair: ELBOModule, adapter: BoundAdapter, batch: RowBatch, p: Trace, q: Trace) -> None:
    adapter.check(type(pair.model).__name__, pair.model.n_obs, p, q)
    check_pair(pair.model, pair.guide, batch, p, q)
