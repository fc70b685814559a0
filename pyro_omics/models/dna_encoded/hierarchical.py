"""HierarchicalDEL: counts of a DNA-encoded library as a superposition of all products with the same tag."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_omics.batch import DELBatch
from pyro_omics.distributions import NegativeBinomial
from pyro_omics.distributions.quadrature import Quadrature
from pyro_omics.guides.conditional import Conditional
from pyro_omics.guides.global_guide import start_at
from pyro_omics.guides.guided_model import Guide
from pyro_omics.layers.inputs import at_levels, beside_rows
from pyro_omics.layers.module import pyro_method
from pyro_omics.models.base import CountModel
from pyro_omics.models.dna_encoded.coordinate_ascent import CoordinateAscent, CountTotals, GammaPrior, Superposition
from pyro_omics.models.dna_encoded.integration_grid import cell_edges
from pyro_omics.models.dna_encoded.selection_arm import SelectionArm
from pyro_omics.models.dna_encoded.superposition import ABUNDANCE, YIELD, amount, entries, truncates
from pyro_omics.optim import ClippedAdam
from pyro_omics.parts.base import check_part
from pyro_omics.parts.dispersions import PerGene
from pyro_omics.parts.likelihoods import Likelihood, Poisson
from pyro_omics.parts.likelihoods import NegativeBinomial as NegativeBinomialLikelihood
from pyro_omics.parts.sparse_effects import SparseGamma
from pyro_omics.schema import RowData
from pyro_omics.sizes import DELSizes

Latents = dict[str, Tensor]
SMALLEST = 1e-6  # effects below count as 0 in log_enrichment
SWEEPS = 50  # of coordinate ascent


class HierarchicalDEL(CountModel):
    r"""Additive superposition of the products with a compound's tag, with sparse Gamma effects.

    The full product carries the tag (a, b, c), and so do truncates, in which a reaction failed. Each survives the
    selection at the library's background rate times a factor 1 + f:

    .. math::
        u_i &\sim \mathrm{Gamma}(10, 10), \quad y_i \sim \mathrm{Beta}(7, 3), \quad
        w_S = \prod_{i \in S} y_i \prod_{i \notin S} (1 - y_i) \\
        f_S, m_n, g_n &\sim \mathrm{Gamma}(\mathrm{shape}, \mathrm{shape} / \mathrm{mean}) \\
        e_n &= u_a u_b u_c \\
        c_{nr} &\sim \mathrm{NB}(d_r \, e_n (1 + m_n), \theta_r) \\
        x_{nr} &\sim \mathrm{NB}(d_r \, e_n (1 + m_n + \textstyle\sum_S w_S f_S + w_{abc} \, g_n), \theta_r)

    with u the abundance and y the yield of each building block, S the cycles that worked (S neither empty nor all), m
    the compound's binding to the matrix, g its own excess over the background, and d the reads of a background compound
    in each selection. Counts p from before the selection, if there are any, are NB(d e_n, kappa), and e_n is replaced
    by its posterior mean given them, e_n (kappa + p_n) / (kappa + d e_n).

    Without counts of controls or from before the selection, the data do not separate abundance from binding, and every
    building block's abundance is 1.

    The quantity of interest is log(1 + g), the natural log of the compound's own survival over the background. Counts
    inform only the ratios of (1 - y); the level of the yields comes from their prior, unless the yields are known.

    Parameters
    ----------
    sizes
        sizes of the data; ``HierarchicalDEL.from_data(dm)`` passes them.
    own, truncate, matrix
        sparse priors of g, f and m; `effects.SparseGamma` by default, with a fixed shape for f.
    order
        largest number of building blocks of the truncates that are modelled; by default mono- and disynthons. For a
        large library, order=1 leaves out the disynthons.
    likelihood
        of the counts; by default `likelihoods.NegativeBinomial` with log theta = 2 at the start, or
        `likelihoods.Poisson` if there is only one target selection.
    warm_start
        whether to initialize guide and priors by coordinate ascent, before training.

    Raises
    ------
    ValueError
        If a part already belongs to another model, or ``order`` is out of range.

    Source: Komar and Kalinic 2020, ACS Combinatorial Science 22, 410 (truncates that share a tag); Gopalan et al. 2015,
    UAI (coordinate ascent in Poisson superpositions).
    """

    queries: ClassVar[dict[str, str | tuple[str, ...]]] = {
        "log_enrichment": "scores",
        "p_enriched": "scores",
        "log_tag_enrichment": "scores",
        "matrix_binding": "scores",
    }
    tables: ClassVar[tuple[str, ...]] = ("enrichment", "hits", "synthons")
    learning_rate = 0.03
    # None where the data have no such arm.
    matrix: Any
    control: Any
    log_kappa: Any

    def __init__(
        self,
        sizes: DELSizes,
        own: SparseGamma | None = None,
        truncate: SparseGamma | None = None,
        matrix: SparseGamma | None = None,
        order: int | None = None,
        likelihood: Likelihood | None = None,
        warm_start: bool = True,
    ) -> None:
        super().__init__(n_obs=sizes.n_obs)
        n_cycles = len(sizes.cycles)
        order = min(2, n_cycles - 1) if order is None else order
        if not 0 <= order < n_cycles:
            raise ValueError(f"order must be a number of building blocks, from 0 to {n_cycles - 1} here; got {order}")
        self.sizes, self.order, self.use_warm_start = sizes, order, warm_start
        self.subsets = [subset for subset in truncates(n_cycles) if len(subset) <= order]
        self.own = _sparse("own", own)
        self.truncates = PyroModule[nn.ModuleDict]({str(k): _sparse("truncate", truncate) for k in range(1, order + 1)})
        self.matrix = _sparse("matrix", matrix) if sizes.n_control else None
        for prior in self._priors().values():
            prior.build(sizes)
        self.local_sites = ("own",) if self.matrix is None else ("matrix", "own")
        chosen = check_part("likelihood", self._default_likelihood() if likelihood is None else likelihood, Likelihood)
        self.target = SelectionArm(chosen, sizes, sizes.n_target)
        self.control = SelectionArm(chosen, sizes, sizes.n_control) if sizes.n_control else None
        self.log_kappa = nn.Parameter(torch.tensor(3.0)) if sizes.n_pre else None
        self.axes = self._axes()

    def _priors(self) -> dict[str, SparseGamma]:
        """The sparse priors by name: "own", "matrix", and "1", "2", ... for truncates of as many building blocks."""
        matrix = {} if self.matrix is None else {"matrix": self.matrix}
        return {"own": self.own, **matrix, **self.truncates}

    def _default_likelihood(self) -> Likelihood:
        # With one replicate, noise between replicates is unknown: overdispersion would be fitted to the binders.
        return NegativeBinomialLikelihood(PerGene(start=2.0)) if self.sizes.n_target > 1 else Poisson()

    def _axes(self) -> dict[str, tuple[str, ...]]:
        cycles = self.sizes.cycles
        axes: dict[str, tuple[str, ...]] = {"x": ("targets",), "x_control": ("controls",), "x_pre": ("pre-selections",)}
        axes |= {f"{name}_{cycle}": (cycle,) for cycle in cycles for name in ("abundance", "yield")}
        axes |= {self.site(subset): tuple(cycles[i] for i in subset) for subset in self.subsets}
        return axes | {"depth": ("targets",), "control_depth": ("controls",), "pre_depth": ("pre-selections",)}

    @property
    def knows_abundance(self) -> bool:
        """Whether there are counts that separate a building block's abundance from its binding."""
        return bool(self.sizes.n_control or self.sizes.n_pre)

    def site(self, subset: tuple[int, ...]) -> str:
        """Name of the site of a truncate's effects."""
        return "_".join(("effect", *(self.sizes.cycles[i] for i in subset)))

    @property
    def latent_site(self) -> str:
        """Name of the site of the compound's own excess survival, g."""
        return "own"

    @property
    def latent_key(self) -> str:
        """Key of the compound's own effect in an AnnData's obsm."""
        return "X_own_excess"

    # The program ----------------------------------------------------------------------------------------------------

    def forward(self, batch: DELBatch) -> None:
        """The generative program over a minibatch."""
        latents = self.sample_global()
        with self.plate(batch):
            if self.matrix is not None:
                latents["matrix"] = pyro.sample("matrix", self.matrix())
            latents["own"] = pyro.sample("own", self.own())
            if batch.pre is not None:
                pyro.sample("x_pre", self.pre_counts(batch, latents), obs=batch.pre)
            if self.control is not None:
                pyro.sample("x_control", self.control_counts(batch, latents), obs=batch.control)
            pyro.sample("x", self.target_counts(batch, latents), obs=batch.x)

    def sample_global(self) -> Latents:
        """Sample the global latents: depths, abundances, yields, and the effects of truncates."""
        latents: Latents = {}
        for name in ("depth", "control_depth", "pre_depth"):
            if known := getattr(self.sizes, name):
                depth = pyro.sample(name, dist.Exponential(1 / self._vector(known)).to_event(1))
                latents[name] = beside_rows(depth, 1)
        for cycle, size in zip(self.sizes.cycles, self.sizes.n_synthons, strict=True):
            if self.knows_abundance:
                shape = self._vector([ABUNDANCE] * size)
                latents[f"abundance_{cycle}"] = pyro.sample(f"abundance_{cycle}", dist.Gamma(shape, shape).to_event(1))
            if self.subsets and not self.sizes.known_yields:
                prior = dist.Beta(*(self._vector([number] * size) for number in YIELD)).to_event(1)
                latents[f"yield_{cycle}"] = pyro.sample(f"yield_{cycle}", prior)
        for subset in self.subsets:
            sizes = [self.sizes.n_synthons[i] for i in subset]
            latents[self.site(subset)] = pyro.sample(self.site(subset), self.truncates[str(len(subset))](sizes))
        return latents

    def _vector(self, values: Any) -> Tensor:
        return self.own.log_mean.new_tensor(list(values))

    def pre_counts(self, batch: DELBatch, latents: Latents) -> TorchDistribution:
        """The distribution of the counts from before the selection, (n, r)."""
        mean = latents["pre_depth"] * self.abundance(batch, latents).unsqueeze(-1)
        return NegativeBinomial(mean, beside_rows(self.log_kappa, 0).exp().unsqueeze(-1)).to_event(1)

    def control_counts(self, batch: DELBatch, latents: Latents) -> TorchDistribution:
        """The distribution of the counts of the control selections, (..., n, r)."""
        exposure = self.exposure(batch, latents) * (1 + latents["matrix"])
        return self.control(latents["control_depth"] * exposure.unsqueeze(-1), batch)

    def target_counts(self, batch: DELBatch, latents: Latents) -> TorchDistribution:
        """The distribution of the counts of the target selections, (..., n, r)."""
        return self.target(self.target_mean(batch, latents), batch)

    def target_mean(self, batch: DELBatch, latents: Latents) -> Tensor:
        """Expected counts of the target selections, (..., n, r)."""
        other_rates = self.other_rates(batch, latents)
        exposure = self.exposure(batch, latents) * (other_rates + self.full_amount(batch, latents) * latents["own"])
        return latents["depth"] * exposure.unsqueeze(-1)

    def abundance(self, batch: DELBatch, latents: Latents) -> Tensor:
        """The product of the building blocks' abundances, (n,)."""
        product = torch.ones_like(batch.x[:, 0])
        for i, cycle in enumerate(self.sizes.cycles if self.knows_abundance else ()):
            product = product * at_levels(latents[f"abundance_{cycle}"], batch.synthons[:, i], 1)
        return product

    def exposure(self, batch: DELBatch, latents: Latents) -> Tensor:
        """The abundance (n,), or its posterior mean given the counts from before the selection, if there are any."""
        e_n = self.abundance(batch, latents)
        if batch.pre is None:
            return e_n
        kappa = beside_rows(self.log_kappa, 0).exp()
        return e_n * (kappa + batch.pre.sum(-1)) / (kappa + latents["pre_depth"].sum(-1) * e_n)

    def yields(self, batch: DELBatch, latents: Latents) -> list[Tensor]:
        """The yield (n,) of each cycle, known or latent."""
        if batch.yields is not None:
            return list(batch.yields.unbind(-1))
        return [at_levels(latents[f"yield_{c}"], batch.synthons[:, i], 1) for i, c in enumerate(self.sizes.cycles)]

    def full_amount(self, batch: DELBatch, latents: Latents) -> Tensor:
        """The share (n,) of the full product in a tag's molecules."""
        if not self.subsets and batch.yields is None:
            return torch.ones_like(batch.x[:, 0])
        return amount(tuple(range(len(self.sizes.cycles))), self.yields(batch, latents))

    def other_rates(self, batch: DELBatch, latents: Latents) -> Tensor:
        """The sum (n,) of all rates of a tag except the compound's own, in multiples of the background."""
        total = 1 + latents["matrix"] if self.matrix is not None else torch.ones_like(batch.x[:, 0])
        return total + self.truncate_rates(batch, latents)

    def truncate_rates(self, batch: DELBatch, latents: Latents) -> Tensor:
        """The sum (n,) of the rates of the truncates with a compound's tag, in multiples of the background."""
        total = torch.zeros_like(batch.x[:, 0])
        yields = self.yields(batch, latents) if self.subsets else []
        for subset in self.subsets:
            total = total + amount(subset, yields) * entries(latents[self.site(subset)], subset, batch.synthons)
        return total

    # Conditional posteriors, for the guide --------------------------------------------------------------------------

    def conditional(self, site: str, batch: DELBatch, latents: Latents) -> TorchDistribution:
        """The posterior (n,) of "matrix", or of "own" given "matrix", given the global latents, by quadrature."""
        if site == "matrix":
            return self._matrix_posterior(batch, latents)
        return self._own_posterior(batch, latents, 16, 17)

    def _own_posterior(self, batch: DELBatch, latents: Latents, wide: int, narrow: int) -> Quadrature:
        """The posterior of g; its evidence (..., n) is that of the target's counts."""
        absent = {**latents, "own": torch.zeros_like(batch.x[:, 0])}
        with torch.no_grad():
            unit = latents["depth"].sum(-1) * self.exposure(batch, latents) * self.full_amount(batch, latents)
            cells = cell_edges([self._peak(self.target_counts(batch, absent), batch.x, unit)], wide, narrow)
        exposure_nr = latents["depth"] * self.exposure(batch, latents).unsqueeze(-1)
        other_rates, amount_n = self.other_rates(batch, latents), self.full_amount(batch, latents)

        def log_joint(own: Tensor) -> Tensor:
            mean = exposure_nr * (other_rates + amount_n * own).unsqueeze(-1)
            return self.own().log_prob(own) + self.target(mean, batch).log_prob(batch.x)

        return Quadrature(cells, log_joint, self.own.concentration)

    def _matrix_posterior(self, batch: DELBatch, latents: Latents) -> Quadrature:
        """The posterior of m given the counts of controls and targets, with g integrated out."""
        control: Any = batch.control
        absent = {**latents, "matrix": torch.zeros_like(batch.x[:, 0])}
        with torch.no_grad():
            exposure = self.exposure(batch, latents)
            of_control = self.control_counts(batch, absent), control, latents["control_depth"].sum(-1) * exposure
            # The target's counts above all other rates may come from matrix binding too.
            absent["own"] = absent["matrix"]
            of_target = self.target_counts(batch, absent), batch.x, latents["depth"].sum(-1) * exposure
            cells = cell_edges([self._peak(*of_control), self._peak(*of_target)], 8, 7)

        def log_joint(matrix: Tensor) -> Tensor:
            given = {**latents, "matrix": matrix}
            log_control = self.control_counts(batch, given).log_prob(control)
            return self.matrix().log_prob(matrix) + log_control + self._own_posterior(batch, given, 7, 8).log_evidence

        return Quadrature(cells, log_joint, self.matrix.concentration)

    @staticmethod
    def _peak(fn: TorchDistribution, x: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Peak and width of the likelihood of a latent, by moments.

        ``fn`` is the distribution of the counts ``x`` where the latent is 0, and ``unit`` is the increase of their
        expected total for each unit of the latent.
        """
        total = x.sum(-1)
        # Relative variance beyond counting noise, evaluated at the mean.
        excess = ((fn.variance - fn.mean).clamp(min=0).sum(-1)) / fn.mean.sum(-1).square().clamp(min=1e-12)
        return (total - fn.mean.sum(-1)) / unit, (total + 1 + excess * total.square()).sqrt() / unit

    def default_guide(self) -> Callable[[CountModel], Guide]:
        """`guides.Conditional`: Gammas over the global latents, with the compounds' latents integrated out."""
        return Conditional

    def default_optimizer(self) -> Callable[[Iterable[Tensor]], Optimizer]:
        """ClippedAdam with `learning_rate`, which falls by 0.3% per step.

        With a constant rate, the noise of the last steps stays in the means of a thousand factors: an error that is not
        part of their standard deviations.
        """
        return partial(ClippedAdam, lr=self.learning_rate, lrd=0.997)

    def default_scheduler(self) -> None:
        """None: the default optimizer lowers the rate itself."""

    def warm_start(self, guide: Guide, dm: RowData) -> None:
        """Initialize guide and priors by coordinate ascent in the Poisson model, unless ``warm_start`` is False."""
        super().warm_start(guide, dm)
        if not self.use_warm_start:
            return
        optimum = CoordinateAscent(self.superposition(), CountTotals(dm)).run(SWEEPS)
        for level, mean in optimum.learned_means().items():
            self._priors()[level].set_mean(mean)
        for site, start in optimum.starts().items():
            start_at(guide, site, start)

    def superposition(self) -> Superposition:
        """The description of the model for coordinate ascent."""
        priors = {
            level: GammaPrior(prior.shape, prior.mean, "mean" in prior.learned)
            for level, prior in self._priors().items()
        }
        effects = {subset: self.site(subset) for subset in self.subsets}
        return Superposition(self.sizes, effects, priors, self.knows_abundance)

    # Queries --------------------------------------------------------------------------------------------------------

    @pyro_method
    def log_enrichment(self, batch: DELBatch, latents: Latents) -> Tensor:
        """Natural log of the compound's own survival over the background, log(1 + g), (n, 1)."""
        own = latents["own"]
        # Counts do not resolve such effects, and draws of a sparse prior reach the smallest float: they count as 0.
        return torch.log1p(own.where(own > SMALLEST, 0.0)).unsqueeze(-1)

    @pyro_method
    def p_enriched(self, batch: DELBatch, latents: Latents, threshold: float = math.log(2)) -> Tensor:
        """Probability (n, 1) that log_enrichment exceeds ``threshold``, given the global latents.

        The compound's own effect and its matrix binding are integrated out rather than drawn: a hit list takes the
        highest probabilities, and would too often select those that are high by the noise of draws.
        """
        if threshold < 0:
            raise ValueError(f"threshold must be a log enrichment over the background, 0 or more; got {threshold}")
        if self.matrix is None:
            p_n = self._own_posterior(batch, latents, 16, 17).cdf(math.expm1(threshold))
        else:
            own = lambda matrix: self._own_posterior(batch, {**latents, "matrix": matrix}, 10, 11)  # noqa: E731
            p_n = self._matrix_posterior(batch, latents).mean_of(lambda matrix: own(matrix).cdf(math.expm1(threshold)))
        return 1 - p_n.unsqueeze(-1)

    @pyro_method
    def log_tag_enrichment(self, batch: DELBatch, latents: Latents) -> Tensor:
        """Natural log of the survival by target binding of all products with the tag, over the background, (n, 1)."""
        own = self.full_amount(batch, latents) * latents["own"]
        return torch.log1p(own + self.truncate_rates(batch, latents)).unsqueeze(-1)

    @pyro_method
    def matrix_binding(self, batch: DELBatch, latents: Latents) -> Tensor:
        """Natural log of the compound's survival without target, over the background, log(1 + m), (n, 1)."""
        return torch.log1p(latents.get("matrix", torch.zeros_like(batch.x[:, 0]))).unsqueeze(-1)


def _sparse(argument: str, prior: SparseGamma | None) -> SparseGamma:
    if prior is None:
        # Under a mean-field guide, the shape fitted to a few effects is one at which none is sparse.
        return SparseGamma(learned=("mean",)) if argument == "truncate" else SparseGamma()
    prior = check_part(argument, prior, SparseGamma)
    return SparseGamma(prior.shape, prior.mean, prior.learned)
