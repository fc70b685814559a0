"""HierarchicalDEL: counts of a DNA-encoded library as a superposition of all products that carry a tag."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule, pyro_method
from torch import Tensor, nn
from torch.optim import Optimizer

from pyro_omics.batch import DELBatch
from pyro_omics.distributions import NegativeBinomial
from pyro_omics.distributions.quadrature import Quadrature
from pyro_omics.guides.conditional import Conditional
from pyro_omics.guides.global_guide import start_at
from pyro_omics.guides.guided_model import Guide
from pyro_omics.models.base import CountModel
from pyro_omics.models.dna_encoded.coordinate_ascent import CoordinateAscent, GammaPrior, Superposition, Tally
from pyro_omics.models.dna_encoded.integration_grid import cell_edges
from pyro_omics.models.dna_encoded.selection_arm import SelectionArm
from pyro_omics.models.dna_encoded.superposition import ABUNDANCE, YIELD, amount, at, truncates
from pyro_omics.optim import ClippedAdam
from pyro_omics.parts.base import check_part
from pyro_omics.parts.dispersions import PerGene
from pyro_omics.parts.likelihoods import Likelihood, Poisson
from pyro_omics.parts.likelihoods import NegativeBinomial as NegativeBinomialLikelihood
from pyro_omics.parts.sparse_effects import SparseGamma
from pyro_omics.schema import RowData
from pyro_omics.sizes import DELSizes

Latents = dict[str, Tensor]
SMALLEST = 1e-6
SWEEPS = 50  # of coordinate ascent


class HierarchicalDEL(CountModel):
    r"""Additive superposition of what carries a compound's tag (design: Poisson superposition with sparse Gammas).

    A tag (a, b, c) is carried by the full product and, where a reaction failed, by truncates. Each survives the
    selection at the library's background rate, or above it by a factor 1 + f:

    .. math::
        u_i &\sim \mathrm{Gamma}(10, 10), \quad y_i \sim \mathrm{Beta}(7, 3), \quad
        w_S = \prod_{i \in S} y_i \prod_{i \notin S} (1 - y_i) \\
        f_S, m_n, g_n &\sim \mathrm{Gamma}(\mathrm{shape}, \mathrm{shape} / \mathrm{mean}) \\
        e_n &= u_a u_b u_c \\
        c_{nr} &\sim \mathrm{NB}(d_r \, e_n (1 + m_n), \theta_r) \\
        x_{nr} &\sim \mathrm{NB}(d_r \, e_n (1 + m_n + \textstyle\sum_S w_S f_S + w_{abc} \, g_n), \theta_r)

    with u the abundance and y the yield of each building block, S the cycles that worked (S not empty, not all), m the
    compound's binding to the matrix, g its own excess over the background, and d the reads of a background compound in
    each selection. Counts p from before the selection, where there are any, are NB(d e_n, kappa), and e_n becomes its
    posterior mean given them, e_n (kappa + p_n) / (kappa + d e_n).

    Without counts of either, nothing tells abundance from binding, and every building block's abundance is 1.

    What is asked for is log(1 + g), the natural log of the compound's own survival over the background. Only the ratios
    of (1 - y) are told by counts; the level of the yields is the prior's, unless they are known.

    Parameters
    ----------
    sizes
        what is known of the data; ``HierarchicalDEL.from_data(dm)`` fills it in.
    own, truncate, matrix
        the sparse priors of g, f and m: `effects.SparseGamma`.
    order
        how many building blocks a truncate may have to be modelled; mono- and disynthons when None. A large library may
        leave disynthons to its compounds, order=1.
    likelihood
        of the counts; when None, `likelihoods.NegativeBinomial` with log theta = 2 at the start, or, where there is one
        target selection only, `likelihoods.Poisson`.
    warm_start
        whether coordinate ascent finds the start, before training.

    Raises
    ------
    ValueError
        For a part that belongs to another model already, and an order that is none.

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
        self.sizes, self.order, self.starts_warm = sizes, order, warm_start
        self.subsets = [subset for subset in truncates(n_cycles) if len(subset) <= order]
        self.own = _sparse("own", own)
        self.truncates = PyroModule[nn.ModuleDict]({str(k): _sparse("truncate", truncate) for k in range(1, order + 1)})
        self.matrix = _sparse("matrix", matrix) if sizes.n_control else None
        for prior in self._priors().values():
            prior.build(sizes)
        self.local_sites = ("own",) if self.matrix is None else ("matrix", "own")
        chosen = check_part("likelihood", self._noise() if likelihood is None else likelihood, Likelihood)
        self.target = SelectionArm(chosen, sizes, sizes.n_target)
        self.control = SelectionArm(chosen, sizes, sizes.n_control) if sizes.n_control else None
        self.log_kappa = nn.Parameter(torch.tensor(3.0)) if sizes.n_pre else None
        self.axes = self._axes()

    def _priors(self) -> dict[str, SparseGamma]:
        """The sparse priors, by what they are of: own effects, matrix binding, truncates of 1, 2, ... blocks."""
        matrix = {} if self.matrix is None else {"matrix": self.matrix}
        return {"own": self.own, **matrix, **self.truncates}

    def _noise(self) -> Likelihood:
        # One replicate says nothing of the noise between replicates: its overdispersion would be fitted to the binders.
        return NegativeBinomialLikelihood(PerGene(start=2.0)) if self.sizes.n_target > 1 else Poisson()

    def _axes(self) -> dict[str, tuple[str, ...]]:
        cycles = self.sizes.cycles
        axes: dict[str, tuple[str, ...]] = {"x": ("targets",), "x_control": ("controls",), "x_pre": ("pre-selections",)}
        axes |= {f"{name}_{cycle}": (cycle,) for cycle in cycles for name in ("abundance", "yield")}
        axes |= {self.site(subset): tuple(cycles[i] for i in subset) for subset in self.subsets}
        return axes | {"depth": ("targets",), "control_depth": ("controls",), "pre_depth": ("pre-selections",)}

    @property
    def knows_abundance(self) -> bool:
        """Whether any counts tell a building block's abundance from its binding."""
        return bool(self.sizes.n_control or self.sizes.n_pre)

    def site(self, subset: tuple[int, ...]) -> str:
        """The name of the site of a truncate's effects."""
        return "_".join(("effect", *(self.sizes.cycles[i] for i in subset)))

    @property
    def latent_site(self) -> str:
        """The compound's own excess survival, g."""
        return "own"

    @property
    def latent_key(self) -> str:
        """Where the compound's own effect is written in an AnnData's obsm."""
        return "X_own_excess"

    # The program ----------------------------------------------------------------------------------------------------

    def forward(self, batch: DELBatch) -> None:
        """The generative program over a minibatch."""
        latents = self.shared()
        with self.plate(batch):
            if self.matrix is not None:
                latents["matrix"] = pyro.sample("matrix", self.matrix())
            latents["own"] = pyro.sample("own", self.own())
            if batch.pre is not None:
                pyro.sample("x_pre", self.pre_counts(batch, latents), obs=batch.pre)
            if self.control is not None:
                pyro.sample("x_control", self.control_counts(batch, latents), obs=batch.control)
            pyro.sample("x", self.target_counts(batch, latents), obs=batch.x)

    def shared(self) -> Latents:
        """Sample the latents of the library: depths, abundances, yields, and the effects of truncates."""
        latents: Latents = {}
        for name in ("depth", "control_depth", "pre_depth"):
            if known := getattr(self.sizes, name):
                latents[name] = pyro.sample(name, dist.Exponential(1 / self._vector(known)).to_event(1))
        for cycle, size in zip(self.sizes.cycles, self.sizes.n_synthons, strict=True):
            if self.knows_abundance:
                shape = self._vector([ABUNDANCE] * size)
                latents[f"abundance_{cycle}"] = pyro.sample(f"abundance_{cycle}", dist.Gamma(shape, shape).to_event(1))
            if self.subsets and not self.sizes.known_yields:
                prior = dist.Beta(*(self._vector([number] * size) for number in YIELD)).to_event(1)
                latents[f"yield_{cycle}"] = pyro.sample(f"yield_{cycle}", prior)
        for subset in self.subsets:
            sizes = [self.sizes.n_synthons[i] for i in subset]
            prior = self.truncates[str(len(subset))]().expand(sizes).to_event(len(sizes))
            latents[self.site(subset)] = pyro.sample(self.site(subset), prior)
        return latents

    def _vector(self, values: Any) -> Tensor:
        return self.own.log_mean.new_tensor(list(values))

    def pre_counts(self, batch: DELBatch, latents: Latents) -> TorchDistribution:
        """The counts from before the selection (n, r)."""
        mean = latents["pre_depth"] * self.abundance(batch, latents).unsqueeze(-1)
        return NegativeBinomial(mean, self.log_kappa.exp()).to_event(1)

    def control_counts(self, batch: DELBatch, latents: Latents) -> TorchDistribution:
        """The counts of the control selections, (..., n, r)."""
        exposure = self.exposure(batch, latents) * (1 + latents["matrix"])
        return self.control(latents["control_depth"] * exposure.unsqueeze(-1), batch)

    def target_counts(self, batch: DELBatch, latents: Latents) -> TorchDistribution:
        """The counts of the target selections, (..., n, r)."""
        return self.target(self.target_mean(batch, latents), batch)

    def target_mean(self, batch: DELBatch, latents: Latents) -> Tensor:
        """Expected counts of the target selections, (..., n, r)."""
        beside = self.beside(batch, latents)
        exposure = self.exposure(batch, latents) * (beside + self.full_amount(batch, latents) * latents["own"])
        return latents["depth"] * exposure.unsqueeze(-1)

    def abundance(self, batch: DELBatch, latents: Latents) -> Tensor:
        """The product of the building blocks' abundances, (n,)."""
        product = torch.ones_like(batch.x[:, 0])
        for i, cycle in enumerate(self.sizes.cycles if self.knows_abundance else ()):
            product = product * latents[f"abundance_{cycle}"][batch.synthons[:, i]]
        return product

    def exposure(self, batch: DELBatch, latents: Latents) -> Tensor:
        """The abundance (n,), given the counts from before the selection where there are any."""
        e_n = self.abundance(batch, latents)
        if batch.pre is None:
            return e_n
        kappa = self.log_kappa.exp()
        return e_n * (kappa + batch.pre.sum(-1)) / (kappa + latents["pre_depth"].sum() * e_n)

    def yields(self, batch: DELBatch, latents: Latents) -> list[Tensor]:
        """Each cycle's yield, known or latent, (n,)."""
        if batch.yields is not None:
            return list(batch.yields.unbind(-1))
        return [latents[f"yield_{cycle}"][batch.synthons[:, i]] for i, cycle in enumerate(self.sizes.cycles)]

    def full_amount(self, batch: DELBatch, latents: Latents) -> Tensor:
        """The share (n,) of a tag's molecules that are the full product."""
        if not self.subsets and batch.yields is None:
            return torch.ones_like(batch.x[:, 0])
        return amount(tuple(range(len(self.sizes.cycles))), self.yields(batch, latents))

    def beside(self, batch: DELBatch, latents: Latents) -> Tensor:
        """What a tag's reads come from beside the compound itself (n,), the background being 1."""
        total = 1 + latents["matrix"] if self.matrix is not None else torch.ones_like(batch.x[:, 0])
        return total + self.truncated(batch, latents)

    def truncated(self, batch: DELBatch, latents: Latents) -> Tensor:
        """What the truncates with a compound's tag add, (n,), in multiples of the background."""
        total = torch.zeros_like(batch.x[:, 0])
        yields = self.yields(batch, latents) if self.subsets else []
        for subset in self.subsets:
            total = total + amount(subset, yields) * at(latents[self.site(subset)], subset, batch.synthons)
        return total

    # The guide's half -----------------------------------------------------------------------------------------------

    def conditional(self, site: str, batch: DELBatch, latents: Latents) -> TorchDistribution:
        """The posterior (n,) of "matrix", or of "own" given it, given the latents of the library: by quadrature."""
        return self._matrix_given(batch, latents) if site == "matrix" else self._own_given(batch, latents, 16, 17)

    def _own_given(self, batch: DELBatch, latents: Latents, wide: int, narrow: int) -> Quadrature:
        """The posterior of g; its evidence is that of the target's counts (..., n)."""
        none = {**latents, "own": torch.zeros_like(batch.x[:, 0])}
        with torch.no_grad():
            unit = latents["depth"].sum() * self.exposure(batch, latents) * self.full_amount(batch, latents)
            cells = cell_edges([self._peak(self.target_counts(batch, none), batch.x, unit)], wide, narrow)
        exposure_nr = latents["depth"] * self.exposure(batch, latents).unsqueeze(-1)
        beside, amount_n = self.beside(batch, latents), self.full_amount(batch, latents)

        def log_joint(own: Tensor) -> Tensor:
            mean = exposure_nr * (beside + amount_n * own).unsqueeze(-1)
            return self.own().log_prob(own) + self.target(mean, batch).log_prob(batch.x)

        return Quadrature(cells, log_joint, self.own.concentration)

    def _matrix_given(self, batch: DELBatch, latents: Latents) -> Quadrature:
        """The posterior of m, g being summed out of what the target's counts say of it."""
        control: Any = batch.control
        none = {**latents, "matrix": torch.zeros_like(batch.x[:, 0])}
        with torch.no_grad():
            exposure = self.exposure(batch, latents)
            of_control = self.control_counts(batch, none), control, latents["control_depth"].sum() * exposure
            # All that the target's counts have above the rest may be matrix binding too.
            none["own"] = none["matrix"]
            of_target = self.target_counts(batch, none), batch.x, latents["depth"].sum() * exposure
            cells = cell_edges([self._peak(*of_control), self._peak(*of_target)], 8, 7)

        def log_joint(matrix: Tensor) -> Tensor:
            given = {**latents, "matrix": matrix}
            log_control = self.control_counts(batch, given).log_prob(control)
            return self.matrix().log_prob(matrix) + log_control + self._own_given(batch, given, 7, 8).log_evidence

        return Quadrature(cells, log_joint, self.matrix.concentration)

    @staticmethod
    def _peak(fn: TorchDistribution, x: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Where a latent's likelihood peaks, and how broadly, by moments.

        ``unit`` is what one unit of the latent adds to the expected total of the counts ``x``; ``fn`` has it at 0.
        """
        total = x.sum(-1)
        # Relative variance beyond counting noise, as it is at the mean.
        excess = ((fn.variance - fn.mean).clamp(min=0).sum(-1)) / fn.mean.sum(-1).square().clamp(min=1e-12)
        return (total - fn.mean.sum(-1)) / unit, (total + 1 + excess * total.square()).sqrt() / unit

    def default_guide(self) -> Callable[[CountModel], Guide]:
        """`guides.Conditional`: Gammas over the library's latents, each compound's summed out."""
        return Conditional

    def default_optimizer(self) -> Callable[[Iterable[Tensor]], Optimizer]:
        """ClippedAdam at `learning_rate`, which falls by 0.3% a step.

        A constant one leaves the means of a thousand factors where the last steps threw them: an error that no factor's
        own spread accounts for.
        """
        return partial(ClippedAdam, lr=self.learning_rate, lrd=0.997)

    def warm_start(self, guide: Guide, dm: RowData) -> None:
        """Start guide and priors at the optimum of coordinate ascent in the Poisson model, if asked to."""
        super().warm_start(guide, dm)
        if not self.starts_warm:
            return
        optimum = CoordinateAscent(self.superposition(), Tally(dm)).run(SWEEPS)
        for level, mean in optimum.learned_means().items():
            self._priors()[level].set_mean(mean)
        for site, start in optimum.starts().items():
            start_at(guide, site, start)

    def superposition(self) -> Superposition:
        """What coordinate ascent must know of the model."""
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
        # Far below what counts tell, and where the draws of a sparse prior reach the smallest float: 0.
        return torch.log1p(own.where(own > SMALLEST, 0.0)).unsqueeze(-1)

    @pyro_method
    def p_enriched(self, batch: DELBatch, latents: Latents, threshold: float = math.log(2)) -> Tensor:
        """Probability (n, 1) that log_enrichment exceeds ``threshold``, given the latents of the library.

        The compound's own effect and its matrix binding are summed out: a list is of the highest probabilities, and
        those that draws of them carried too high would be chosen too often.
        """
        if threshold < 0:
            raise ValueError(f"threshold must be a log enrichment over the background, 0 or more; got {threshold}")
        if self.matrix is None:
            p_n = self._own_given(batch, latents, 16, 17).cdf(math.expm1(threshold))
        else:
            own = lambda matrix: self._own_given(batch, {**latents, "matrix": matrix}, 10, 11)  # noqa: E731
            p_n = self._matrix_given(batch, latents).mean_of(lambda matrix: own(matrix).cdf(math.expm1(threshold)))
        return 1 - p_n.unsqueeze(-1)

    @pyro_method
    def log_tag_enrichment(self, batch: DELBatch, latents: Latents) -> Tensor:
        """Natural log of all that carries the tag and binds the target, over the background, (n, 1)."""
        own = self.full_amount(batch, latents) * latents["own"]
        return torch.log1p(own + self.truncated(batch, latents)).unsqueeze(-1)

    @pyro_method
    def matrix_binding(self, batch: DELBatch, latents: Latents) -> Tensor:
        """Natural log of the compound's survival without target over the background, log(1 + m), (n, 1)."""
        return torch.log1p(latents.get("matrix", torch.zeros_like(batch.x[:, 0]))).unsqueeze(-1)


def _sparse(argument: str, prior: SparseGamma | None) -> SparseGamma:
    if prior is None:
        # Under a mean-field guide the shape of a few effects is fitted badly: to where none of them is sparse.
        return SparseGamma(learned=("mean",)) if argument == "truncate" else SparseGamma()
    prior = check_part(argument, prior, SparseGamma)
    return SparseGamma(prior.shape, prior.mean, prior.learned)
