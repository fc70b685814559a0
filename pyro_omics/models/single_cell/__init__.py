"""Models of single-cell counts: scVI, totalVI, and scVI with labels.

A new model is a file of its own, imported here.
"""

from pyro_omics.models.single_cell.scanvi import SCANVI
from pyro_omics.models.single_cell.scvi import SCVI
from pyro_omics.models.single_cell.totalvi import TotalVI

__all__ = ["SCANVI", "SCVI", "TotalVI"]
