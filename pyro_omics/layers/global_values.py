"""Values of global latents beside rows, whether or not they have dimensions for particles or draws in front.

Pyro gives a global latent with events of shape E one of these shapes:

- E itself, in a usual run;
- (particles, 1, *E) inside a plate of particles (``vectorize_particles=True``, ``Predictive(parallel=True)``): the 1 is
  the place of the rows, in whose plate the latent is not drawn;
- (1, *E) in ``Predictive(parallel=False)`` with a guide;
- (draws, *E) where a model in a plate of draws is conditioned on draws from MCMC, which lack the place of the rows.

The functions here take them all. A plain parameter is a global value of shape E.
"""

from __future__ import annotations

import torch
from torch import Tensor


def beside_rows(value: Tensor, event_dim: int) -> Tensor:
    """A global value that broadcasts with values of rows (..., n, *event): (*event), or (..., 1, *event).

    Parameters
    ----------
    value
        value of a global latent, (*event) or (..., *event).
    event_dim
        number of dimensions of its events.
    """
    if value.ndim == event_dim or value.shape[-event_dim - 1] == 1:
        return value
    return value.unsqueeze(-event_dim - 1)


def at_levels(table: Tensor, codes: Tensor, event_dim: int) -> Tensor:
    """Entries (..., n, *rest) of a global table (..., levels, *rest) at the level of each row.

    Parameters
    ----------
    table
        value of a global latent, with events (levels, *rest).
    codes
        (..., n) level of each row.
    event_dim
        number of dimensions of the table's events.
    """
    if table.ndim == event_dim:
        return table[codes]
    table = beside_rows(table, event_dim)
    return table[(*_positions(table.shape[: table.ndim - event_dim], 0, table), codes)]


def at_entries(table: Tensor, codes: Tensor) -> Tensor:
    """Entries (..., n, t) of a global table (..., levels, t) at the level of each row and column (n, t)."""
    if table.ndim == 2:
        return table.gather(0, codes)
    table = beside_rows(table, 2)
    return table[(*_positions(table.shape[:-2], 1, table), codes, torch.arange(table.shape[-1], device=table.device))]


def row_product(x: Tensor, weight: Tensor) -> Tensor:
    """The product x W (..., n, o) of rows x (..., n, i) and a global matrix W (i, o) or (..., i, o).

    ``x @ W`` would match dimensions of particles with the wrong ones where W has them too.
    """
    if weight.ndim > 2 and weight.shape[-3] == 1:
        weight = weight.squeeze(-3)
    return x @ weight


def _positions(batch: torch.Size, n_columns: int, like: Tensor) -> list[Tensor]:
    """For each leading dimension of a table, its positions, to be indexed together with codes (..., n, *columns)."""
    return [
        torch.arange(size, device=like.device).reshape(-1, *(1,) * (len(batch) - 1 - i + n_columns))
        for i, size in enumerate(batch)
    ]
