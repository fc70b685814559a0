"""Check that a row's terms of the ELBO do not depend on the other rows of its minibatch, or on their order."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pyro import poutine
from pyro.poutine import Trace
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_omics.batch import RowBatch
from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.schema import RowData
from pyro_omics.sites import PLATE, global_terms, is_local, plate_scale, replayed, row_terms, sample_sites
from pyro_omics.testing.required import is_delta, require

RTOL, ATOL = 1e-4, 1e-3  # tolerances of a row's term in nats, in float32
SIDES = {"p": "model", "q": "guide"}


@dataclass
class Terms:
    """Log-probabilities of model (p) and guide (q) at given values, by (side, site).

    Attributes
    ----------
    rows
        log-probabilities (n,) of local sites, without the plate's scale.
    shared
        log-probabilities of global sites, scalars.
    scales
        scales of local sites, divided by that of their plate.
    sizes
        full sizes of the plates of local sites.
    points
        values (n, d) of local sites where the guide's distribution is a point mass.
    """

    rows: dict[tuple[str, str], Tensor]
    shared: dict[tuple[str, str], Tensor]
    scales: dict[tuple[str, str], float]
    sizes: dict[tuple[str, str], float]
    points: dict[tuple[str, str], Tensor]

    @property
    def values(self) -> dict[tuple[str, str], Tensor]:
        """Log-probabilities of local and global sites."""
        return self.rows | self.shared


def check_rows(svi: SVIModule, dm: RowData, rows: np.ndarray) -> None:
    """Check that the terms of each row, at the same values, are the same in other batches.

    Parameters
    ----------
    svi
        the pair, in eval mode.
    dm
        the DataModule.
    rows
        positions of the rows.
    """
    for training in (False, True):
        with _programs_in_mode(svi, training):
            whole = dm.data[rows]
            drawn = poutine.trace(svi.guide).get_trace(whole)
            first, second = (terms_of(svi, whole, drawn) for _ in range(2))
            repeatable = _unequal(first, second, np.arange(len(rows))) is None
            if training and not repeatable:
                return  # random numbers, such as dropout's, are allowed in training mode
            require(repeatable, "model or guide have other terms at a second run on the same values: they draw random "
                    "numbers outside of pyro.sample, or change in eval mode")  # fmt: skip
            _check_sizes(svi, first)
            _check_batches(svi, dm, rows, drawn, first, " in training mode" if training else "")


def _check_batches(svi: SVIModule, dm: RowData, rows: np.ndarray, drawn: Trace, whole: Terms, mode: str) -> None:
    shuffled = np.random.default_rng(1).permutation(len(rows))
    parts = [part for part in np.array_split(shuffled, [5 * len(rows) // 12, 10 * len(rows) // 12]) if len(part)]
    for at in (shuffled, *parts):
        found = terms_of(svi, dm.data[rows[at]], sliced(drawn, torch.from_numpy(at)))
        _check_scales(whole, found, mode)
        if (differ := _unequal(whole, found, at)) is None:
            _check_shared(whole, found, mode)
            continue
        key, what, ours, theirs = differ
        where = f"a row's {what} of {key[1]!r} in the {SIDES[key[0]]}{mode}"
        numbers = f"{float(ours):.6g}, {float(theirs):.6g} for one row"
        require(
            len(at) < len(rows),
            f"{where} depends on its place in the minibatch ({numbers}): look up parameters and data of each row by "
            "batch.index",
        )
        require(
            False,
            f"{where} depends on which other rows are in the minibatch ({numbers}): leave out sums and means over "
            "rows, and the number of rows",
        )


def _check_sizes(svi: SVIModule, terms: Terms) -> None:
    for (side, name), size in terms.sizes.items():
        require(
            round(size) == svi.n_obs,
            f"{name!r} must be in a plate of n_obs={svi.n_obs} rows in the {SIDES[side]}; got one of {size:.0f}: open "
            "self.plate(batch) around it",
        )


def _check_scales(whole: Terms, found: Terms, mode: str) -> None:
    for key, scale in whole.scales.items():
        require(
            bool(np.isclose(scale, found.scales[key], rtol=1e-6)),
            f"minibatch ELBOs do not average to the full one{mode}: {key[1]!r} in the {SIDES[key[0]]} is scaled by "
            f"hand, by {scale:.4g} in one minibatch and {found.scales[key]:.4g} in another: leave the scaling to the "
            "plate",
        )


def _check_shared(whole: Terms, found: Terms, mode: str) -> None:
    for (side, name), ours in whole.shared.items():
        theirs = found.shared[side, name]
        require(
            bool(torch.isclose(theirs, ours, rtol=1e-3, atol=1e-2, equal_nan=True)),
            f"the global terms depend on the batch size{mode}: {name!r} in the {SIDES[side]} ({float(ours):.4g}, "
            f"{float(theirs):.4g} nats): sample global sites outside self.plate(batch), without pyro.poutine.scale, "
            "and local ones inside it",
        )


def _unequal(whole: Terms, found: Terms, at: np.ndarray) -> tuple[tuple[str, str], str, Tensor, Tensor] | None:
    """The first local site at which a row's value or log-probability differs: key, which of them, the two numbers."""
    for what in ("points", "rows"):
        for key, value in getattr(whole, what).items():
            ours, theirs = value[at], getattr(found, what)[key]
            same = torch.isclose(theirs, ours, rtol=RTOL, atol=ATOL, equal_nan=True)
            if not same.all():
                return key, "value" if what == "points" else "log-probability", ours[~same][0], theirs[~same][0]
    return None


def terms_of(svi: SVIModule, batch: RowBatch, drawn: Trace) -> Terms:
    """The log-probabilities of model and guide on a batch, at the values of a trace of the guide."""
    # Points are not replayed: those that a transform computes differ in the last digit with the size of the batch.
    known = drawn.copy()
    for site in filter(_is_point, sample_sites(drawn)):
        known.remove_node(site["name"])
    guide = poutine.trace(poutine.replay(svi.guide, trace=known)).get_trace(batch)
    model = replayed(svi.model, guide, (batch,), svi.nesting)
    terms = Terms({}, {}, {}, {}, {})
    for side, trace in (("q", guide), ("p", model)):
        sites = sample_sites(trace)
        terms.rows |= {(side, name): term for name, term in row_terms(sites).items()}
        terms.shared |= {(side, name): term for name, term in global_terms(sites).items()}
        for site in filter(is_local, sites):
            key, scale = (side, site["name"]), plate_scale(site)
            terms.scales[key] = float(site["scale"]) / scale
            terms.sizes[key] = scale * len(batch.index)
            if side == "q" and _is_point(site):
                terms.points[key] = site["value"].movedim(_row_dim(site), 0)
    return terms


def sliced(trace: Trace, at: Tensor) -> Trace:
    """A trace of the guide for the rows ``at`` of its batch."""
    found = trace.copy()
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and site_is_subsample(site):
            found.remove_node(name)  # otherwise the plate would replay the index of the whole batch
        elif site["type"] == "sample" and is_local(site):
            found.nodes[name] = {**site, "value": site["value"].index_select(_row_dim(site), at)}
    return found


def _is_point(site: dict[str, Any]) -> bool:
    return is_local(site) and is_delta(site["fn"])


def _row_dim(site: dict[str, Any]) -> int:
    """The dimension of the rows in a local site's value, counted from the right."""
    (frame,) = (frame for frame in site["cond_indep_stack"] if frame.name == PLATE)
    return int(frame.dim) - site["fn"].event_dim


@contextmanager
def _programs_in_mode(svi: SVIModule, training: bool) -> Iterator[None]:
    """Set the mode of model and guide, but not of their layers, whose batch normalisation may mix rows in training."""
    try:
        svi.model.training = svi.guide.training = training
        yield
    finally:
        svi.model.training = svi.guide.training = False
