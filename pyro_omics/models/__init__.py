"""Models: Pyro programs over a batch of counts."""

from pyro_omics.models.base import CountModel
from pyro_omics.models.dna_encoded.count_regression import DELCount
from pyro_omics.models.dna_encoded.hierarchical import HierarchicalDEL
from pyro_omics.models.single_cell.scanvi import SCANVI
from pyro_omics.models.single_cell.scvi import SCVI
from pyro_omics.models.single_cell.totalvi import TotalVI

__all__ = ["SCANVI", "SCVI", "CountModel", "DELCount", "HierarchicalDEL", "TotalVI"]
