"""Models: Pyro programs over a batch of counts."""

from pyro_omics.models import dna_encoded, single_cell
from pyro_omics.models.base import CountModel
from pyro_omics.models.dna_encoded import *  # noqa: F403
from pyro_omics.models.single_cell import *  # noqa: F403

__all__ = ["CountModel"]
__all__ += single_cell.__all__
__all__ += dna_encoded.__all__
