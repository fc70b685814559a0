"""Models: Pyro programs over a batch of counts."""

from pyro_omics.models.base import CountModel
from pyro_omics.models.del_count import DELCount
from pyro_omics.models.hierarchical_del import HierarchicalDEL
from pyro_omics.models.scanvi import SCANVI
from pyro_omics.models.scvi import SCVI
from pyro_omics.models.totalvi import TotalVI

__all__ = ["SCANVI", "SCVI", "CountModel", "DELCount", "HierarchicalDEL", "TotalVI"]
