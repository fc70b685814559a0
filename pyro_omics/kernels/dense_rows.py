"""Dense matrices of counts, most of which are zero."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyro_omics.kernels import nonzero
from pyro_omics.kernels.compiled.run import run


def dense_rows(rows: Tensor, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, columns: int) -> Tensor:
    """The ``rows`` (n,) of canonical compressed rows, dense (n, columns), float32, with their note (`stored.note`)."""
    at = rows.numpy()
    start, stop = indptr[at], indptr[at + 1]
    bounds = torch.zeros(len(at) + 1, dtype=torch.long)
    np.cumsum(stop - start, out=bounds[1:].numpy())
    position = torch.empty(int(bounds[-1]), dtype=torch.long)
    out = torch.empty(len(at), columns, dtype=torch.float32)
    run("sparse_rows.dense", rows, indptr, indices, data, bounds, position, out)
    return nonzero.note(out, position, bounds)


def log1p_of_stored(x: Tensor, scale_n1: Tensor | None = None) -> Tensor:
    """log(1 + scale x) of counts (n, g) on a processor, noted as they are."""
    found, bounds = nonzero.positions(x), nonzero.bounds(x)
    if x.dtype == torch.float32:
        out = torch.empty(x.shape, dtype=torch.float32)
        scale = torch.ones(1) if scale_n1 is None else scale_n1.expand(*x.shape[:-1], 1).reshape(-1)
        matrices = (t.reshape(-1, x.shape[-1]) for t in (x, out))
        run("sparse_rows.log1p", next(matrices), found, bounds, scale.float(), next(matrices))
        return nonzero.note(out, found, bounds)
    values = x.flatten().index_select(0, found)
    if scale_n1 is not None:
        values *= scale_n1.flatten().repeat_interleave(nonzero.row_lengths(x), output_size=len(found))
    out = torch.zeros(x.shape, dtype=x.dtype)
    out.view(-1).scatter_(0, found, values.log1p_())
    return nonzero.note(out, found, bounds)


def joined(x: Tensor, more: Tensor) -> Tensor:
    """``torch.cat([x, more], -1)``, noted where ``x`` is (`stored.note`)."""
    position = nonzero.known(x)
    plain = any(t.requires_grad or t.dtype != torch.float32 or t.device.type != "cpu" or t.ndim != 2 for t in (x, more))
    if position is None or plain or len(x) != len(more):
        return torch.cat([x, more], -1)
    bounds = nonzero.bounds(x)
    ends = bounds.clone()
    ends[1:] += more.count_nonzero(-1).cumsum(0)
    out = torch.empty(len(x), x.shape[1] + more.shape[1], dtype=torch.float32)
    all_places = torch.empty(int(ends[-1]), dtype=torch.long)
    run("sparse_rows.join", x, position, bounds, more, out, all_places, ends)
    return nonzero.note(out, all_places, ends)
