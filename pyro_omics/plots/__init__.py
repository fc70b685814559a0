"""Figures of data, training and posterior. Each function returns a matplotlib Figure and does not show it."""

from pyro_omics.plots.calibration import calibration
from pyro_omics.plots.comparison import comparison
from pyro_omics.plots.cube import cube
from pyro_omics.plots.selections import replicate_agreement, target_against_control
from pyro_omics.plots.synthon_forest import synthon_forest
from pyro_omics.plots.training_curve import training_curve
from pyro_omics.plots.umap import umap

__all__ = [
    "calibration",
    "comparison",
    "cube",
    "replicate_agreement",
    "synthon_forest",
    "target_against_control",
    "training_curve",
    "umap",
]
