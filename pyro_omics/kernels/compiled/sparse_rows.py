"""Loops over the non-zero entries of matrices, compiled by numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyro_omics.kernels.compiled.cache import compiled
from pyro_omics.kernels.compiled.negative_binomial import FAST, _log1p
from pyro_omics.kernels.compiled.nonzero import nonzero_columns
from pyro_omics.kernels.compiled.threads import row_range, run_in_threads

# A NaN among the weights must come out as NaN.
EXACT: dict[str, Any] = {**FAST, "fastmath": {"contract"}}
COLUMNS = 512  # processed at a time, so that their weights fit into a core's cache


@compiled(**EXACT)
def _product(threads, x, positions, bounds, weights, out):
    n, d = x.shape
    start, stop = row_range(threads, n)
    out[start:stop] = 0
    at = bounds[start:stop].copy()
    for column in range(0, d, COLUMNS):
        for i in range(start, stop):
            row, k, end = out[i], at[i - start], bounds[i + 1]
            while k < end and positions[k] - i * d < column + COLUMNS:
                j = positions[k] - i * d
                value, weight = x[i, j], weights[j]
                for h in range(len(row)):
                    row[h] += value * weight[h]
                k += 1
            at[i - start] = k


@compiled()
def product(threads, x, positions, bounds, weights, out):
    """Write x W to ``out`` (n, h), for ``x`` (n, d), whose entries at ``positions`` are not zero, and W (d, h)."""
    run_in_threads(_product, threads, (threads, x, positions, bounds, weights, out))


@compiled(**EXACT)
def _outer_product(threads, x, positions, bounds, rows, out):
    n, d = x.shape
    first, last = row_range(threads, d)
    for start in range(first, last, COLUMNS):
        stop = min(start + COLUMNS, last)
        out[start:stop] = 0
        for i in range(n):
            row, columns = rows[i], positions[bounds[i] : bounds[i + 1]]
            k = np.searchsorted(columns, i * d + start)
            while k < len(columns) and columns[k] - i * d < stop:
                j = columns[k] - i * d
                value, to = x[i, j], out[j]
                for h in range(len(row)):
                    to[h] += value * row[h]
                k += 1


@compiled()
def outer_product(threads, x, positions, bounds, rows, out):
    """Write x' R to ``out`` (d, h), for ``x`` as in `product` and ``rows`` R (n, h)."""
    run_in_threads(_outer_product, threads, (threads, x, positions, bounds, rows, out))


@compiled(**FAST)
def _log1p_line(values, scale):
    for k in range(len(values)):
        values[k] = _log1p(values[k] * scale)


@compiled()
def _log1p_rows(threads, x, scale, out):
    n, g = x.shape
    buffer, column_buffer = np.empty(g, np.float32), np.empty(g, np.int64)
    start, stop = row_range(threads, n)
    for i in range(start, stop):
        columns = column_buffer[: nonzero_columns(x[i], column_buffer)]
        values = buffer[: len(columns)]
        for k in range(len(columns)):
            values[k] = x[i, columns[k]]
        _log1p_line(values, scale[i % len(scale)])
        out[i] = 0
        for k in range(len(columns)):
            out[i, columns[k]] = values[k]


@compiled()
def log1p(threads, x, scale, out):
    """Write log(1 + scale x) to ``out``, for a mostly zero ``x`` (n, g) and ``scale`` (n,), or (1,) for all rows."""
    run_in_threads(_log1p_rows, threads, (threads, x, scale, out))


@compiled()
def _dense_rows(threads, rows, indptr, indices, data, out):
    start, stop = row_range(threads, len(out))
    for i in range(start, stop):
        out[i] = 0
        for k in range(indptr[rows[i]], indptr[rows[i] + 1]):
            out[i, indices[k]] = data[k]


@compiled()
def dense(threads, rows, indptr, indices, data, out):
    """Write the ``rows`` (n,) of a compressed matrix to the dense ``out`` (n, g)."""
    run_in_threads(_dense_rows, threads, (threads, rows, indptr, indices, data, out))
