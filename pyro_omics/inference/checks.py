"""Checks of a model, a guide and their data that do not fit, which Pyro does not make: before training starts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.infer.autoguide import AutoCallable, AutoGuide, AutoGuideList
from pyro.nn import PyroModule
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_omics.batch import RowBatch
from pyro_omics.layers import prototype_trace
from pyro_omics.models.base import CountModel, Guide
from pyro_omics.schema import Schema
from pyro_omics.sites import PLATE, is_local, latent_sites
from pyro_omics.sizes import DELSizes, Sizes

MARGINAL = "TraceEnum_ELBO(max_plate_nesting=1)"


def run(side: str, program: PyroModule, batch: RowBatch) -> Trace:
    """The trace of one run of a model or guide, which makes what is lazy in it; see `layers.prototype_trace`.

    Raises
    ------
    ValueError
        For a program that keeps parameters elsewhere than in its modules, or uses a name twice.
    """
    _check_parameter_mode(side, program)
    with _parameters_in_modules(side, program), _names_used_once(side, program):
        return prototype_trace(program, batch)


def check_model(model: CountModel, p: Trace) -> None:
    """Raise where a model's own trace shows that no guide could go with it: before a guide is made."""
    name = type(model).__name__
    for site in latent_sites(p).values():
        # Of a discrete latent there is more to say: it may be one to sum out.
        discrete = getattr(site["fn"], "has_enumerate_support", False)
        if is_local(site) and site["name"] not in model.local_sites and not discrete:
            raise ValueError(
                f"{name} samples {site['name']!r} inside self.plate(batch), and its local_sites are "
                f"{list(model.local_sites)}: add {site['name']!r} to local_sites if each row has its own, or sample it "
                "before the plate if all rows share it"
            )


def check_guide(guide: Any, model: CountModel) -> None:
    """Raise where what stands for a guide is none, or knows nothing of a minibatch's rows."""
    if not isinstance(guide, PyroModule):
        raise TypeError(f"guide must make a PyroModule of a model, such as guides.Amortized, and made {guide!r}")
    if isinstance(guide, AutoGuide) and not _knows_rows(guide):
        check_rows(type(guide), model)


def _knows_rows(guide: AutoGuide) -> bool:
    """Whether an autoguide was told of the plate, AutoNormal(model, create_plates=model.plate), or a part of it was."""
    if isinstance(guide, AutoCallable):
        return True  # a function of its own
    parts = list(guide) if isinstance(guide, AutoGuideList) else []
    return guide.create_plates is not None or any(map(_knows_rows, parts))


def check_callable(argument: str, value: Any, example: str) -> None:
    """Raise for an argument that is no callable, such as the name of a class instead of the class."""
    if value is not None and not callable(value):
        raise TypeError(f"{argument} must be a callable, such as the class {example}, and is {value!r}")


def check_pair(model: CountModel, guide: Guide, batch: RowBatch, p: Trace, q: Trace) -> None:
    """Raise where model and guide do not cover the same latents, or where their plates go wrong.

    Parameters
    ----------
    model, guide
        the pair.
    batch
        what both were run on.
    p, q
        the trace of each.
    """
    p_sites, q_sites = latent_sites(p), latent_sites(q)
    q_names = {name for name, site in q_sites.items() if not site["infer"].get("is_auxiliary")}
    if missing := sorted(set(p_sites) - q_names):
        if discrete := [name for name in missing if getattr(p_sites[name]["fn"], "has_enumerate_support", False)]:
            raise ValueError(
                f"discrete latent {discrete[0]!r} of {type(model).__name__} is in no guide: mark it "
                f"infer={{'enumerate': 'parallel'}} in the model, and take elbo={MARGINAL}, which sums it out"
            )
        raise ValueError(
            f"the guide {type(guide).__name__} does not sample {missing}, latent in {type(model).__name__}: Pyro would "
            "draw them from the prior, silently"
        )
    if extra := sorted(q_names - set(p_sites)):
        raise ValueError(f"the guide {type(guide).__name__} samples {extra}, not latent in {type(model).__name__}")
    for side, sites in (("model", p_sites), ("guide", q_sites)):
        for name in model.local_sites:
            check_plate(side, model.n_obs, sites[name])
            _check_uninformed(side, model.informed(name, batch), sites[name])


def check_rows(autoguide: type, model: CountModel) -> None:
    """Raise for a bare autoguide where rows have latents of their own: it knows nothing of a minibatch's rows."""
    if not model.local_sites:
        return
    own = getattr(model.default_guide(), "__name__", "Amortized")
    rest = "AutoNormal" if issubclass(autoguide, AutoGuideList) else autoguide.__name__
    raise ValueError(
        f"guide={autoguide.__name__} alone has no rows to look a minibatch's {list(model.local_sites)} up in: use "
        f"functools.partial(guides.{own}, rest={rest}), or guides.PerObservation for a table of the rows"
    )


def check_plate(side: str, n_obs: int, site: dict[str, Any]) -> None:
    """Raise for a row's own site that is not in the plate over rows, at the size of the data."""
    # By name too: draws and queries know a row's own sites by the plate that they are in.
    sizes = {frame.name: frame.full_size for frame in site["cond_indep_stack"] if frame.vectorized}
    if sizes.get(PLATE) != n_obs:
        raise ValueError(
            f"the {side}'s local site {site['name']!r} is in plates {sizes}, none of n_obs={n_obs} called "
            f"{PLATE!r}: a minibatch would not be scaled to the data; open model.plate(batch) around it"
        )


def _check_uninformed(side: str, informed: Tensor | None, site: dict[str, Any]) -> None:
    """Entries that the data do not inform may not count: left in one side alone, their entropy has no bound."""
    if informed is None or bool(informed.all()):
        return
    fn, value = site["fn"], site["value"]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        other = torch.where(informed, value, fn.sample())
        if not torch.equal(fn.log_prob(value), fn.log_prob(other)):
            raise ValueError(
                f"the {side} counts entries of {site['name']!r} that were not measured: sample it from "
                "distributions.masked(fn, model.informed(site, batch)), in model and guide"
            )


def _check_parameter_mode(side: str, program: PyroModule) -> None:
    if not hasattr(program._pyro_context, "param_state"):
        raise ValueError(
            f"the {side} was built while pyro.settings 'module_local_params' was off: import pyro_omics before "
            "building it, and leave the setting on"
        )


@contextmanager
def _parameters_in_modules(side: str, program: PyroModule) -> Iterator[None]:
    """Say of a ``pyro.param`` statement, which Pyro refuses in its own words, what stands in for it."""
    try:
        yield
    except NotImplementedError as error:
        if "pyro.param" not in str(error):
            raise
        own = set(map(id, program.parameters()))
        found = program._pyro_context.param_state["params"].items()
        names = [name for name, value in found if id(getattr(value, "unconstrained", lambda v=value: v)()) not in own]
        raise ValueError(
            f"the {side} {type(program).__name__} calls pyro.param for {names}, which no optimizer would see: make it "
            "a torch.nn.Parameter or a pyro.nn.PyroParam of the module, in __init__"
        ) from error


@contextmanager
def _names_used_once(side: str, program: PyroModule) -> Iterator[None]:
    """Say of two sites of one name, which Pyro shows a table of, what may have made the second."""
    try:
        yield
    except RuntimeError as error:
        found = re.match(r"Multiple sample sites named '(.*)'", str(error))
        if found is None:
            raise
        mend = "open it once, around all local sites" if found[1] == PLATE else "give each a name of its own"
        what = "opens model.plate(batch)" if found[1] == PLATE else f"samples {found[1]!r}"
        raise ValueError(f"the {side} {type(program).__name__} {what} more than once: {mend}") from error


def check_schema(trained: Schema, found: Schema, training_rows: bool = False) -> None:
    """Raise where data differ from those that a model was trained on: weights know genes and levels by position."""
    if differ := trained.differences(found, training_rows):
        names = " and ".join(differ).replace("_", " ")
        raise ValueError(
            f"the model was trained on data with other {names} than these: ask a Posterior, which aligns them by "
            "name, or align the DataModule, dm.adopt(schema, n_obs) with the svi's"
        )


def check_sizes(model: CountModel, found: Sizes | DELSizes) -> None:
    """Raise where a model was made for data of other sizes than those that it is to be trained on."""
    made = getattr(model, "sizes", None)
    # A model of one's own may say no more of itself than n_genes.
    names = ("n_genes",) if made is None else found.fixed
    for name in names:
        have, want = getattr(model if made is None else made, name, None), getattr(found, name, None)
        if have is not None and have != want:
            raise ValueError(
                f"the model was made for {name}={have}, and the data have {want}: make it from the DataModule that it "
                "is trained on, from_data(dm)"
            )


def check_parameters(module: nn.Module, expected: int) -> None:
    """Raise if a training step has made parameters that the optimizer does not have."""
    found = len(list(module.parameters()))
    if found != expected:
        raise RuntimeError(
            f"the first training step made {found - expected} parameters that the optimizer never sees: make them in "
            "__init__, or at the run on example_batch()"
        )
