"""Minibatches, the inputs of models and guides, as NamedTuples of tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch", bound="RowBatch")


class CellBatch(NamedTuple):
    """A minibatch of cells; n is its number of rows.

    Lightning moves it to the trainer's device. A field that the data do not have is None.

    Attributes
    ----------
    x
        (n, g) counts, as floats.
    row
        (n,) position in the AnnData.
    index
        (n,) training rows are numbered 0 .. n_obs - 1, held-out rows from n_obs on.
    batch
        (n,) code of the batch (``batch_key``), or None where there is one batch.
    label
        (n,) code of the label (``label_key``), or None.
    categorical
        (n, c) codes of further categorical covariates, or None.
    continuous
        (n, d) continuous covariates, or None.
    size_factor
        (n, 1) a given library size, or None.
    y
        (n, t) protein counts, as floats, 0 where not measured; or None.
    measured
        (n, t) whether each protein was measured in each cell; None where all were.
    """

    x: Tensor
    row: Tensor
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index, which nobody calls on a batch
    batch: Tensor | None = None
    label: Tensor | None = None
    categorical: Tensor | None = None
    continuous: Tensor | None = None
    size_factor: Tensor | None = None
    y: Tensor | None = None
    measured: Tensor | None = None

    def in_batch(self, code: int) -> CellBatch:
        """The cells with the batch ``code``; proteins of cells from other batches become not measured."""
        measured = None
        if self.y is not None:
            there = torch.ones_like(self.index) if self.batch is None else self.batch == code
            measured = there.bool().unsqueeze(-1).expand_as(self.y)
            measured = measured if self.measured is None else measured & self.measured
        return self._replace(batch=torch.full_like(self.index, code), measured=measured)


class DELBatch(NamedTuple):
    """A minibatch of compounds of a DNA-encoded library; n is its number of rows.

    Attributes
    ----------
    x
        (n, r) counts in the target selections, as floats.
    row
        (n,) position in the AnnData.
    index
        (n,) training rows are numbered 0 .. n_obs - 1, held-out rows from n_obs on.
    synthons
        (n, cycles) code of each cycle's building block.
    control
        (n, r) counts in the control selections (matrix without target), or None.
    pre
        (n, r) counts before selection, or None.
    features
        (n, d) features of the compound, or None.
    poses
        (n, p, d) features of its docked poses, or None.
    yields
        (n, cycles) yield of each building block's reaction, in (0, 1), or None.
    """

    x: Tensor
    row: Tensor
    index: Tensor  # type: ignore[assignment]  # shadows tuple.index, which nobody calls on a batch
    synthons: Tensor
    control: Tensor | None = None
    pre: Tensor | None = None
    features: Tensor | None = None
    poses: Tensor | None = None
    yields: Tensor | None = None


def map_tensors(batch: Batch, function: Callable[[Tensor], Tensor]) -> Batch:
    """Apply ``function`` to each field of a batch, a NamedTuple, that is a tensor."""
    named: Any = batch
    return named._make(function(field) if isinstance(field, Tensor) else field for field in named)


def take_rows(batch: Batch, rows: Tensor) -> Batch:
    """Select rows of a batch; ``rows`` are booleans (n,), or positions."""
    return map_tensors(batch, lambda field: field[rows])


def move_like(batch: Batch, like: Tensor) -> Batch:
    """Move a batch to the device of ``like``, and its floating-point fields to the dtype of ``like``."""
    return map_tensors(batch, lambda field: field.to(like if field.is_floating_point() else like.device))


def in_precision(batch: Batch, dtype: torch.dtype) -> Batch:
    """The batch with its floating-point fields in a dtype."""
    return map_tensors(batch, lambda field: field.to(dtype) if field.is_floating_point() else field)


class RowBatch(Protocol):
    """Protocol of a minibatch: a NamedTuple of tensors (or None) with at least these fields.

    `CellBatch` and `DELBatch` have them; models of other data may use a class of their own.

    Attributes
    ----------
    x
        (n, columns) counts, as floats.
    row
        (n,) position in the AnnData.
    index
        (n,) training rows are numbered 0 .. n_obs - 1, held-out rows from n_obs on.
    """

    @property
    def x(self) -> Tensor: ...  # noqa: D102

    @property
    def row(self) -> Tensor: ...  # noqa: D102

    @property
    def index(self) -> Tensor: ...  # noqa: D102
