"""The public names of the package: `po.NAME`."""

from pyro_omics import baselines, distributions, guides, kernels, layers, models, optim, plots, sizes, testing
from pyro_omics.data import (
    CellDataModule,
    DELDataModule,
    add_fingerprints,
    complete_grid,
    datasets,
    fingerprints,
    read_del,
    simulate,
)
from pyro_omics.evaluation import report
from pyro_omics.evaluation.comparison import compare
from pyro_omics.inference import elbos
from pyro_omics.inference.fitting import fit
from pyro_omics.inference.loading import load
from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.models.bayesianize import bayesianize
from pyro_omics.models.dna_encoded import *  # noqa: F403
from pyro_omics.models.single_cell import *  # noqa: F403
from pyro_omics.parts import dispersions, library_sizes, likelihoods, priors
from pyro_omics.parts import protein_background as proteins
from pyro_omics.parts import sparse_effects as effects
from pyro_omics.posterior import Posterior
from pyro_omics.version import __version__

__all__ = [
    "CellDataModule",
    "DELDataModule",
    "Posterior",
    "SVIModule",
    "__version__",
    "add_fingerprints",
    "baselines",
    "bayesianize",
    "compare",
    "complete_grid",
    "datasets",
    "dispersions",
    "distributions",
    "effects",
    "elbos",
    "fingerprints",
    "fit",
    "guides",
    "kernels",
    "layers",
    "library_sizes",
    "likelihoods",
    "load",
    "models",
    "optim",
    "plots",
    "priors",
    "proteins",
    "read_del",
    "report",
    "simulate",
    "sizes",
    "testing",
]
__all__ += models.single_cell.__all__
__all__ += models.dna_encoded.__all__
