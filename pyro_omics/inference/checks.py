"""Checks, before training starts, that a model, its guide and the data fit together; Pyro does not make these."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any, NoReturn

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoCallable, AutoGuide, AutoGuideList
from pyro.nn import PyroModule
from pyro.params.param_store import ParamStoreDict
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_omics.batch import RowBatch
from pyro_omics.layers import prototype_trace
from pyro_omics.models.base import CountModel, Guide
from pyro_omics.schema import Schema
from pyro_omics.sites import PLATE, is_local, latent_sites
from pyro_omics.sizes import DELSizes, Sizes

MODULE = "write the guide as a PyroModule with forward(batch), and pass its class"
# Texts of Pyro's errors -> what they mean.
MAP_ESTIMATE = {
    "'unconstrained'": "makes a parameter inside the plate of rows, as EasyGuide.map_estimate does; Pyro cannot do so "
    "for minibatches where parameters belong to modules: use guides.PerObservation, which has a table of rows, or give "
    "the guide a network",
    'contain "."': "makes a parameter with a dot in its name, as EasyGuide.map_estimate does for latent weights: take "
    "them as a group, self.group(PATTERN).sample(NAME, FN)",
}
ENUM_ELBO = "TraceEnum_ELBO(max_plate_nesting=1)"


def run(side: str, program: PyroModule, batch: RowBatch) -> Trace:
    """Run a model or guide once, which creates its lazy parameters, and return the trace; see `layers.prototype_trace`.

    Parameters
    ----------
    side
        "model" or "guide", for error messages.
    program
        the model or guide.
    batch
        a minibatch.

    Raises
    ------
    ValueError
        For a program that keeps parameters outside its modules, or samples two sites of the same name.
    """
    stored = set(pyro.get_param_store().keys())
    with _parameters_in_modules(side, program), _names_used_once(side, program):
        trace = prototype_trace(program, batch)
    sites = [site for site in trace.nodes.values() if site["type"] == "param"]
    # A module sends messages of its parameters too, which the store does not get.
    if names := [site["name"] for site in sites if isinstance(getattr(site["fn"], "__self__", None), ParamStoreDict)]:
        for name in set(names) - stored:
            del pyro.get_param_store()[name]
        raise ValueError(_stray_parameters(side, program, names))
    return trace


def check_model(model: CountModel, p: Trace) -> None:
    """Raise where a model's trace shows that no guide could fit it: a site in the plate that is not in local_sites.

    Parameters
    ----------
    model
        the model.
    p
        a trace of it.
    """
    name = type(model).__name__
    for site in latent_sites(p).values():
        # For discrete latents, which may have to be summed out, `check_pair` gives a more specific message.
        discrete = getattr(site["fn"], "has_enumerate_support", False)
        if is_local(site) and site["name"] not in model.local_sites and not discrete:
            raise ValueError(
                f"{name} samples {site['name']!r} inside self.plate(batch), but its local_sites are "
                f"{list(model.local_sites)}: add {site['name']!r} to local_sites if each row has its own value, or "
                "sample it before the plate if all rows share one"
            )


def make_guide(make: Any, model: CountModel, batch: RowBatch) -> Any:
    """Make the guide of a model.

    Raises
    ------
    TypeError
        Where ``make`` is a guide itself, a function of minibatches.
    """
    try:
        return make(model)
    except AttributeError as error:
        found = re.search(r"has no attribute '(\w+)'", str(error))
        if isinstance(make, type) or found is None or found[1] not in getattr(batch, "_fields", ()):
            raise
        raise TypeError(
            f"guide must be a callable of a model, which makes its guide; got {getattr(make, '__name__', make)!r}, "
            f"which reads {found[1]!r} of a minibatch: {MODULE}"
        ) from error


def check_guide(guide: Any, model: CountModel) -> None:
    """Raise unless ``guide`` is a PyroModule that can handle minibatches of rows.

    Raises
    ------
    TypeError
        For an object that is no PyroModule.
    ValueError
        For a guide of another model, and for an autoguide without a plate, of a model with local latents.
    """
    if not isinstance(guide, PyroModule):
        mend = f": {MODULE}" if isinstance(guide, FunctionType) else ""
        raise TypeError(f"guide must make a PyroModule from a model, as guides.Amortized does; it made {guide!r}{mend}")
    owner = _program(guide)
    if isinstance(owner, CountModel) and owner is not model:
        raise ValueError(
            f"guide was made for another {type(owner).__name__} than the model: pass the class or another callable "
            f"that makes it, guide={type(guide).__name__}, or the model that it was made for"
        )
    if isinstance(guide, AutoGuide) and not _knows_rows(guide):
        check_rows(type(guide), model)


def _program(guide: Any) -> Any:
    """The program that a guide was made for, without handlers around it; None where the guide does not say."""
    held = getattr(guide, "_model", None) or getattr(guide, "_program", None)
    return poutine.unwrap(held[0]) if isinstance(held, tuple) else None


def _knows_rows(guide: AutoGuide) -> bool:
    """Whether an autoguide, or a part of it, has the plate: AutoNormal(model, create_plates=model.plate)."""
    if isinstance(guide, AutoCallable):
        return True  # the user's function opens the plate
    parts = list(guide) if isinstance(guide, AutoGuideList) else []
    return guide.create_plates is not None or any(map(_knows_rows, parts))


def check_callable(argument: str, value: Any, example: str) -> None:
    """Raise for an argument that is not callable, such as the name of a class instead of the class."""
    if value is not None and not callable(value):
        raise TypeError(f"{argument} must be a callable, such as the class {example}; got {value!r}")


def check_pair(model: CountModel, guide: Guide, batch: RowBatch, p: Trace, q: Trace) -> None:
    """Raise where model and guide sample different latents, or a local latent is outside the plate over rows.

    Parameters
    ----------
    model, guide
        the pair.
    batch
        the batch that both were run on.
    p, q
        traces of the model and of the guide.
    """
    p_sites, q_sites = latent_sites(p), latent_sites(q)
    q_names = {name for name, site in q_sites.items() if not site["infer"].get("is_auxiliary")}
    if missing := sorted(set(p_sites) - q_names):
        if discrete := [name for name in missing if getattr(p_sites[name]["fn"], "has_enumerate_support", False)]:
            raise ValueError(
                f"the guide {type(guide).__name__} does not sample the discrete latent {discrete[0]!r} of "
                f"{type(model).__name__}: mark it infer={{'enumerate': 'parallel'}} in the model, and pass "
                f"elbo={ENUM_ELBO}, which sums it out"
            )
        raise ValueError(
            f"the guide {type(guide).__name__} does not sample {missing}, which are latent in {type(model).__name__}, "
            "and Pyro would silently draw them from the prior: sample them in the guide"
        )
    if extra := sorted(q_names - set(p_sites)):
        raise ValueError(
            f"the guide {type(guide).__name__} samples {extra}, which are not latent in {type(model).__name__}: leave "
            "them out of the guide"
        )
    for side, sites in (("model", p_sites), ("guide", q_sites)):
        for name in model.local_sites:
            check_plate(side, model.n_obs, sites[name])
            _check_uninformed(side, model.informed(name, batch), sites[name])


def check_rows(autoguide: type, model: CountModel) -> None:
    """Raise for an autoguide without a plate over rows, where the model has local latents."""
    if not model.local_sites:
        return
    own = getattr(model.default_guide(), "__name__", "Amortized")
    rest = "AutoNormal" if issubclass(autoguide, AutoGuideList) else autoguide.__name__
    raise ValueError(
        f"guide={autoguide.__name__} alone has no parameters for the {list(model.local_sites)} of each row: use "
        f"functools.partial(guides.{own}, rest={rest}), or guides.PerObservation, which has a table of rows"
    )


def check_plate(side: str, n_obs: int, site: dict[str, Any]) -> None:
    """Raise for a local site that is not in the plate over rows, of size n_obs."""
    # The plate's name matters too: draws and queries recognise local sites by it.
    sizes = {frame.name: frame.full_size for frame in site["cond_indep_stack"] if frame.vectorized}
    if sizes.get(PLATE) != n_obs:
        raise ValueError(
            f"the {side}'s local site {site['name']!r} must be in a plate called {PLATE!r} of size n_obs={n_obs}, "
            f"which scales a minibatch to the data; got plates {sizes}: open model.plate(batch) around it"
        )


def _check_uninformed(side: str, informed: Tensor | None, site: dict[str, Any]) -> None:
    """Raise where entries that the data do not inform are scored: on one side alone, their entropy is unbounded."""
    if informed is None or bool(informed.all()):
        return
    fn, value = site["fn"], site["value"]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        other = torch.where(informed, value, fn.sample())
        if not torch.equal(fn.log_prob(value), fn.log_prob(other)):
            raise ValueError(
                f"the {side} scores entries of {site['name']!r} that were not measured: sample it from "
                "distributions.masked(fn, model.informed(site, batch)), in model and guide"
            )


@contextmanager
def _parameters_in_modules(side: str, program: PyroModule) -> Iterator[None]:
    """Replace Pyro's errors for parameters that a program makes as it runs by ones that say what to use instead."""
    try:
        yield
    except (AttributeError, KeyError) as error:
        for text, message in MAP_ESTIMATE.items():
            if text in str(error):
                raise ValueError(f"the {side} {type(program).__name__} {message}") from error
        raise
    except NotImplementedError as error:
        if "pyro.param" not in str(error):
            raise
        own = set(map(id, program.parameters()))
        found = program._pyro_context.param_state["params"].items()
        names = [name for name, value in found if id(getattr(value, "unconstrained", lambda v=value: v)()) not in own]
        raise ValueError(_stray_parameters(side, program, names)) from error


def _stray_parameters(side: str, program: PyroModule, names: list[str]) -> str:
    return (
        f"the {side} {type(program).__name__} calls pyro.param for {names}, which no optimizer would train: use a "
        "torch.nn.Parameter or a pyro.nn.PyroParam of the module, made in __init__"
    )


@contextmanager
def _names_used_once(side: str, program: PyroModule) -> Iterator[None]:
    """Replace Pyro's error for two sites of the same name by one that says how to mend it."""
    try:
        yield
    except RuntimeError as error:
        found = re.match(r"Multiple sample sites named '(.*)'", str(error))
        if found is None:
            raise
        mend = "open it once, around all local sites" if found[1] == PLATE else "give each site its own name"
        what = "opens model.plate(batch)" if found[1] == PLATE else f"samples {found[1]!r}"
        raise ValueError(f"the {side} {type(program).__name__} {what} more than once: {mend}") from error


def check_schema(trained: Schema, found: Schema, training_rows: bool = False) -> None:
    """Raise where the data differ from the training data; the weights refer to genes and levels by position.

    Parameters
    ----------
    trained, found
        description of the training data, and of the present data.
    training_rows
        whether what describes the training rows, such as their digest, must be the same too.
    """
    if differ := trained.differences(found, training_rows):
        names = " and ".join(differ).replace("_", " ")
        raise ValueError(
            f"the model was trained on data with other {names} than these: use a Posterior, which aligns data by name, "
            "or align the DataModule with dm.adopt(svi.schema, svi.n_obs)"
        )


def refuse_batch(batch: Any) -> NoReturn:
    """Raise for what is no minibatch, as a Trainer finds it that was given an AnnData."""
    raise TypeError(
        "a Trainer must be given an SVIModule and a DataModule, trainer.fit(svi, CellDataModule(adata)), whose "
        f"minibatches have x, row and index; got one of {kind_of(batch)}"
    )


def kind_of(value: Any) -> str:
    """What a value of a wrong type is, for an error."""
    if type(value).__name__ == "OptimizedModule":
        return "torch.compile(...), which cannot compile a Pyro program: pass the module itself"
    return f"a {type(value).__name__}"


def check_not_compiled(svi: Any) -> None:
    """Raise where a Trainer was given ``torch.compile(svi)``, and take off what Lightning has put on the module.

    Pyro's handlers keep a stack and call back into the program, which torch's compiler cannot follow.
    """
    if getattr(svi, "_compiler_ctx", None) is None:
        return
    svi._compiler_ctx = None
    for name in ("forward", *(f"{stage}_step" for stage in ("training", "validation", "test", "predict"))):
        svi.__dict__.pop(name, None)
    raise ValueError("torch.compile(svi) cannot compile a Pyro program: pass svi itself to the Trainer")


def check_sizes(model: CountModel, found: Sizes | DELSizes) -> None:
    """Raise where a model was made for other sizes than those of the data (``found``)."""
    made = getattr(model, "sizes", None)
    # A user's own model may have n_genes alone.
    names = ("n_genes",) if made is None else found.fixed
    for name in names:
        have, want = getattr(model if made is None else made, name, None), getattr(found, name, None)
        if have is not None and have != want:
            raise ValueError(
                f"the model was made for {name}={have}, but the data have {want}: make it from the DataModule that it "
                "is trained on, from_data(dm)"
            )


def check_parameters(module: nn.Module, expected: int) -> None:
    """Raise if the module does not have the ``expected`` number of parameters after a training step."""
    found = len(list(module.parameters()))
    if found != expected:
        raise RuntimeError(
            f"the first training step made {found - expected} parameters that the optimizer does not have: make them "
            "in __init__, or in the run on example_batch()"
        )
