"""Dense matrices of mostly zero counts, and log(1 + x) of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyro_omics.kernels.compiled.run import run
from pyro_omics.kernels.dispatch import can_use_kernel


def dense_rows(rows: Tensor, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, columns: int) -> Tensor:
    """The ``rows`` (n,) of a canonical compressed (CSR) matrix, dense (n, columns), float32."""
    out = torch.empty(len(rows), columns, dtype=torch.float32)
    run("sparse_rows.dense", rows, indptr, indices, data, out)
    return out


def log1p(x: Tensor, scale_n1: Tensor | None = None) -> Tensor:
    """log(1 + scale x) of counts (..., n, g), with a scale for each row or none; faster for float32 on the CPU."""
    scaled = () if scale_n1 is None else (scale_n1,)
    is_cpu_float = x.device.type == "cpu" and x.dtype == torch.float32
    if not is_cpu_float or any(s.requires_grad for s in scaled) or not can_use_kernel(x, *scaled, smallest=(1, 1)):
        return torch.log1p(x if scale_n1 is None else x * scale_n1)
    scale = torch.ones(1) if scale_n1 is None else scale_n1.expand(*x.shape[:-1], 1).reshape(-1)
    out = torch.empty(x.shape, dtype=torch.float32)
    run("sparse_rows.log1p", x.reshape(-1, x.shape[-1]), scale, out.view(-1, x.shape[-1]))
    return out
