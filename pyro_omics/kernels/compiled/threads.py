"""Compiled loops that divide the rows of a minibatch among torch's own threads.

Torch's threads spin for a moment while they wait for work, and would compete with a second pool, such as numba's. So
the loops run in the OpenMP runtime that torch has loaded, with as many threads as ``torch.set_num_threads`` says. Where
that runtime is not found, they run in one thread.

As in torch's operations, a thread takes the same rows in each loop, so that they are in its own core's cache. ::

    @njit
    def doubled(threads, x_ng, out_ng):
        start, stop = row_range(threads, len(x_ng))
        out_ng[start:stop] = 2 * x_ng[start:stop]

    @njit
    def double(threads, x_ng, out_ng):
        run_in_threads(doubled, threads, (threads, x_ng, out_ng))

    double(threads(), x, out)
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from typing import Any

import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from pyro_omics.kernels.compiled.cache import compiled

ENTRY = "GOMP_parallel"  # (task, its argument, threads, flags), of GNU's OpenMP; Intel's and LLVM's have it too
NUMBER, SIZE = "omp_get_thread_num", "omp_get_num_threads"
POINTER = ir.IntType(8).as_pointer()
TASK = ir.FunctionType(ir.VoidType(), [POINTER])


def threads() -> tuple[int, int, int, int]:
    """The number of threads to ask for, and the addresses of three OpenMP functions, for `run_in_threads`.

    The functions start the threads, return the number of the calling thread, and return how many threads there are,
    which a limit may make fewer than asked for.
    """
    enter, number, size = _runtime()
    return torch.get_num_threads() if enter and not _forked else 1, enter, number, size


@cache
def _runtime() -> tuple[int, int, int]:
    """The addresses of `ENTRY`, `NUMBER` and `SIZE` in the runtime that torch loaded, or zeros."""
    try:
        loaded = ctypes.CDLL(None)
        found = [ctypes.cast(getattr(loaded, name), ctypes.c_void_p).value or 0 for name in (ENTRY, NUMBER, SIZE)]
    except (AttributeError, OSError, TypeError):  # another runtime or system
        return 0, 0, 0
    return found[0], found[1], found[2]


_forked: list[bool] = []  # not empty in a forked process, where the runtime's threads are missing
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _forked.append(True))


@intrinsic
def _number(typing: Any, address: Any) -> Any:
    """Call the function at an address, which returns this thread's number or the number of threads."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function = ir.FunctionType(ir.IntType(32), []).as_pointer()
        return builder.sext(builder.call(builder.inttoptr(args[0], function), []), ir.IntType(64))

    return types.int64(types.int64), generate


@compiled()
def row_range(threads: Any, n: Any) -> Any:
    """The rows of this thread among n rows: the first, and one past the last."""
    if threads[0] == 1:
        return 0, n
    step = -(-n // _number(threads[3]))
    start = min(n, _number(threads[2]) * step)
    return start, min(n, start + step)


@intrinsic
def run_in_threads(typing: Any, loop: Any, members: Any, args: Any) -> Any:
    """Run ``loop(*args)`` in all `threads` at once and wait for them; in the calling thread if there is only one.

    ``loop`` must be compiled by numba, return nothing and raise nothing: an error in another thread would be lost.
    """
    inner = loop.get_call_type(typing, args.types, {})

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        compiled = loop.dispatcher.get_compile_result(inner)
        context.add_linking_libs([compiled.library])
        threads, address = (builder.extract_value(values[1], i) for i in range(2))
        arguments = cgutils.alloca_once_value(builder, values[2])
        task = ir.Function(builder.module, TASK, builder.module.get_unique_name("task"))
        task.linkage = "internal"
        body = ir.IRBuilder(task.append_basic_block())
        loaded = body.load(body.bitcast(task.args[0], arguments.type))
        items = [body.extract_value(loaded, i) for i in range(len(args.types))]
        context.call_internal_no_propagate(body, compiled.fndesc, inner, items)
        body.ret_void()
        pointer = builder.bitcast(arguments, POINTER)
        is_parallel = builder.icmp_signed(">", threads, ir.Constant(threads.type, 1))
        with builder.if_else(is_parallel) as (many, one):
            with many:
                number = ir.IntType(32)
                enter = ir.FunctionType(ir.VoidType(), [TASK.as_pointer(), POINTER, number, number])
                start = builder.inttoptr(address, enter.as_pointer())
                builder.call(start, [task, pointer, builder.trunc(threads, number), ir.Constant(number, 0)])
            with one:
                builder.call(task, [pointer])
        return context.get_dummy_value()

    return types.void(loop, members, args), generate
