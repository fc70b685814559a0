"""Matrices of any container and type as NumPy arrays or compressed SciPy matrices that compiled loops read safely."""

from __future__ import annotations

import decimal
import numbers
from typing import Any, Literal, NoReturn

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
import zarr
from anndata.abc import CSCDataset, CSRDataset

ON_DISK = (CSRDataset, CSCDataset, h5py.Dataset, zarr.Array)
MEND = "its file is broken or cut short; make it again from its source"
NUMBERS = (numbers.Real, decimal.Decimal, np.bool_, type(None), type(pd.NA))
EXACT_HALF = 2**11  # above it, float16 skips integers


def in_memory(
    matrix: Any, name: str, masked: Literal["refuse", "nan"] = "refuse", counts: bool = True
) -> np.ndarray | sp.spmatrix:
    """A matrix in any container that AnnData takes, as an array or a compressed SciPy matrix, without a copy if it can.

    Numbers have the machine's byte order, and types that SciPy does not know are widened: float16 to float32, longer
    floats and Python's numbers (dtype object) to float64, booleans to 8-bit integers. The pointers and columns of a
    sparse matrix are checked, since compiled loops trust them.

    Parameters
    ----------
    matrix
        NumPy array (also masked), SciPy matrix or array of any format, DataFrame, dask array (of dense or sparse
        chunks), or a matrix of a file (h5py, zarr, anndata's sparse datasets).
    name
        name of the matrix, for errors: ``adata.X``.
    masked
        what becomes of masked entries: ``"nan"`` makes them NaN; ``"refuse"`` raises an error.
    counts
        whether these are counts, of which float16 skips those above 2048.

    Raises
    ------
    ValueError
        If the container is another one, entries are masked, counts in float16 were rounded, objects are no numbers, or
        pointers or columns are out of range.
    """
    matrix = _loaded(matrix, name)
    if isinstance(matrix, pd.DataFrame):
        matrix = frame_values(matrix)
    if isinstance(matrix, np.ma.MaskedArray):
        matrix = _unmasked(matrix, name, masked)
    if sp.issparse(matrix):
        return _compressed(matrix, name, counts)
    try:
        array = np.asarray(matrix)
    except Exception as error:  # arrays of other packages raise errors of their own
        raise ValueError(_wrong_container(matrix, name)) from error
    if array.dtype == object and not isinstance(matrix, np.ndarray | list | tuple):
        raise ValueError(_wrong_container(matrix, name))
    return native(array, name, counts)


def dense(matrix: Any, name: str = "the matrix", masked: Literal["refuse", "nan"] = "refuse") -> np.ndarray:
    """A matrix in any container as an array; see `in_memory`."""
    found: Any = in_memory(matrix, name, masked)
    return found.toarray() if sp.issparse(found) else found


def native(values: np.ndarray, name: str, counts: bool = True) -> np.ndarray:
    """Numbers in the machine's byte order, of a type that SciPy and torch know; other types are left as they are.

    Raises
    ------
    ValueError
        For ``counts`` above 2048 in float16, which were rounded, and for objects that are no numbers.
    """
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "O":
        return _numbers(values, name)
    if kind == "f" and size == 2:
        if counts and (np.abs(values[np.isfinite(values)]) > EXACT_HALF).any():
            raise ValueError(
                f"{name} has float16 values above {EXACT_HALF}, where float16 skips integers: write the counts as "
                "float32 or integers, from where they were not yet rounded"
            )
        return values.astype(np.float32)
    if kind == "f" and size > 8:
        return values.astype(np.float64)
    if kind == "b":
        return values.astype(np.uint8)
    if kind in "iuf" and not values.dtype.isnative:
        return values.astype(values.dtype.newbyteorder("="))
    return values


def _numbers(values: np.ndarray, name: str) -> np.ndarray:
    """Numbers that are stored as Python's objects, in double precision; NaN for None and pandas' NA."""
    taken = {kind for kind in set(map(type, values.flat)) if not issubclass(kind, NUMBERS)}
    if taken:
        at = next(at for at, value in np.ndenumerate(values) if type(value) in taken)
        raise ValueError(
            f"{name} must hold numbers; got {values[at]!r}, a {type(values[at]).__name__}, at {at}: convert it, "
            ".astype(float), once all of its values are numbers"
        )
    try:
        return np.where(pd.isna(values), np.nan, values).astype(np.float64)
    except OverflowError as error:
        raise ValueError(f"{name} must hold numbers; got one that is too large ({error})") from error


def frame_values(frame: pd.DataFrame) -> np.ndarray:
    """The values of a DataFrame of numbers, also nullable or of pyarrow: NaN where missing."""
    values = frame.to_numpy() if all(isinstance(dtype, np.dtype) for dtype in frame.dtypes) else None
    numeric = all(map(pd.api.types.is_numeric_dtype, frame.dtypes))
    if values is None or (values.dtype == object and numeric):  # columns of numbers and of booleans
        return frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return values


def compressed(
    parts: tuple[Any, Any, Any], shape: tuple[int, int], name: str, columns: bool = False, counts: bool = True
) -> Any:
    """A CSR matrix, or CSC with ``columns``, of these values, indices and pointers, which are checked.

    Parameters
    ----------
    parts
        (data, indices, indptr).
    shape
        shape of the matrix.
    name
        name of the matrix, for errors.
    columns
        whether pointers are of columns.
    counts
        as in `in_memory`.

    Raises
    ------
    ValueError
        If pointers fall or do not end at the number of values, or indices are out of range.
    """
    data, indices, indptr = (np.asarray(part) for part in parts)
    lines, across = (shape[1], shape[0]) if columns else shape
    check_pointers(indptr, lines, (len(data), len(indices)), name, "column" if columns else "row")
    indices = _integers(indices, name)
    check_indices(indices, indptr, across, name, "column" if columns else "row")
    make = sp.csc_matrix if columns else sp.csr_matrix
    # A new object, since flags of the given one may be out of date, such as that its indices are sorted.
    return make((native(data, name, counts), indices, _integers(indptr, name)), shape=shape)


def check_pointers(indptr: np.ndarray, lines: int, stored: tuple[int, int], name: str, line: str = "row") -> None:
    """Raise a ValueError unless pointers (lines + 1,) rise from 0 to the numbers of stored values and indices."""
    n_values, n_indices = stored
    if indptr.ndim != 1 or indptr.dtype.kind not in "iu":
        _raise(name, f"its {line} pointers (indptr) must be whole numbers; got {indptr.dtype} of shape {indptr.shape}")
    if len(indptr) != lines + 1:
        _raise(
            name,
            f"it must have {lines + 1} {line} pointers (indptr) for {lines} {line}s; got {len(indptr)} (a matrix "
            "stored by rows may be labelled as stored by columns, or the other way round)",
        )
    if n_values != n_indices:
        _raise(name, f"it must have as many indices as values; got {n_indices} indices and {n_values} values")
    if indptr[0] != 0:
        _raise(name, f"its {line} pointers (indptr) must start at 0; got {indptr[0]} in {line} 0")
    falls = indptr[1:] < indptr[:-1]
    if falls.any():
        at = int(falls.argmax())
        _raise(name, f"its {line} pointers (indptr) fall from {indptr[at]} to {indptr[at + 1]} in {line} {at}")
    if indptr[-1] != n_values:
        beyond = int(np.searchsorted(indptr, n_values, side="right")) - 1
        where = f", beyond the end from {line} {beyond} on" if indptr[-1] > n_values else f" in {line} {lines - 1}"
        _raise(name, f"its {line} pointers (indptr) must end at its {n_values} values; got {indptr[-1]}{where}")


def check_indices(
    indices: np.ndarray, indptr: np.ndarray, across: int, name: str, line: str = "row", first: int = 0
) -> None:
    """Raise a ValueError unless indices are from 0 to ``across`` - 1; ``first`` is the number of the first row."""
    if not len(indices) or (indices.min() >= 0 and indices.max() < across):
        return
    at = int(((indices < 0) | (indices >= across)).argmax())
    number = first + int(np.searchsorted(indptr - indptr[0], at, side="right")) - 1
    other = "column" if line == "row" else "row"
    _raise(name, f"its {other}s must be from 0 to {across - 1}; got {indices[at]} in {line} {number}")


def check_chunks(node: Any, name: str) -> None:
    """Raise a ValueError where a zarr store lacks chunks of a sparse matrix, which zarr reads as zeros."""
    if not isinstance(node, zarr.Group) or "indptr" not in node:
        return
    for part, what in (("data", "values"), ("indices", "indices")):
        array: Any = node[part]
        lacking = array.nchunks - array.nchunks_initialized if array.shape[0] else 0
        # Of one column, or one row, all indices are zeros, which zarr need not write.
        shape: Any = node.attrs.get("shape", ())
        if lacking > 0 and not (part == "indices" and 1 in tuple(shape)):
            raise ValueError(f"{name}: its {what} lack {lacking} of {array.nchunks} chunks: {MEND}")


def _raise(name: str, problem: str) -> NoReturn:
    raise ValueError(f"{name} cannot be read: {problem}. {MEND[0].upper()}{MEND[1:]}")


def _integers(indices: np.ndarray, name: str) -> np.ndarray:
    if indices.dtype.kind not in "iu" or indices.ndim != 1:
        _raise(name, f"its indices must be whole numbers; got {indices.dtype} of shape {indices.shape}")
    return indices if indices.dtype.isnative else indices.astype(indices.dtype.newbyteorder("="))


def _loaded(matrix: Any, name: str) -> Any:
    """A matrix of a file or a dask array, read into memory."""
    if isinstance(matrix, CSRDataset | CSCDataset):
        group = matrix.group
        data, indices, indptr = (np.asarray(group[part][...]) for part in ("data", "indices", "indptr"))
        return compressed((data, indices, indptr), tuple(matrix.shape), name, columns=matrix.format == "csc")
    if isinstance(matrix, ON_DISK):
        return np.asarray(matrix[...])
    if not hasattr(matrix, "__dask_graph__"):
        return matrix
    try:
        found = matrix.compute()
    except Exception as error:  # of whatever its chunks are made by
        raise ValueError(
            f"{name} is a dask array that cannot be computed ({error}): pass it in memory, adata.to_memory()"
        ) from error
    if isinstance(found, np.ndarray) and found.dtype.kind == "O":  # chunks that NumPy could not join
        raise ValueError(f"{name} is a dask array of chunks that are no arrays: pass adata.to_memory()")
    return found


def _unmasked(matrix: np.ma.MaskedArray, name: str, masked: str) -> np.ndarray:
    mask = np.ma.getmaskarray(matrix)
    if not mask.any():
        return matrix.data
    if masked == "refuse":
        at = tuple(np.argwhere(mask)[0].tolist())
        raise ValueError(
            f"{name} has {int(mask.sum())} masked entries, the first at {at}, and these cannot be missing: fill them "
            "with what was measured (.filled(0) where nothing was), or leave those rows or columns out"
        )
    # Not .filled(nan): what is below the mask may be of any type.
    return np.where(mask, np.nan, np.ma.getdata(matrix).astype(np.float64))


def _compressed(matrix: Any, name: str, counts: bool) -> Any:
    if matrix.format == "coo":
        for axis, (indices, length) in enumerate(zip((matrix.row, matrix.col), matrix.shape, strict=True)):
            if len(indices) and not (indices.min() >= 0 and indices.max() < length):
                what = ("rows", "columns")[axis]
                wrong = indices[(indices < 0) | (indices >= length)][0]
                _raise(name, f"its {what} must be from 0 to {length - 1}; got {wrong}")
    if isinstance(getattr(matrix, "data", None), np.ma.MaskedArray):
        raise ValueError(f"{name} is a sparse matrix of masked values: fill them, or leave their rows out")
    if matrix.format not in ("csr", "csc"):
        matrix = matrix.astype(np.float64).tocsr()
    parts = matrix.data, matrix.indices, matrix.indptr
    return compressed(parts, matrix.shape, name, matrix.format == "csc", counts)


def _wrong_container(matrix: Any, name: str) -> str:
    return (
        f"{name} must be a NumPy array, a SciPy matrix, a dask array or a DataFrame; got a {type(matrix).__module__}."
        f"{type(matrix).__name__}: convert it to one of these"
    )
