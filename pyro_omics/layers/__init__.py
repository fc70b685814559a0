"""Layers and networks of the models.

All are PyroModules down to the last Linear, so that any weight can become a latent variable, and all accept sample
dimensions in front of the rows.
"""

from pyro_omics.layers.basic import BatchNorm, Dropout, LayerNorm, Linear, SparseLinear
from pyro_omics.layers.eval_mode import eval_mode, prototype_trace, without_side_effects
from pyro_omics.layers.inputs import (
    Covariates,
    at_entries,
    at_levels,
    beside_rows,
    log_counts,
    log_normalised,
    row_product,
)
from pyro_omics.layers.module import FastPyroModule
from pyro_omics.layers.networks import (
    Branches,
    Classifier,
    Decoder,
    Encoder,
    FCLayers,
    GatedAttention,
    ResidualMLP,
    start_outputs,
)

__all__ = [
    "BatchNorm",
    "Branches",
    "Classifier",
    "Covariates",
    "Decoder",
    "Dropout",
    "Encoder",
    "FCLayers",
    "FastPyroModule",
    "GatedAttention",
    "LayerNorm",
    "Linear",
    "ResidualMLP",
    "SparseLinear",
    "at_entries",
    "at_levels",
    "beside_rows",
    "eval_mode",
    "log_counts",
    "log_normalised",
    "prototype_trace",
    "row_product",
    "start_outputs",
    "without_side_effects",
]
