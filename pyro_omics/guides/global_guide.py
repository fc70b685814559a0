"""Guides over the global latents: any autoguide, with the model's initial values."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoIAFNormal, AutoLaplaceApproximation, AutoNormal, AutoStructured
from pyro.infer.autoguide.initialization import init_to_feasible, init_to_value
from pyro.nn import PyroModule
from torch import nn

from pyro_omics.guides.guided_model import GuidedModel
from pyro_omics.guides.laplace import Laplace
from pyro_omics.guides.memory_limits import check_memory
from pyro_omics.sites import latent_sites


def global_guide(rest: Callable[..., PyroModule], model: GuidedModel) -> PyroModule:
    """Make the guide over a model's global latents.

    Parameters
    ----------
    rest
        callable from a program to a guide over its latents, such as an autoguide.
    model
        the model; ``model.starts`` gives the initial values of an autoguide without an ``init_loc_fn`` of its own.

    Raises
    ------
    TypeError
        If ``rest`` is not a callable, or a guide instead of a callable that makes one.
    ValueError
        If the autoguide would be too large for memory.
    """
    if isinstance(rest, nn.Module) or not callable(rest):
        raise TypeError(
            f"rest must be a callable program -> guide, such as the class pyro.infer.autoguide.AutoNormal or a "
            f"functools.partial of it; got {_describe(rest)}"
        )
    trace = model.example_trace()
    # Latents that the ELBO sums out are not sampled by the guide.
    hidden = [*model.local_sites, *latent_sites(trace, summed_out=True)]
    program = poutine.block(model, hide=hidden)
    check_memory(rest, [site for name, site in latent_sites(trace).items() if name not in hidden])
    given = rest.keywords if isinstance(rest, partial) else {}
    if model.starts and "init_loc_fn" not in given and _accepts_init_loc_fn(rest):
        # Weights that all started at the same number would stay equal.
        rest = partial(rest, init_loc_fn=init_to_value(values=model.starts, fallback=init_to_feasible))
    guide = rest(program)
    # Checked on the guide, because rest may be a class, a partial, jsonargparse's partial or a function.
    return Laplace.from_pyro(guide) if type(guide) is AutoLaplaceApproximation else guide


@torch.no_grad()
def start_at(guide: PyroModule, site: str, start: dist.Gamma) -> None:
    """Initialize a guide's factor of a positive global latent with a Gamma.

    An AutoNormal or AutoStructured is set to the LogNormal with the same moments of the logarithm. A guide with a
    method ``start_at(site, start)`` has it called. Any other guide is left unchanged.

    Parameters
    ----------
    guide
        the guide, after its first call.
    site
        name of the latent.
    start
        Gamma of the site's shape.
    """
    if isinstance(guide, AutoNormal | AutoStructured):
        like = getattr(guide.locs, site)  # flat in an AutoStructured
        loc, scale = (
            torch.digamma(start.concentration) - start.rate.log(),
            torch.polygamma(1, start.concentration).sqrt(),
        )
        setattr(guide.locs, site, loc.reshape(like.shape).to(like.dtype))
        setattr(guide.scales, site, scale.reshape(like.shape).to(like.dtype))
    elif hasattr(guide, "start_at"):
        guide.start_at(site, start)


def _accepts_init_loc_fn(rest: Callable[..., PyroModule]) -> bool:
    """Whether an autoguide uses ``init_loc_fn``; AutoIAFNormal has the argument, but ignores it with a warning."""
    kind = rest.func if isinstance(rest, partial) else rest
    return kind is not AutoIAFNormal and "init_loc_fn" in inspect.signature(rest).parameters


def _describe(rest: object) -> str:
    return f"an instance of {type(rest).__name__}" if isinstance(rest, nn.Module) else repr(rest)
