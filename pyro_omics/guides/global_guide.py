"""The half of a guide that covers the global latents: any autoguide, started where the model says."""

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
    """The guide over a model's global latents.

    Parameters
    ----------
    rest
        callable from a program to a guide over its latents, such as an autoguide.
    model
        whose local sites are left out; its ``starts`` are where an autoguide begins that was not told otherwise.

    Raises
    ------
    TypeError
        For a name or a guide made already in place of the callable.
    ValueError
        For an autoguide that would be too large for memory.
    """
    if isinstance(rest, nn.Module) or not callable(rest):
        raise TypeError(
            f"rest must be a callable program -> guide, such as the class pyro.infer.autoguide.AutoNormal or a "
            f"functools.partial of it; got {_shown(rest)}"
        )
    trace = model.example_trace()
    # What the ELBO sums out is no guide's.
    hidden = [*model.local_sites, *latent_sites(trace, summed_out=True)]
    program = poutine.block(model, hide=hidden)
    check_memory(rest, [site for name, site in latent_sites(trace).items() if name not in hidden])
    given = rest.keywords if isinstance(rest, partial) else {}
    if model.starts and "init_loc_fn" not in given and _takes_a_start(rest):
        # Weights that all start at one number would stay alike.
        rest = partial(rest, init_loc_fn=init_to_value(values=model.starts, fallback=init_to_feasible))
    made = rest(program)
    # By what was made and not by what made it, which may be a class, a partial, jsonargparse's partial or a function.
    return Laplace.of(made) if type(made) is AutoLaplaceApproximation else made


@torch.no_grad()
def start_at(guide: PyroModule, site: str, start: dist.Gamma) -> None:
    """Start a guide's factor of a positive global latent at a Gamma.

    An AutoNormal or AutoStructured starts as the LogNormal with the same moments of the logarithm; a guide with a
    method ``start_at(site, start)`` does as that says; any other stays as it is.

    Parameters
    ----------
    guide
        made, and run once.
    site
        name of the latent.
    start
        of the site's shape.
    """
    if isinstance(guide, AutoNormal | AutoStructured):
        shape = getattr(guide.locs, site).shape  # flat in an AutoStructured
        setattr(guide.locs, site, (torch.digamma(start.concentration) - start.rate.log()).reshape(shape))
        setattr(guide.scales, site, torch.polygamma(1, start.concentration).sqrt().reshape(shape))
    elif hasattr(guide, "start_at"):
        guide.start_at(site, start)


def _takes_a_start(rest: Callable[..., PyroModule]) -> bool:
    """Whether ``init_loc_fn`` means something to an autoguide; AutoIAFNormal has the argument, and warns of it."""
    kind = rest.func if isinstance(rest, partial) else rest
    return kind is not AutoIAFNormal and "init_loc_fn" in inspect.signature(rest).parameters


def _shown(rest: object) -> str:
    return f"an {type(rest).__name__} made already" if isinstance(rest, nn.Module) else repr(rest)
