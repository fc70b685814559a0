"""Uses of Pyro's own tools on a model and its guide, each with checks of what comes out; see test_pyro_tools.py.

A use takes a `Case` and asserts. ``TOOLS`` names them as the table does.
"""

import copy
import importlib.util
import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from pyro.infer import (
    MCMC,
    NUTS,
    SVGD,
    SVI,
    JitTrace_ELBO,
    JitTraceEnum_ELBO,
    Predictive,
    RBFSteinKernel,
    Trace_ELBO,
    TraceEnum_ELBO,
    TraceMeanField_ELBO,
    infer_discrete,
)
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoGuideList, AutoNormal
from pyro.infer.importance import psis_diagnostic, vectorized_importance_weights
from pyro.infer.inspect import generate_graph_specification, get_dependencies, get_model_relations
from pyro.infer.reparam import LocScaleReparam
from pyro.infer.reparam.strategies import AutoReparam
from pyro.nn import PyroModule, PyroParam
from torch.distributions import biject_to
from torch.testing import assert_close

import pyro_omics as po
from pyro_omics.sites import is_local, latent_sites, latent_values, observed_sites

PARTICLES = 3


@dataclass
class Case:
    """A model in evaluation mode, with a minibatch and all of its rows."""

    original: Any  # never run: Pyro does not attach a module that has run to another
    batch: Any
    whole: Any
    make_guide: Any = None  # the model's own by default
    model: Any = field(init=False)
    latent: dict[str, Any] = field(init=False)  # name -> site of a trace
    summed: list[str] = field(init=False)  # names of the discrete latents that no guide samples

    def __post_init__(self):
        self.model = copy.deepcopy(self.original).eval()
        trace = self.model.example_trace(self.batch)
        self.latent, self.summed = latent_sites(trace), list(latent_sites(trace, summed_out=True))

    @property
    def globals(self):
        return [name for name, site in self.latent.items() if not is_local(site)]

    @property
    def program(self):
        """The model without the discrete latents, for Pyro's autoguides."""
        return poutine.block(self.model, hide=self.summed) if self.summed else self.model

    def guide(self):
        """A guide with its lazy parameters made."""
        make = self.make_guide or self.model.default_guide()
        with self.model.reuse_trace(self.model.example_trace(self.batch)):
            guide = make(self.model).eval()
        self.model.eval()  # the encoders are new
        guide(self.batch)
        return guide

    def bound(self, **options):
        kind = TraceEnum_ELBO if self.summed else Trace_ELBO
        return kind(max_plate_nesting=1, **options)

    def draws(self, n):
        """Draws of every latent from the guide, {name: (n, *shape)}, in the shape that MCMC gives them."""
        guide = self.guide()
        drawn = [latent_values(poutine.trace(guide).get_trace(self.batch)) for _ in range(n)]
        found = {name: torch.stack([one[name] for one in drawn]).detach() for name in drawn[0]}
        for name in self.summed:
            found[name] = torch.randint(0, 2, (n, len(self.batch.index)))
        return found

    def observed(self):
        trace = poutine.trace(self.model).get_trace(self.batch)
        return trace.observation_nodes


def trained(case, guide, bound, batch=None, program=None, steps=2):
    """Take steps of pyro.infer.SVI, and check that they train every parameter that the loss depends on."""
    batch, program = (case.batch if batch is None else batch), program or case.model
    case.model.train()
    guide(batch)
    modules = {"model": case.model, "guide": guide}
    named = {(side, name): p for side, module in modules.items() for name, p in module.named_parameters()}
    loss = bound.differentiable_loss(program, guide, batch)
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    expected = {key for key, gradient in zip(named, gradients, strict=True) if gradient is not None and gradient.any()}
    before = {key: p.detach().clone() for key, p in named.items()}
    svi = SVI(program, guide, pyro.optim.Adam({"lr": 0.01}), loss=bound)
    losses = [svi.step(batch) for _ in range(steps)]
    assert all(isinstance(loss, float) and math.isfinite(loss) for loss in losses)
    assert expected and isinstance(svi.evaluate_loss(batch), float)
    now = {(side, name): p for side, module in modules.items() for name, p in module.named_parameters()}
    left = [key for key in expected if torch.equal(now[key], before[key])]
    assert not left, f"SVI left {left} as they were"


def svi(make):
    def use(case):
        trained(case, case.guide(), make())

    return use


def compiled(case):
    """A step by torch's tracer, which warns of what it cannot follow."""
    kind = JitTraceEnum_ELBO if case.summed else JitTrace_ELBO
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        trained(case, case.guide(), kind(max_plate_nesting=1))


def package_guide(name):
    """A guide of the package in SVI, with particles at once and in Predictive."""
    kind = getattr(po.guides, name)
    if "n_steps" in inspect.signature(kind).parameters:
        kind = partial(kind, n_steps=2)

    def use(case):
        case.make_guide = kind
        particles(case)
        predictive(True)(case)
        trained(case, case.guide(), case.bound())

    return use


# Guides ---------------------------------------------------------------------------------------------------------------


def autoguide(kind):
    def use(case):
        trained(case, kind(case.program, create_plates=case.model.plate), case.bound())

    return use


def joint_autoguide(case):
    """A Normal over all latents of all rows."""
    trained(case, AutoDiagonalNormal(case.program), case.bound(), case.whole)


def guide_list(case):
    guide, local = AutoGuideList(case.program, create_plates=case.model.plate), list(case.model.local_sites)
    if case.globals:
        guide.append(AutoNormal(poutine.block(case.program, hide=local)))
    if local:
        guide.append(AutoDelta(poutine.block(case.program, expose=local)))
    trained(case, guide, case.bound())


class Easy(EasyGuide):
    """Normals over the globals in one group, and rows at a point each."""

    n_obs: int
    local_sites: tuple[str, ...]

    def guide(self, batch):
        names = [name for name, site in self.prototype_trace.iter_stochastic_nodes() if not is_local(site)]
        if names:
            group = self.group("|".join(f"^{name}$" for name in names))
            group.sample("globals", dist.Normal(self.loc.expand(group.event_shape), 0.1).to_event(1))
        with self.plate("obs", self.n_obs, subsample=batch.index):
            for name in self.local_sites:
                self.map_estimate(name)


def easy_guide(case):
    guide = Easy(case.program)
    guide.n_obs, guide.local_sites = case.model.n_obs, case.model.local_sites
    guide.loc = PyroParam(torch.tensor(0.1))
    trained(case, guide, case.bound())


# Several draws at once ------------------------------------------------------------------------------------------------


def predictive(parallel):
    def use(case):
        guide = case.guide()
        drawn = Predictive(poutine.uncondition(case.model), guide=guide, num_samples=PARTICLES, parallel=parallel)(
            case.batch
        )
        trace = poutine.trace(case.model).get_trace(case.batch)
        for name in case.observed():
            site = trace.nodes[name]
            assert drawn[name].shape == (PARTICLES, *site["value"].shape)
            assert site["fn"].support.check(drawn[name]).all()
        for name, site in case.latent.items():
            assert drawn[name].shape[0] == PARTICLES and drawn[name].numel() == PARTICLES * site["value"].numel()
            assert not torch.equal(drawn[name][0], drawn[name][1])

    return use


def same_densities(case, samples, drawn):
    """The densities of the counts, at once and one draw after the other."""
    together = Predictive(case.model, samples).get_vectorized_trace(case.batch)
    for i in range(len(next(iter(drawn.values())))):
        alone = poutine.trace(poutine.condition(case.model, {k: v[i] for k, v in drawn.items()})).get_trace(case.batch)
        for name in case.observed():
            site = together.nodes[name]
            found = site["fn"].log_prob(site["value"])
            expected = alone.nodes[name]["fn"].log_prob(alone.nodes[name]["value"])
            assert found.shape == (PARTICLES, *expected.shape)
            assert_close(found[i], expected, rtol=1e-4, atol=1e-3)


def given_draws(case):
    drawn = case.draws(PARTICLES)
    shared = {name: value.unsqueeze(1) if name in case.globals else value for name, value in drawn.items()}
    same_densities(case, shared, drawn)
    looped = Predictive(case.model, shared, return_sites=case.observed())(case.batch)
    assert set(looped) == set(case.observed())


def arviz(case):
    """The calls of ArviZ's ``from_pyro``: draws of MCMC, without a place for the rows in those of global latents."""
    drawn = case.draws(PARTICLES)
    same_densities(case, drawn, drawn)
    trace = poutine.trace(case.model).get_trace(case.batch)
    for parallel in (False, True):
        counts = Predictive(poutine.uncondition(case.model), drawn, parallel=parallel)(case.batch)
        assert set(counts) == set(case.observed())
        for name, value in counts.items():
            assert value.shape == (PARTICLES, *trace.nodes[name]["value"].shape)


def particles(case):
    """The loss of vectorised particles is the mean of a loop's at the same values."""
    guide = case.guide()
    vectorised = case.bound(num_particles=PARTICLES, vectorize_particles=True)
    _, together = next(iter(vectorised._get_traces(case.model, guide, (case.batch,), {})))
    losses = []
    for i in range(PARTICLES):
        one = together.copy()
        for name, site in together.nodes.items():
            if site["type"] == "sample" and name != "obs":
                value = site["value"][i]
                infer = {key: flag for key, flag in site["infer"].items() if not key.startswith("_")}
                one.nodes[name] = {**site, "value": value if is_local(site) else value.squeeze(0), "infer": infer}
        losses.append(_at(one, case.bound(), case.model, guide, case.batch))
    found = _at(together, vectorised, case.model, guide, case.batch)
    assert found == pytest.approx(sum(losses) / PARTICLES, rel=1e-4)
    assert math.isfinite(vectorised.loss_and_grads(case.model, guide, case.batch))


def _at(trace, bound, model, guide, batch):
    """The loss at given values; the handler is outside of the plate of particles, which comes first then."""
    with poutine.replay(trace=trace):
        return bound.loss(model, guide, batch)


def psis(case):
    """Importance weights of particles at once, with the eight places that Pyro leaves for plates."""
    guide = case.guide()
    options = {"num_samples": PARTICLES, "max_plate_nesting": 7}
    with torch.no_grad():
        weights, *_ = vectorized_importance_weights(case.model, guide, case.batch, **options)
    assert weights.shape == (PARTICLES,) and weights.isfinite().all()
    with pytest.warns(UserWarning, match="Not enough tail samples"):
        psis_diagnostic(case.model, guide, case.batch, num_particles=6)


def svgd(case):
    adam = pyro.optim.Adam({"lr": 0.01})
    stein = SVGD(case.model, RBFSteinKernel(), adam, num_particles=PARTICLES, max_plate_nesting=1)
    squares = stein.step(case.whole)
    assert set(squares) == set(case.latent) and all(map(math.isfinite, squares.values()))
    for name, value in stein.get_named_particles().items():
        assert value.shape[0] == PARTICLES and value.isfinite().all(), name


def nuts(case):
    for p in case.model.parameters():
        p.requires_grad_(False)
    whole = {name: poutine.trace(case.model).get_trace(case.whole).nodes[name]["value"] for name in case.latent}
    # Pyro itself would start a latent that depends on an enumerated one with a value for each of its levels.
    starts = {name: biject_to(case.latent[name]["fn"].support).inv(value) for name, value in whole.items()}
    kernel = NUTS(case.model, max_tree_depth=2, max_plate_nesting=1)
    options = {"initial_params": starts} if case.summed else {}
    mcmc = MCMC(kernel, num_samples=2, warmup_steps=1, disable_progbar=True, **options)
    mcmc.run(case.whole)
    samples = mcmc.get_samples()
    assert set(samples) == set(case.latent)
    for name, value in samples.items():
        assert value.shape == (2, *whole[name].shape) and value.isfinite().all(), name


# Handlers -------------------------------------------------------------------------------------------------------------


def handlers(case):
    """trace, replay, condition, do, block, scale, mask, uncondition and seed."""
    model, batch = case.model, case.batch
    trace = poutine.trace(model).get_trace(batch)
    total = trace.log_prob_sum()
    again = poutine.trace(poutine.replay(model, trace=trace)).get_trace(batch)
    assert_close(again.log_prob_sum(), total)
    name = next(iter(case.latent))
    value = trace.nodes[name]["value"].detach()
    conditioned = poutine.trace(poutine.condition(model, {name: value})).get_trace(batch)
    assert conditioned.nodes[name]["is_observed"] and conditioned.nodes[name]["value"] is value
    done = poutine.trace(poutine.do(model, {name: value})).get_trace(batch)
    assert not torch.equal(done.nodes[name]["value"], value)  # the site is drawn, and the model reads the value
    assert name not in poutine.trace(poutine.block(model, hide=[name])).get_trace(batch).nodes
    replayed = poutine.replay(model, trace=trace)
    scaled = poutine.trace(poutine.scale(replayed, scale=2.0)).get_trace(batch)
    assert_close(scaled.log_prob_sum(), 2 * total)
    assert float(poutine.trace(poutine.mask(model, mask=False)).get_trace(batch).log_prob_sum()) == 0.0
    free = poutine.trace(poutine.uncondition(model)).get_trace(batch)
    assert set(observed_sites(free)) == set(case.observed())
    seeded = [poutine.trace(poutine.seed(model, rng_seed=1)).get_trace(batch).nodes[name]["value"] for _ in range(2)]
    assert torch.equal(*seeded)


def lift(case):
    """Parameters drawn from a prior."""
    sites = poutine.trace(case.model).get_trace(case.batch).nodes
    prior = {
        name: dist.Normal(torch.zeros_like(site["value"]), 0.1).to_event()
        for name, site in sites.items()
        if site["type"] == "param"
    }
    trace = poutine.trace(poutine.lift(case.model, prior=prior)).get_trace(case.batch)
    assert prior and all(trace.nodes[name]["type"] == "sample" for name in prior)
    assert trace.log_prob_sum().isfinite()


def reparam(case):
    """A latent with a location and a scale, drawn from a fixed share of its distance to them."""
    name = next(name for name, site in case.latent.items() if _has_location(site["fn"]))
    program = poutine.reparam(case.model, config={name: LocScaleReparam(0.5)})
    trace = poutine.trace(program).get_trace(case.batch)
    assert f"{name}_decentered" in trace.nodes
    fn = case.latent[name]["fn"]
    value, base = trace.nodes[name]["value"], trace.nodes[f"{name}_decentered"]["value"]
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    assert_close(value, fn.loc + fn.scale.sqrt() * (base - 0.5 * fn.loc))


def learned_reparam(case):
    """With a share that is learned, a ``pyro.param`` of the handler; the model by itself stays as it was."""
    name = next(name for name, site in case.latent.items() if _has_location(site["fn"]))
    program = poutine.reparam(case.model, config={name: LocScaleReparam()})
    share = f"{name}_centered"
    with poutine.trace(param_only=True) as collected:
        trace = poutine.trace(program).get_trace(case.batch)
    assert f"{name}_decentered" in trace.nodes and list(pyro.get_param_store().keys()) == [share]
    assert all(site["value"].unconstrained().requires_grad for site in collected.trace.nodes.values())
    trace.log_prob_sum().backward()
    assert pyro.param(share).unconstrained().grad is not None
    alone = poutine.trace(case.model).get_trace(case.batch)
    assert share not in alone.nodes and alone.nodes[name]["type"] == "sample" and not alone.nodes[name]["is_observed"]
    assert po.SVIModule(copy.deepcopy(case.model)).plain_elbo(case.batch).isfinite()


def auto_reparam(case):
    """Every latent with a location and a scale, with shares that are learned beside the autoguide."""
    program = AutoReparam()(case.model)
    hidden = poutine.block(program, hide=case.summed) if case.summed else program
    trained(case, AutoNormal(hidden, create_plates=case.model.plate), case.bound(), program=program)
    located = any(_has_location(site["fn"]) for site in case.latent.values())
    assert any(name.endswith("_centered") for name in pyro.get_param_store()) == located


def _has_location(fn):
    while hasattr(fn, "base_dist"):
        fn = fn.base_dist
    return isinstance(fn, dist.Normal)


# Programs of programs -------------------------------------------------------------------------------------------------


def bayesianised(case):
    """Weights as latents (PyroSample), trained; with particles and draws in front."""
    part = {"DELCount": "target_rate", "HierarchicalDEL": "truncates", "CountFactors": "likelihood"}
    name = part.get(type(case.model).__name__, "decoder")
    if not any(path.startswith(f"{name}.") for path, _ in case.model.named_parameters()):
        name = next(path for path, _ in case.model.named_parameters() if not path.startswith("encoders."))
    model = po.bayesianize(case.original, name, prior=dist.Normal(0.0, 0.3))
    if model.default_guide() is po.guides.Conditional:  # which takes parameters as numbers
        model.default_guide = lambda: po.guides.Amortized
    made = Case(model, case.batch, case.whole)
    assert set(made.globals) > set(case.globals)
    particles(made)
    given_draws(made)
    arviz(made)
    trained(made, made.guide(), made.bound())


class Study(PyroModule):
    """A larger model around one of the package's, with a latent of its own."""

    def __init__(self, model):
        super().__init__()
        self.cells = model

    def forward(self, batch):
        effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
        with poutine.scale(scale=0.5):
            self.cells(batch)
        pyro.sample("seen", dist.Normal(effect, 1.0), obs=torch.tensor(0.3))


class StudyGuide(PyroModule):
    def __init__(self, guide):
        super().__init__()
        self.cells = guide
        self.loc = PyroParam(torch.tensor(0.0))  # under module_local_params=True, Pyro's SVI takes no plain parameter

    def forward(self, batch):
        pyro.sample("effect", dist.Normal(self.loc, 1.0))
        with poutine.scale(scale=0.5):
            self.cells(batch)


def composition(case):
    alone = poutine.trace(case.model).get_trace(case.batch)
    study = Study(copy.deepcopy(case.original).eval())
    trace = poutine.trace(poutine.replay(study, trace=alone)).get_trace(case.batch)
    own = sum(trace.nodes[name]["fn"].log_prob(trace.nodes[name]["value"]) for name in ("effect", "seen"))
    assert_close(trace.log_prob_sum() - own, 0.5 * alone.log_prob_sum(), rtol=1e-4, atol=1e-2)
    case.model = study
    trained(case, StudyGuide(study.cells.default_guide()(study.cells)), case.bound())


def discrete(case):
    """The most probable types given everything else, and draws of them."""
    value = case.guide()
    z = poutine.trace(value).get_trace(case.batch).nodes["z"]["value"].detach()
    given = poutine.condition(case.model, {"z": z})
    inferred = infer_discrete(given, first_available_dim=-2, temperature=0)
    y = poutine.trace(inferred).get_trace(case.batch).nodes["y"]["value"]
    probability = case.model.label_probability(case.batch, {"z": z}, given_labels=True)
    assert torch.equal(y, probability.argmax(-1))
    sampled = poutine.trace(infer_discrete(given, first_available_dim=-2)).get_trace(case.batch).nodes["y"]["value"]
    assert sampled.shape == y.shape


def relations(case):
    """The graph of the model on all rows, which the kernels take: what `pyro.render_model` draws."""
    found = get_model_relations(case.model, (case.whole,))
    assert get_model_relations(copy.deepcopy(case.original), (case.whole,)) == found  # in training mode, never run
    latents = [*case.latent, *case.summed]
    assert set(found["observed"]) == set(case.observed())
    assert set(found["sample_sample"]) == {*latents, *found["observed"]}
    assert set(found["plate_sample"]["obs"]) == {*case.model.local_sites, *case.summed, *found["observed"]}
    edges = get_dependencies(case.model, (case.whole,))["prior_dependencies"]
    for name in latents:  # each is read by something
        assert any(name in upstream for site, upstream in found["sample_sample"].items()), name
        assert any(name in upstream for site, upstream in edges.items() if site != name), name
    assert generate_graph_specification(found, render_params=True)["edge_list"]
    if importlib.util.find_spec("graphviz"):
        pyro.render_model(case.model, (case.whole,), render_distributions=True)


TOOLS = {
    "`SVI`, the model's guide, `Trace_ELBO`": svi(Trace_ELBO),
    "`SVI`, `TraceMeanField_ELBO`": svi(TraceMeanField_ELBO),
    "`SVI`, `TraceEnum_ELBO`": svi(partial(TraceEnum_ELBO, max_plate_nesting=1)),
    "`SVI`, `elbos.TraceELBO`": svi(po.elbos.TraceELBO),
    "`SVI`, `elbos.RenyiELBO`": svi(partial(po.elbos.RenyiELBO, 0.5)),
    "`SVI`, `elbos.ImportanceWeightedELBO`": svi(po.elbos.ImportanceWeightedELBO),
    "`SVI`, `JitTrace_ELBO`": compiled,
    "`vectorize_particles=True`": particles,
    **{f"`guides.{name}`: `SVI`, particles, `Predictive`": package_guide(name) for name in po.guides.__all__},
    "`AutoNormal`, minibatches": autoguide(AutoNormal),
    "`AutoDelta`, minibatches": autoguide(AutoDelta),
    "`AutoDiagonalNormal`": joint_autoguide,
    "`AutoGuideList`": guide_list,
    "`EasyGuide`, minibatches": easy_guide,
    "`NUTS`": nuts,
    "`SVGD`": svgd,
    "`Predictive`, a guide": predictive(False),
    "`Predictive`, a guide, `parallel=True`": predictive(True),
    "`Predictive`, draws": given_draws,
    "ArviZ's `log_likelihood`": arviz,
    "`psis_diagnostic`": psis,
    "`poutine.trace`, `replay`, `condition`, `do`, `block`, `scale`, `mask`, `uncondition`, `seed`": handlers,
    "`poutine.lift`": lift,
    "`poutine.reparam`, `LocScaleReparam(0.5)`": reparam,
    "`poutine.reparam`, `LocScaleReparam()`": learned_reparam,
    "`AutoReparam` with `AutoNormal`": auto_reparam,
    "`PyroSample`: `bayesianize`": bayesianised,
    "part of a larger model": composition,
    "`infer_discrete`": discrete,
    "`render_model`, `get_dependencies`": relations,
}


@dataclass
class Limit:
    """What a tool does not do.

    Attributes
    ----------
    tools
        beginnings of the names of tools.
    meets
        whether a case has what the tool does not take.
    settings
        of module_local_params.
    error
        how it is said; None where there is nothing to do.
    why
        the note in the table.
    """

    tools: tuple[str, ...]
    meets: Callable[[Case], bool]
    settings: tuple[bool, ...] = (False, True)
    error: str | None = None
    why: str = ""


def limit(tool, case, local):
    """The limit that a tool has there, or None."""
    found = (one for one in LIMITS if local in one.settings and tool.startswith(one.tools) and one.meets(case))
    return next(found, None)


LIMITS = [
    Limit(("`guides.Conditional`",), lambda case: not hasattr(case.model, "conditional")),
    Limit(("`infer_discrete`", "`SVI`, `TraceEnum_ELBO`"), lambda case: not case.summed),
    Limit(("`poutine.reparam`",), lambda case: not any(_has_location(site["fn"]) for site in case.latent.values())),
    Limit(
        ("`SVI`, the model's guide", "`SVI`, `TraceMeanField_ELBO`", "`SVI`, `elbos.TraceELBO`", "`psis_diagnostic`"),
        lambda case: bool(case.summed),
        error="Found vars in model but not guide",
        why="a discrete latent is summed out, by `TraceEnum_ELBO(max_plate_nesting=1)` or the bounds of `elbos`",
    ),
    Limit(
        ("`SVI`, `JitTrace_ELBO`",),
        lambda case: True,
        error=r"^'[\w.]+'$",  # a KeyError of the parameter's name
        why="`Jit..._ELBO` looks for parameters in Pyro's store, where those of modules under "
        "`module_local_params=True`, as this package's are, do not go: use the ELBO without `Jit`",
    ),
    Limit(
        ("`SVGD`",),
        lambda case: bool(case.summed),
        error="Cannot transform|Continuous inference cannot handle discrete",
        why="SVGD takes no discrete latents",
    ),
    Limit(
        ("`SVGD`",),
        lambda case: True,
        settings=(True,),
        error="Support for global pyro.param statements in PyroModules",
        why="not under `module_local_params=True`, where SVGD's own guide may not call `pyro.param`",
    ),
    Limit(
        ("`AutoDiagonalNormal`",),
        lambda case: True,
        settings=(True,),
        error="'Parameter' object has no attribute 'unconstrained'",
        why="not under `module_local_params=True`, where Pyro's SVI trains no `nn.Parameter` of its own guides: use "
        "`SVIModule`",
    ),
    Limit(
        ("`AutoReparam`",),
        lambda case: any(_has_location(site["fn"]) for site in case.latent.values()),
        settings=(True,),
        error="Support for global pyro.param statements in PyroModules",
        why="not under `module_local_params=True`, where a `pyro.param` may not be read inside of Pyro's own guides",
    ),
    Limit(
        ("`EasyGuide`",),
        lambda case: bool(case.model.local_sites),
        settings=(True,),
        error="'Tensor' object has no attribute 'unconstrained'",
        why="not under `module_local_params=True`, where `map_estimate` takes no minibatches",
    ),
]
