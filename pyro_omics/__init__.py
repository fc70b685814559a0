"""pyro_omics: Pyro-native probabilistic models of count data in biology."""

import pyro as _pyro

# Before any PyroModule is built: parameters live in their modules, and two models in one session share nothing.
_pyro.settings.set(module_local_params=True)

from pyro_omics import baselines, distributions, guides, kernels, layers, models, plots, sizes, testing  # noqa: E402
from pyro_omics.data import (  # noqa: E402
    CellDataModule,
    DELDataModule,
    add_fingerprints,
    complete_grid,
    datasets,
    fingerprints,
    read_del,
    simulate,
)
from pyro_omics.evaluation import report  # noqa: E402
from pyro_omics.evaluation.comparison import compare  # noqa: E402
from pyro_omics.inference import elbos  # noqa: E402
from pyro_omics.inference.loading import load  # noqa: E402
from pyro_omics.inference.svi_module import SVIModule  # noqa: E402
from pyro_omics.models.bayesianize import bayesianize  # noqa: E402
from pyro_omics.models.dna_encoded import *  # noqa: E402, F403
from pyro_omics.models.single_cell import *  # noqa: E402, F403
from pyro_omics.parts import dispersions, library_sizes, likelihoods, priors  # noqa: E402
from pyro_omics.parts import protein_background as proteins  # noqa: E402
from pyro_omics.parts import sparse_effects as effects  # noqa: E402
from pyro_omics.posterior import Posterior  # noqa: E402
from pyro_omics.version import __version__  # noqa: E402

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
    "guides",
    "kernels",
    "layers",
    "library_sizes",
    "likelihoods",
    "load",
    "models",
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
