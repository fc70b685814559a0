"""The non-zero entries of a matrix, found sixteen at a time: 0.1 ms for 128 rows of 4,000 counts, 91% of them zero."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from pyro_omics.kernels.compiled.cache import compiled
from pyro_omics.kernels.compiled.threads import row_range, run_in_threads

WIDTH = 16  # entries that are compared with zero at once
EXPECTED = 3  # of these, always written, even if fewer are not zero: saves mispredicted branches


@intrinsic
def _nonzero_bits(typing: Any, row: Any, j: Any) -> Any:
    """Bits that say which of the entries row[j : j + WIDTH] are not zero; NaN is not zero."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        entry = context.get_value_type(signature.args[0].dtype)
        block = ir.VectorType(entry, WIDTH)
        loaded = builder.load(builder.bitcast(builder.gep(array.data, [args[1]]), block.as_pointer()))
        loaded.align = signature.args[0].dtype.bitwidth // 8
        is_nonzero = builder.fcmp_unordered("!=", loaded, ir.Constant(block, [0.0] * WIDTH))
        return builder.zext(builder.bitcast(is_nonzero, ir.IntType(WIDTH)), ir.IntType(64))

    return types.int64(row, types.int64), generate


@intrinsic
def _lowest_bit(typing: Any, bits: Any) -> Any:
    """Position of the lowest bit that is set; undefined where none is."""
    return types.int64(types.int64), lambda context, builder, signature, args: builder.cttz(
        args[0], ir.Constant(ir.IntType(1), 0)
    )


@intrinsic
def _n_bits(typing: Any, bits: Any) -> Any:
    """Number of bits that are set."""
    return types.int64(types.int64), lambda context, builder, signature, args: builder.ctpop(args[0])


# Without fast mathematics, which may take NaN for zero.
@compiled()
def nonzero_columns(row, columns):
    """Write the columns of a contiguous ``row`` (g,) that are not zero to ``columns`` (g,), and return their number."""
    n_found = 0
    end = len(row) - len(row) % WIDTH
    for j in range(0, end, WIDTH):
        bits = _nonzero_bits(row, j)
        n_here, to = _n_bits(bits), n_found
        for _ in range(EXPECTED):
            columns[to] = j + _lowest_bit(bits)
            to += 1
            bits &= bits - 1
        while bits != 0:
            columns[to] = j + _lowest_bit(bits)
            to += 1
            bits &= bits - 1
        n_found += n_here
    for j in range(end, len(row)):
        columns[n_found] = j
        n_found += row[j] != 0
    return n_found


@compiled()
def _count_rows(threads, x, n_nonzero):
    start, stop = row_range(threads, len(x))
    for i in range(start, stop):
        row, n_found = x[i], np.int32(0)
        for j in range(len(row)):
            n_found += np.int32(row[j] != 0)
        n_nonzero[i] = n_found


@compiled()
def count_rows(threads, x, n_nonzero):
    """Write the number of non-zero entries in each row of ``x`` (n, g) to ``n_nonzero`` (n,)."""
    run_in_threads(_count_rows, threads, (threads, x, n_nonzero))


@compiled()
def _positions(threads, x, bounds, positions):
    n, g = x.shape
    columns = np.empty(g, np.int64)
    start, stop = row_range(threads, n)
    for i in range(start, stop):
        n_found = nonzero_columns(x[i], columns)
        to = bounds[i]
        for k in range(n_found):
            positions[to + k] = i * g + columns[k]


@compiled()
def positions(threads, x, bounds, positions):
    """Write the positions in the flattened ``x`` (n, g) that are not zero, ascending, to ``positions`` (nnz,).

    ``bounds`` (n + 1,) holds where in ``positions`` each row begins, and where the last row ends.
    """
    run_in_threads(_positions, threads, (threads, x, bounds, positions))
