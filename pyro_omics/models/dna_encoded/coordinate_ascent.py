"""Coordinate ascent in a Poisson superposition with Gamma priors: the warm start of `HierarchicalDEL`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_omics.batch import DELBatch
from pyro_omics.models.dna_encoded.superposition import ABUNDANCE, YIELD, Subset, amount, entries, member_sums
from pyro_omics.schema import RowData
from pyro_omics.sizes import DELSizes

Gammas = tuple[Tensor, Tensor]  # shape, rate
MIN_MEAN = 0.05  # of a prior: with a lower mean, existing effects could not grow again
BURN_IN = 20  # sweeps before the priors' means are updated
CHUNK = 65_536  # rows read at a time


@dataclass(frozen=True)
class GammaPrior:
    """Gamma(shape, shape / mean) prior; if ``learned``, the mean is fitted to the effects."""

    shape: float
    mean: float
    learned: bool


@dataclass(frozen=True)
class Superposition:
    """Description of the model for coordinate ascent.

    Attributes
    ----------
    sizes
        sizes of the data.
    effects
        modelled truncates, as the cycles that worked -> the site of their effects.
    priors
        priors of the compounds' own effects ("own"), of matrix binding ("matrix", if there are controls), and of the
        effects of truncates, by their number of building blocks ("1", "2", ...).
    knows_abundance
        whether there are counts that separate a building block's abundance from its binding.
    """

    sizes: DELSizes
    effects: Mapping[Subset, str]
    priors: Mapping[str, GammaPrior]
    knows_abundance: bool


class CountTotals:
    """Counts of the compounds that have any, summed over replicates.

    Parameters
    ----------
    dm
        the DataModule; its training rows are read in chunks.

    Attributes
    ----------
    codes
        (k, cycles) building blocks of the k compounds with counts.
    x, control, pre
        (k,) totals over replicates.
    yields
        for each cycle, the known yields (k,); None if they are not known.
    n_rows
        number of training rows, with counts or without.
    """

    def __init__(self, dm: RowData) -> None:
        parts = []
        rows = dm.rows("training")
        for batch in dm.data.batches(rows, CHUNK):
            sums = [torch.zeros(len(batch.index)) if arm is None else arm.sum(-1) for arm in _arms(batch)]
            has_counts = torch.stack(sums).sum(0) > 0
            # In double precision, because shares of small counts are summed over a library.
            parts.append(
                [
                    batch.synthons[has_counts],
                    *(total[has_counts].double() for total in sums),
                    *_yields(batch, has_counts),
                ]
            )
        self.codes, self.x, self.control, self.pre, *yields = (torch.cat(part) for part in zip(*parts, strict=True))
        self.yields = list(yields[0].unbind(-1)) if yields else None
        self.n_rows = len(rows)

    def by_member(self, values: Tensor, subset: Subset, sizes: tuple[int, ...]) -> Tensor:
        """Sums of ``values`` (k,) over the compounds, grouped by their building blocks in the cycles of ``subset``."""
        shape = [sizes[i] for i in subset]
        flat = torch.zeros(len(values), dtype=torch.long)
        for i, size in zip(subset, shape, strict=True):
            flat = flat * size + self.codes[:, i]
        return torch.zeros(math.prod(shape), dtype=values.dtype).index_add_(0, flat, values).reshape(shape)


def _arms(batch: DELBatch) -> tuple[Tensor | None, ...]:
    return batch.x, batch.control, batch.pre


def _yields(batch: DELBatch, has_counts: Tensor) -> list[Tensor]:
    return [] if batch.yields is None else [batch.yields[has_counts].double()]


class CoordinateAscent:
    r"""Mean-field optimum of the model with Poisson counts, summed over replicates.

    Each count is split over its sources in proportion to exp E log of their rates. The Gamma of a source is then its
    prior, with the source's counts added to the shape and its exposure to the rate. The cost of a sweep is linear in
    the number of compounds with counts: sums over all others are computed as in a full grid, as products of sums over
    building blocks. Yields are set to their mode.

    Parameters
    ----------
    model
        description of the model.
    totals
        counts of the compounds.

    Source: Gopalan et al. 2015, UAI, algorithm 1.
    """

    def __init__(self, model: Superposition, totals: CountTotals) -> None:
        self.model, self.totals, self.sizes = model, totals, model.sizes.n_synthons
        self.n_cycles = len(self.sizes)
        self.full = tuple(range(self.n_cycles))
        self.coverage = totals.n_rows / math.prod(self.sizes)  # share of the full grid that is in the library
        self.depths = [max(float(arm.sum()) / totals.n_rows, 1e-6) for arm in (totals.x, totals.control, totals.pre)]
        self.abundance = [self._start(i) for i in range(self.n_cycles)]
        self.yields = [torch.full((size,), 0.7, dtype=torch.float64) for size in self.sizes]
        if totals.yields is not None:
            self.yields = [self._mean_yield(i, y) for i, y in enumerate(totals.yields)]
        self.depths[0] = self._background()
        self.means = {level: prior.mean for level, prior in model.priors.items()}
        self.own: Gammas = self._initial_gammas(0.1 * totals.x, "own")
        self.matrix: Gammas | None = None
        if "matrix" in model.priors:
            self.matrix = self._initial_gammas(0.1 * totals.control, "matrix")
        self.effects: dict[Subset, Gammas] = {}
        for subset in model.effects:
            counts = totals.by_member(totals.x, subset, self.sizes)
            exposure = member_sums(subset, self._factors(subset)) * self.coverage
            # Only counts above the background, which explains what all members share.
            above = (counts - self.depths[0] * member_sums(subset, self.abundance) * self.coverage).clamp(min=0)
            self.effects[subset] = self._initial_gammas(0.3 * above, str(len(subset)), exposure)

    def _start(self, i: int) -> Tensor:
        """Initial abundance of the building blocks: from counts before the selection, else of controls, else 1."""
        totals = self.totals
        counts = totals.pre if totals.pre.any() else totals.control if totals.control.any() else None
        if counts is None:
            return torch.ones(self.sizes[i], dtype=torch.float64)
        by_block = totals.by_member(counts, (i,), self.sizes)
        return (by_block + 1) / (by_block + 1).mean()

    def _background(self) -> float:
        """Reads of a background compound: a low quantile of the means over the members of the largest truncates."""
        order = max(map(len, self.model.effects), default=0)
        largest = [s for s in self.model.effects if len(s) == order] or [(i,) for i in self.full]
        means = []
        for subset in largest:
            counts = self.totals.by_member(self.totals.x, subset, self.sizes)
            means.append((counts / (member_sums(subset, self.abundance) * self.coverage)).flatten())
        return max(float(torch.cat(means).quantile(0.25)), 0.01 * self.depths[0])

    def _mean_yield(self, i: int, y: Tensor) -> Tensor:
        total = self.totals.by_member(y, (i,), self.sizes)
        number = self.totals.by_member(torch.ones_like(y), (i,), self.sizes)
        return torch.where(number > 0, total / number.clamp(min=1), y.mean())

    def _prior(self, level: str) -> tuple[float, float]:
        shape = self.model.priors[level].shape
        return shape, shape / self.means[level]

    def _initial_gammas(self, counts: Tensor, level: str, exposure: Tensor | float = 1.0) -> Gammas:
        shape, rate = self._prior(level)
        return shape + counts, torch.full_like(counts, rate) + self.depths[0] * exposure

    # One sweep ------------------------------------------------------------------------------------------------------

    def run(self, sweeps: int) -> CoordinateAscent:
        """Update all blocks of variables, ``sweeps`` times."""
        for sweep in range(sweeps):
            self._split()
            self._update_effects()
            self._update_yields()
            self._update_abundance()
            self._update_depths()
            if sweep >= BURN_IN:
                self._update_means()
        return self

    def _split(self) -> None:
        """Split each compound's counts over their sources."""
        codes = self.totals.codes
        y = self._row_yields()
        shares = {s: amount(s, y) * entries(_exp_log(gammas), s, codes) for s, gammas in self.effects.items()}
        own = self.row_amount(y) * _exp_log(self.own)
        matrix = torch.zeros_like(own) if self.matrix is None else _exp_log(self.matrix)
        per_share = self.totals.x / (1 + own + matrix + sum(shares.values(), torch.zeros_like(own)))
        self.own_counts = per_share * own
        self.matrix_counts = per_share * matrix + self.totals.control * matrix / (1 + matrix)
        self.counts = {s: self.totals.by_member(per_share * share, s, self.sizes) for s, share in shares.items()}
        self.rest_counts = {  # by the building blocks of each cycle that failed
            (s, i): self.totals.by_member(per_share * share, (i,), self.sizes)
            for s, share in shares.items() for i in self.full if i not in s
        }  # fmt: skip

    def _row_yields(self) -> list[Tensor]:
        if self.totals.yields is not None:
            return self.totals.yields
        return [y[self.totals.codes[:, i]] for i, y in enumerate(self.yields)]

    def row_amount(self, y: list[Tensor]) -> Tensor:
        """The share (k,) of the full product in a tag's molecules."""
        if not self.model.effects and self.totals.yields is None:
            return torch.ones_like(self.totals.x)
        return amount(self.full, y)

    def row_abundance(self) -> Tensor:
        """The product (k,) of the building blocks' abundances."""
        return math.prod(u[self.totals.codes[:, i]] for i, u in enumerate(self.abundance))  # type: ignore[return-value]

    def _factors(self, subset: Subset) -> list[Tensor]:
        pairs = enumerate(zip(self.abundance, self.yields, strict=True))
        return [u * (y if i in subset else 1 - y) for i, (u, y) in pairs]

    def _update_effects(self) -> None:
        depth, control, _ = self.depths
        exposure = self.row_abundance()
        shape, rate = self._prior("own")
        self.own = shape + self.own_counts, rate + depth * exposure * self.row_amount(self._row_yields())
        if self.matrix is not None:
            shape, rate = self._prior("matrix")
            self.matrix = shape + self.matrix_counts, rate + (depth + control) * exposure
        for subset, counts in self.counts.items():
            shape, rate = self._prior(str(len(subset)))
            amounts = member_sums(subset, self._factors(subset)) * self.coverage
            self.effects[subset] = shape + counts, rate + depth * amounts

    def _update_yields(self) -> None:
        """Take Newton steps in the logits of the yields; their level is determined by the prior."""
        if self.totals.yields is not None or not self.model.effects:
            return
        for i in self.full:
            worked, failed = self._yield_terms(i)
            logit = torch.logit(self.yields[i])
            (n1, a1), (n0, a0) = worked, failed
            n1, n0 = n1 + YIELD[0], n0 + YIELD[1]
            for _ in range(3):
                y = torch.sigmoid(logit)
                gradient = n1 * (1 - y) - n0 * y - (a1 - a0) * y * (1 - y)
                curvature = (n1 + n0) * y * (1 - y) + (a1 - a0).abs() * y * (1 - y)
                logit = logit + (gradient / curvature.clamp(min=1e-6)).clamp(-1, 1)
            self.yields[i] = torch.sigmoid(logit.clamp(-4, 4))

    def _yield_terms(self, i: int) -> tuple[Gammas, Gammas]:
        """Counts and exposures of the products in which cycle i worked (at yield 1) and failed (at yield 0)."""
        y = self.yields[i]
        own_mean = self.own[0] / self.own[1]
        full = self.row_abundance() * amount(self.full, self._row_yields()) * own_mean
        n1 = self.totals.by_member(self.own_counts, (i,), self.sizes)
        a1 = self.totals.by_member(full, (i,), self.sizes) / y
        n0, a0 = torch.zeros_like(n1), torch.zeros_like(n1)
        for subset, gammas in self.effects.items():
            rates = gammas[0] / gammas[1] * member_sums(subset, self._factors(subset)) * self.coverage
            if i in subset:
                n1 = n1 + _sum_to_cycle(self.counts[subset], subset, i)
                a1 = a1 + _sum_to_cycle(rates, subset, i) / y
            else:
                factor = self._factors(subset)[i]
                n0 = n0 + self.rest_counts[subset, i]
                a0 = a0 + rates.sum() * (factor / factor.sum()) / (1 - y)
        depth = self.depths[0]
        return (n1, depth * a1), (n0, depth * a0)

    def _update_abundance(self) -> None:
        if not self.model.knows_abundance:
            return
        totals, (depth, control, pre) = self.totals, self.depths
        e = self.row_abundance()
        own = depth * e * self.row_amount(self._row_yields()) * self.own[0] / self.own[1]
        if self.matrix is not None:
            own = own + (depth + control) * e * self.matrix[0] / self.matrix[1]
        flat = depth + (control if totals.control.any() else 0) + (pre if totals.pre.any() else 0)
        for i in self.full:
            observed = totals.by_member(totals.x + totals.control + totals.pre, (i,), self.sizes)
            background = flat * member_sums((i,), self.abundance) * self.coverage
            expected = background + totals.by_member(own, (i,), self.sizes)
            for subset, gammas in self.effects.items():
                rates = depth * gammas[0] / gammas[1] * member_sums(subset, self._factors(subset)) * self.coverage
                if i in subset:
                    expected = expected + _sum_to_cycle(rates, subset, i)
                else:
                    factor = self._factors(subset)[i]
                    expected = expected + rates.sum() * factor / factor.sum()
            u = (ABUNDANCE + observed) / (ABUNDANCE + expected / self.abundance[i])
            self.abundance[i] = u / u.mean()

    def _update_depths(self) -> None:
        totals = self.totals
        e = self.row_abundance()
        base = float(member_sums((0,), self.abundance).sum()) * self.coverage
        own = float((e * self.row_amount(self._row_yields()) * self.own[0] / self.own[1]).sum())
        matrix = 0.0 if self.matrix is None else float((e * self.matrix[0] / self.matrix[1]).sum())
        shared = sum(
            float((g[0] / g[1] * member_sums(s, self._factors(s))).sum()) * self.coverage
            for s, g in self.effects.items()
        )
        self.depths = [
            float(totals.x.sum()) / (base + own + matrix + shared),
            float(totals.control.sum()) / (base + matrix),
            float(totals.pre.sum()) / base,
        ]

    def _update_means(self) -> None:
        """Set each learned mean of a prior to the mean of its effects."""
        unseen = self.totals.n_rows - len(self.totals.x)
        for level, gammas in (("own", self.own), ("matrix", self.matrix)):
            if gammas is None or not self.model.priors[level].learned:
                continue
            shape, _ = self._prior(level)
            rest = unseen * shape / float(gammas[1].mean())  # of compounds without counts
            self.means[level] = max((float((gammas[0] / gammas[1]).sum()) + rest) / self.totals.n_rows, MIN_MEAN)
        for level in {str(len(subset)) for subset in self.effects}:
            if self.model.priors[level].learned:
                means = [(g[0] / g[1]).flatten() for s, g in self.effects.items() if str(len(s)) == level]
                self.means[level] = max(float(torch.cat(means).mean()), MIN_MEAN)

    # Results --------------------------------------------------------------------------------------------------------

    def learned_means(self) -> dict[str, float]:
        """Learned means of priors, by name as in `Superposition.priors`."""
        return {level: self.means[level] for level, prior in self.model.priors.items() if prior.learned}

    def starts(self) -> dict[str, dist.Gamma]:
        """Initial values of a guide's factors of the global latents, by site.

        The yields are not among them: here they also absorb effects that the Poisson model lacks, and training does not
        bring them back.
        """
        model, totals = self.model, self.totals
        found = {model.effects[s]: dist.Gamma(*(p.float() for p in g)) for s, g in self.effects.items()}
        arms = zip(
            ("depth", "control_depth", "pre_depth"), self.depths, (totals.x, totals.control, totals.pre), strict=True
        )
        for name, pooled, counts in arms:
            known = torch.tensor(getattr(model.sizes, name))
            if len(known):
                share = known / known.sum()
                concentration = (float(counts.sum()) * share).clamp(min=1.0)
                found[name] = dist.Gamma(concentration, concentration / (pooled * share))
        if model.knows_abundance:
            everything = totals.x + totals.control + totals.pre
            for i, cycle in enumerate(model.sizes.cycles):
                counts = ABUNDANCE + totals.by_member(everything, (i,), self.sizes)
                found[f"abundance_{cycle}"] = dist.Gamma(counts.float(), (counts / self.abundance[i]).float())
        return found


def _exp_log(gammas: Gammas) -> Tensor:
    """exp(E[log f]) for f ~ Gamma."""
    return (torch.digamma(gammas[0]) - gammas[1].log()).exp()


def _sum_to_cycle(table: Tensor, subset: Subset, i: int) -> Tensor:
    """Sums of a subset's table over all cycles except i."""
    others = [axis for axis, j in enumerate(subset) if j != i]
    return table.sum(others) if others else table
