"""ClippedAdam's step over all parameters at once, compiled by numba: one pass over memory."""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from pyro_omics.kernels.compiled.cache import compiled
from pyro_omics.kernels.compiled.threads import row_range, together


@intrinsic
def _pointer(typing: Any, address: Any) -> Any:
    """An address as a pointer to float32."""
    return types.CPointer(types.float32)(types.int64), lambda context, builder, signature, args: builder.inttoptr(
        args[0], ir.FloatType().as_pointer()
    )


@compiled(error_model="numpy", fastmath={"contract"})
def _step(w, g, m, v, rate, beta1, rest1, beta2, rest2, eps, decay, clip):
    for k in range(len(w)):
        slope = g[k]
        slope = clip if slope > clip else slope  # neither holds of NaN, which is to be seen
        slope = -clip if slope < -clip else slope
        g[k] = slope
        slope += decay * w[k]
        mean = beta1 * m[k] + rest1 * slope
        square = beta2 * v[k] + rest2 * slope * slope
        m[k], v[k] = mean, square
        w[k] -= rate * mean / (math.sqrt(square) + eps)


@compiled()
def _adam(threads, table, rate, beta1, rest1, beta2, rest2, eps, decay, clip):
    for row in table:
        n = row[0]
        start, stop = row_range(threads, n)
        w, g = carray(_pointer(row[1]), n)[start:stop], carray(_pointer(row[2]), n)[start:stop]
        m, v = carray(_pointer(row[3]), n)[start:stop], carray(_pointer(row[4]), n)[start:stop]
        _step(w, g, m, v, rate, beta1, rest1, beta2, rest2, eps, decay, clip)


@compiled()
def adam(threads, table, numbers):
    """One step; see `optim.ClippedAdam`.

    ``table`` (parameters, 5) int64 says of each parameter how many entries it has, and where it, its gradient and the
    means of the gradient and of its square lie; ``numbers`` are float32: the corrected learning rate, beta_1,
    1 - beta_1, beta_2, 1 - beta_2, epsilon, the weight decay and the bound of the gradient.
    """
    rate, beta1, rest1, beta2, rest2, eps, decay, clip = numbers
    together(_adam, threads, (threads, table, rate, beta1, rest1, beta2, rest2, eps, decay, clip))
