"""Coordinate ascent in a Poisson superposition with Gamma priors: the warm start of `HierarchicalDEL`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_omics.batch import DELBatch
from pyro_omics.models.dna_encoded.superposition import ABUNDANCE, YIELD, Subset, amount, at, of_members
from pyro_omics.schema import RowData
from pyro_omics.sizes import DELSizes

Gammas = tuple[Tensor, Tensor]  # shape, rate
LEAST = 0.05  # of a prior's mean: below, effects that are there could not come back
BURN_IN = 20  # sweeps before the priors' means move
CHUNK = 65_536  # rows read at once


@dataclass(frozen=True)
class GammaPrior:
    """Gamma(shape, shape / mean); ``learned`` says whether the mean is to move to that of what it is a prior of."""

    shape: float
    mean: float
    learned: bool


@dataclass(frozen=True)
class Superposition:
    """The model whose optimum is sought.

    Attributes
    ----------
    sizes
        of the data.
    effects
        the truncates that are modelled, by the cycles that worked, and the name of the site of each one's effects.
    priors
        of the compounds' own effects ("own"), of matrix binding ("matrix", where there are controls), and of the
        effects of truncates, by their number of building blocks ("1", "2", ...).
    knows_abundance
        whether any counts tell a building block's abundance from its binding.
    """

    sizes: DELSizes
    effects: Mapping[Subset, str]
    priors: Mapping[str, GammaPrior]
    knows_abundance: bool


class Tally:
    """The compounds with counts, whose replicates are summed: what memory goes to.

    Parameters
    ----------
    dm
        the DataModule, whose training rows are read in chunks.

    Attributes
    ----------
    codes
        (k, cycles).
    x, control, pre
        (k,) totals over replicates.
    totals
        of each selection: lists of tensors (r,).
    """

    def __init__(self, dm: RowData) -> None:
        parts = []
        rows = dm.rows("training")
        for batch in dm.data.batches(rows, CHUNK):
            sums = [torch.zeros(len(batch.index)) if arm is None else arm.sum(-1) for arm in _arms(batch)]
            some = torch.stack(sums).sum(0) > 0
            # In double precision: shares of small counts add up over a library.
            parts.append([batch.synthons[some], *(total[some].double() for total in sums), *_yields(batch, some)])
        self.codes, self.x, self.control, self.pre, *yields = (torch.cat(part) for part in zip(*parts, strict=True))
        self.yields = list(yields[0].unbind(-1)) if yields else None
        self.n_rows = len(rows)

    def by_member(self, values: Tensor, subset: Subset, sizes: tuple[int, ...]) -> Tensor:
        """Sums of (k,) values over the compounds of each member of a subset."""
        shape = [sizes[i] for i in subset]
        flat = torch.zeros(len(values), dtype=torch.long)
        for i, size in zip(subset, shape, strict=True):
            flat = flat * size + self.codes[:, i]
        return torch.zeros(math.prod(shape), dtype=values.dtype).index_add_(0, flat, values).reshape(shape)


def _arms(batch: DELBatch) -> tuple[Tensor | None, ...]:
    return batch.x, batch.control, batch.pre


def _yields(batch: DELBatch, some: Tensor) -> list[Tensor]:
    return [] if batch.yields is None else [batch.yields[some].double()]


class CoordinateAscent:
    r"""Mean-field optimum of the model with Poisson counts, replicates summed.

    Each count is split over its sources in proportion to exp E log of their rates, and a source's Gamma is then its
    prior with its counts added to the shape and its exposure to the rate. A sweep costs what the compounds with counts
    cost; sums over all others are products of sums over building blocks, as in a full grid. Yields move to their mode.

    Parameters
    ----------
    model
        its sizes, effects and priors.
    tally
        the counts.

    Source: Gopalan et al. 2015, UAI, algorithm 1.
    """

    def __init__(self, model: Superposition, tally: Tally) -> None:
        self.model, self.tally, self.sizes = model, tally, model.sizes.n_synthons
        self.n_cycles = len(self.sizes)
        self.full = tuple(range(self.n_cycles))
        self.fill = tally.n_rows / math.prod(self.sizes)  # below 1 where a library is no full grid
        self.depths = [max(float(arm.sum()) / tally.n_rows, 1e-6) for arm in (tally.x, tally.control, tally.pre)]
        self.abundance = [self._start(i) for i in range(self.n_cycles)]
        self.yields = [torch.full((size,), 0.7, dtype=torch.float64) for size in self.sizes]
        if tally.yields is not None:
            self.yields = [self._mean_yield(i, y) for i, y in enumerate(tally.yields)]
        self.depths[0] = self._background()
        self.means = {level: prior.mean for level, prior in model.priors.items()}
        self.own: Gammas = self._broad(0.1 * tally.x, "own")
        self.matrix: Gammas | None = None
        if "matrix" in model.priors:
            self.matrix = self._broad(0.1 * tally.control, "matrix")
        self.effects: dict[Subset, Gammas] = {}
        for subset in model.effects:
            counts = tally.by_member(tally.x, subset, self.sizes)
            exposure = of_members(subset, self._factors(subset)) * self.fill
            # Only what stands out: what all members share is the background's.
            above = (counts - self.depths[0] * of_members(subset, self.abundance) * self.fill).clamp(min=0)
            self.effects[subset] = self._broad(0.3 * above, str(len(subset)), exposure)

    def _start(self, i: int) -> Tensor:
        """A building block's abundance by the counts that do not bind, where there are such."""
        tally = self.tally
        counts = tally.pre if tally.pre.any() else tally.control if tally.control.any() else None
        if counts is None:
            return torch.ones(self.sizes[i], dtype=torch.float64)
        totals = tally.by_member(counts, (i,), self.sizes)
        return (totals + 1) / (totals + 1).mean()

    def _background(self) -> float:
        """Reads of a compound of which little binds: a low quantile of the means of the largest truncates' members."""
        order = max(map(len, self.model.effects), default=0)
        largest = [s for s in self.model.effects if len(s) == order] or [(i,) for i in self.full]
        means = []
        for subset in largest:
            counts = self.tally.by_member(self.tally.x, subset, self.sizes)
            means.append((counts / (of_members(subset, self.abundance) * self.fill)).flatten())
        return max(float(torch.cat(means).quantile(0.25)), 0.01 * self.depths[0])

    def _mean_yield(self, i: int, y: Tensor) -> Tensor:
        total = self.tally.by_member(y, (i,), self.sizes)
        number = self.tally.by_member(torch.ones_like(y), (i,), self.sizes)
        return torch.where(number > 0, total / number.clamp(min=1), y.mean())

    def _prior(self, level: str) -> tuple[float, float]:
        shape = self.model.priors[level].shape
        return shape, shape / self.means[level]

    def _broad(self, counts: Tensor, level: str, exposure: Tensor | float = 1.0) -> Gammas:
        shape, rate = self._prior(level)
        return shape + counts, torch.full_like(counts, rate) + self.depths[0] * exposure

    # One sweep ------------------------------------------------------------------------------------------------------

    def run(self, sweeps: int) -> CoordinateAscent:
        """Sweep over all blocks, ``sweeps`` times."""
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
        """Each compound's counts over their sources."""
        codes = self.tally.codes
        y = self._row_yields()
        shares = {s: amount(s, y) * at(_exp_log(gammas), s, codes) for s, gammas in self.effects.items()}
        own = self.row_amount(y) * _exp_log(self.own)
        matrix = torch.zeros_like(own) if self.matrix is None else _exp_log(self.matrix)
        per_share = self.tally.x / (1 + own + matrix + sum(shares.values(), torch.zeros_like(own)))
        self.own_counts = per_share * own
        self.matrix_counts = per_share * matrix + self.tally.control * matrix / (1 + matrix)
        self.counts = {s: self.tally.by_member(per_share * share, s, self.sizes) for s, share in shares.items()}
        self.rest_counts = {  # by the building blocks of the cycles that failed
            (s, i): self.tally.by_member(per_share * share, (i,), self.sizes)
            for s, share in shares.items() for i in self.full if i not in s
        }  # fmt: skip

    def _row_yields(self) -> list[Tensor]:
        if self.tally.yields is not None:
            return self.tally.yields
        return [y[self.tally.codes[:, i]] for i, y in enumerate(self.yields)]

    def row_amount(self, y: list[Tensor]) -> Tensor:
        """The share (k,) of the full product."""
        if not self.model.effects and self.tally.yields is None:
            return torch.ones_like(self.tally.x)
        return amount(self.full, y)

    def row_abundance(self) -> Tensor:
        """The product (k,) of the building blocks' abundances."""
        return math.prod(u[self.tally.codes[:, i]] for i, u in enumerate(self.abundance))  # type: ignore[return-value]

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
            amounts = of_members(subset, self._factors(subset)) * self.fill
            self.effects[subset] = shape + counts, rate + depth * amounts

    def _update_yields(self) -> None:
        """Newton steps on the logits of the yields, whose level is their prior's."""
        if self.tally.yields is not None or not self.model.effects:
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
        """Counts, and exposures at a yield of 1, of the products in which cycle i worked; at 0, in which it failed."""
        y = self.yields[i]
        own_mean = self.own[0] / self.own[1]
        full = self.row_abundance() * amount(self.full, self._row_yields()) * own_mean
        n1 = self.tally.by_member(self.own_counts, (i,), self.sizes)
        a1 = self.tally.by_member(full, (i,), self.sizes) / y
        n0, a0 = torch.zeros_like(n1), torch.zeros_like(n1)
        for subset, gammas in self.effects.items():
            rates = gammas[0] / gammas[1] * of_members(subset, self._factors(subset)) * self.fill
            if i in subset:
                n1 = n1 + _onto(self.counts[subset], subset, i)
                a1 = a1 + _onto(rates, subset, i) / y
            else:
                factor = self._factors(subset)[i]
                n0 = n0 + self.rest_counts[subset, i]
                a0 = a0 + rates.sum() * (factor / factor.sum()) / (1 - y)
        depth = self.depths[0]
        return (n1, depth * a1), (n0, depth * a0)

    def _update_abundance(self) -> None:
        if not self.model.knows_abundance:
            return
        tally, (depth, control, pre) = self.tally, self.depths
        e = self.row_abundance()
        own = depth * e * self.row_amount(self._row_yields()) * self.own[0] / self.own[1]
        if self.matrix is not None:
            own = own + (depth + control) * e * self.matrix[0] / self.matrix[1]
        flat = depth + (control if tally.control.any() else 0) + (pre if tally.pre.any() else 0)
        for i in self.full:
            observed = tally.by_member(tally.x + tally.control + tally.pre, (i,), self.sizes)
            expected = flat * of_members((i,), self.abundance) * self.fill + tally.by_member(own, (i,), self.sizes)
            for subset, gammas in self.effects.items():
                rates = depth * gammas[0] / gammas[1] * of_members(subset, self._factors(subset)) * self.fill
                if i in subset:
                    expected = expected + _onto(rates, subset, i)
                else:
                    factor = self._factors(subset)[i]
                    expected = expected + rates.sum() * factor / factor.sum()
            u = (ABUNDANCE + observed) / (ABUNDANCE + expected / self.abundance[i])
            self.abundance[i] = u / u.mean()

    def _update_depths(self) -> None:
        tally = self.tally
        e = self.row_abundance()
        base = float(of_members((0,), self.abundance).sum()) * self.fill
        own = float((e * self.row_amount(self._row_yields()) * self.own[0] / self.own[1]).sum())
        matrix = 0.0 if self.matrix is None else float((e * self.matrix[0] / self.matrix[1]).sum())
        shared = sum(
            float((g[0] / g[1] * of_members(s, self._factors(s))).sum()) * self.fill for s, g in self.effects.items()
        )
        self.depths = [
            float(tally.x.sum()) / (base + own + matrix + shared),
            float(tally.control.sum()) / (base + matrix),
            float(tally.pre.sum()) / base,
        ]

    def _update_means(self) -> None:
        """The priors' means, where they are learned, to the mean of what they are priors of."""
        unseen = self.tally.n_rows - len(self.tally.x)
        for level, gammas in (("own", self.own), ("matrix", self.matrix)):
            if gammas is None or not self.model.priors[level].learned:
                continue
            shape, _ = self._prior(level)
            rest = unseen * shape / float(gammas[1].mean())  # of compounds without counts
            self.means[level] = max((float((gammas[0] / gammas[1]).sum()) + rest) / self.tally.n_rows, LEAST)
        for level in {str(len(subset)) for subset in self.effects}:
            if self.model.priors[level].learned:
                means = [(g[0] / g[1]).flatten() for s, g in self.effects.items() if str(len(s)) == level]
                self.means[level] = max(float(torch.cat(means).mean()), LEAST)

    # What is found --------------------------------------------------------------------------------------------------

    def learned_means(self) -> dict[str, float]:
        """The means of the priors whose mean is learned, by level."""
        return {level: self.means[level] for level, prior in self.model.priors.items() if prior.learned}

    def starts(self) -> dict[str, dist.Gamma]:
        """Where a guide's factors of the library's latents start, by site.

        Not those of the yields: they take the place of what the Poisson model does not have, and training does not
        bring them back.
        """
        model, tally = self.model, self.tally
        found = {model.effects[s]: dist.Gamma(*(p.float() for p in g)) for s, g in self.effects.items()}
        arms = zip(
            ("depth", "control_depth", "pre_depth"), self.depths, (tally.x, tally.control, tally.pre), strict=True
        )
        for name, pooled, counts in arms:
            known = torch.tensor(getattr(model.sizes, name))
            if len(known):
                share = known / known.sum()
                concentration = (float(counts.sum()) * share).clamp(min=1.0)
                found[name] = dist.Gamma(concentration, concentration / (pooled * share))
        if model.knows_abundance:
            everything = tally.x + tally.control + tally.pre
            for i, cycle in enumerate(model.sizes.cycles):
                counts = ABUNDANCE + tally.by_member(everything, (i,), self.sizes)
                found[f"abundance_{cycle}"] = dist.Gamma(counts.float(), (counts / self.abundance[i]).float())
        return found


def _exp_log(gammas: Gammas) -> Tensor:
    """Exp E log of Gammas."""
    return (torch.digamma(gammas[0]) - gammas[1].log()).exp()


def _onto(table: Tensor, subset: Subset, i: int) -> Tensor:
    """Sums of a subset's table over all cycles but i."""
    others = [axis for axis, j in enumerate(subset) if j != i]
    return table.sum(others) if others else table
