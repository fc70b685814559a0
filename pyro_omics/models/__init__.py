"""Models: Pyro programs over a batch of counts."""

from pyro_omics.models.base import CountModel
from pyro_omics.models.scvi import SCVI
from pyro_omics.models.totalvi import TotalVI

__all__ = ["SCVI", "CountModel", "TotalVI"]
