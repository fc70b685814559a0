"""Loops over the entries of a matrix that are not zero, compiled by numba."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyro_omics.kernels.compiled.cache import compiled
from pyro_omics.kernels.compiled.negative_binomial import FAST, _log1p
from pyro_omics.kernels.compiled.threads import row_range, together

# A NaN among the weights is to come out again.
EXACT: dict[str, Any] = {**FAST, "fastmath": {"contract"}}
COLUMNS = 512  # at once: their weights stay in a core's cache


@compiled(**EXACT)
def _product(threads, x, position, bounds, weights, out):
    n, d = x.shape
    start, stop = row_range(threads, n)
    out[start:stop] = 0
    at = bounds[start:stop].copy()
    for column in range(0, d, COLUMNS):
        for i in range(start, stop):
            row, k, end = out[i], at[i - start], bounds[i + 1]
            while k < end and position[k] - i * d < column + COLUMNS:
                j = position[k] - i * d
                value, weight = x[i, j], weights[j]
                for h in range(len(row)):
                    row[h] += value * weight[h]
                k += 1
            at[i - start] = k


@compiled()
def product(threads, x, position, bounds, weights, out):
    """X W, of ``x`` (n, d), whose entries at ``position`` are not zero, and ``weights`` (d, h), to ``out`` (n, h)."""
    together(_product, threads, (threads, x, position, bounds, weights, out))


@compiled(**EXACT)
def _outer_product(threads, x, position, bounds, rows, out):
    n, d = x.shape
    first, last = row_range(threads, d)
    for start in range(first, last, COLUMNS):
        stop = min(start + COLUMNS, last)
        out[start:stop] = 0
        for i in range(n):
            row, stored = rows[i], position[bounds[i] : bounds[i + 1]]
            k = np.searchsorted(stored, i * d + start)
            while k < len(stored) and stored[k] - i * d < stop:
                j = stored[k] - i * d
                value, to = x[i, j], out[j]
                for h in range(len(row)):
                    to[h] += value * row[h]
                k += 1


@compiled()
def outer_product(threads, x, position, bounds, rows, out):
    """X' R, of the same ``x`` and ``rows`` (n, h), to ``out`` (d, h)."""
    together(_outer_product, threads, (threads, x, position, bounds, rows, out))


@compiled(**FAST)
def _log1p_rows(threads, x, position, bounds, scale, out):
    n, d = x.shape
    room = np.empty(d, np.float32)
    start, stop = row_range(threads, n)
    for i in range(start, stop):
        columns = position[bounds[i] : bounds[i + 1]] - i * d
        values = room[: len(columns)]
        for k in range(len(columns)):
            values[k] = x[i, columns[k]]
        for k in range(len(columns)):
            values[k] = _log1p(values[k] * scale[i % len(scale)])
        out[i] = 0
        for k in range(len(columns)):
            out[i, columns[k]] = values[k]


@compiled()
def log1p(threads, x, position, bounds, scale, out):
    """log(1 + scale x) of the same ``x``, to ``out`` (n, d); ``scale`` is (n,), or (1,) for all rows."""
    together(_log1p_rows, threads, (threads, x, position, bounds, scale, out))


@compiled(**EXACT)
def _dense_rows(threads, rows, indptr, indices, data, bounds, position, out):
    n, d = out.shape
    start, stop = row_range(threads, n)
    for i in range(start, stop):
        out[i] = 0
        start, to = indptr[rows[i]], bounds[i]
        for k in range(bounds[i + 1] - to):
            j = indices[start + k]
            out[i, j] = data[start + k]
            position[to + k] = i * d + j


@compiled()
def dense(threads, rows, indptr, indices, data, bounds, position, out):
    """Compressed ``rows`` (n,) made dense, to ``out`` (n, d), and their entries' places there, to ``position``."""
    together(_dense_rows, threads, (threads, rows, indptr, indices, data, bounds, position, out))


@compiled(**EXACT)
def _join(threads, x, position, bounds, more, out, joined, ends):
    n, d = x.shape
    width = more.shape[1]
    start, stop = row_range(threads, n)
    for i in range(start, stop):
        out[i, :d] = x[i]
        out[i, d:] = more[i]
        to = ends[i]
        for k in range(bounds[i], bounds[i + 1]):
            joined[to] = position[k] + i * width
            to += 1
        for j in range(width):
            if more[i, j] != 0:
                joined[to] = i * (d + width) + d + j
                to += 1


@compiled()
def join(threads, x, position, bounds, more, out, joined, ends):
    """The same ``x`` and columns ``more`` (n, e) side by side, to ``out``, and to ``joined`` what is not zero there.

    ``ends`` (n + 1,) says where in ``joined`` each row begins.
    """
    together(_join, threads, (threads, x, position, bounds, more, out, joined, ends))
