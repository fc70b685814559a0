"""`TrainedRows`: which rows a model was trained on, known by a code of 8 bytes each, in whatever data they are."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from pandas.util import hash_array
from torch import Tensor

from pyro_omics.schema import RowData, Schema


class TrainedRows:
    """Mixin of `SVIModule` that keeps the rows of its fits, by name and counts.

    Attributes
    ----------
    row_codes
        (n,) ascending codes of all rows that were trained on; None where they are not known, as of a fit without a
        DataModule or one saved by an earlier version. The upper 32 bits are of the name, the lower of the counts.
    """

    schema: Schema | None
    row_codes: Tensor | None = None

    def trained_on(self, dm: RowData) -> np.ndarray:
        """Whether the model was trained on each row of a DataModule, which is known by its name and counts.

        A row that has another name, as ``anndata.concat(..., index_unique="-")`` gives it, is not recognised.

        Parameters
        ----------
        dm
            a DataModule.

        Returns
        -------
        (n,) booleans, in the order of the AnnData.

        Raises
        ------
        ValueError
            Where the rows that were trained on are not known.
        """
        if self.row_codes is None or self.schema is None:
            raise ValueError(
                "the rows that this model was trained on are not known: it was not fitted by a Trainer to a DataModule "
                "or was saved by an earlier version"
            )
        data = dm.aligned(self.schema) if self.schema.differences(dm.schema) else dm.data
        return _among(self.row_codes, dm, data, dm.rows())

    def note_rows(self, dm: RowData, before: Tensor | None) -> None:
        """Keep the rows that a fit trains on, with those that were trained on ``before``."""
        if not hasattr(dm.data, "count_codes"):
            return  # data of the user's own
        rows = dm.rows("training")
        codes = _joined(_name_codes(dm, rows), dm.data.count_codes(rows))
        both = [codes] if before is None else [codes, before.numpy()]
        self.row_codes = torch.from_numpy(np.unique(np.concatenate(both)))

    def warn_of_other_split(self, dm: RowData, data: Any) -> None:
        """Warn where the model was trained on rows that a DataModule holds out.

        Parameters
        ----------
        dm
            the DataModule.
        data
            its rows, aligned to the model.
        """
        held_out = dm.rows("validation")
        if self.row_codes is None or not hasattr(data, "count_codes"):
            return
        if n := int(_among(self.row_codes, dm, data, held_out).sum()):
            warnings.warn(
                f"the model was trained on {n} of the {len(held_out)} rows that this DataModule holds out, so that "
                "their scores are not of new rows: make it with the validation_size, validation_indices and seed of "
                "the fit, with validation_indices=numpy.flatnonzero(~svi.trained_on(dm)), hold none out "
                "(validation_size=0), or leave these rows out of the data",
                UserWarning,
                stacklevel=3,
            )


def _among(codes: Tensor, dm: RowData, data: Any, rows: np.ndarray) -> np.ndarray:
    """Whether each of ``rows`` is among those with these codes."""
    known, names = codes.numpy(), _name_codes(dm, rows)
    # By name first: the counts of new rows, which may be on disk, are then not read.
    found = np.isin(names, (known >> 32).astype(np.uint32))
    if found.any():
        found[found] = np.isin(_joined(names[found], data.count_codes(rows[found])), known)
    return found


def _name_codes(dm: RowData, rows: np.ndarray) -> np.ndarray:
    names: Iterable[Any] = dm.adata.obs_names[rows]
    return (hash_array(np.array([str(name) for name in names], dtype=object)) >> np.uint64(32)).astype(np.uint32)


def _joined(names: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return (names.astype(np.uint64) << np.uint64(32) | counts).view(np.int64)
