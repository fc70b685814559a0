"""Models: Pyro programs over a batch of counts."""

from pyro_omics.models.base import CountModel
from pyro_omics.models.scvi import SCVI

__all__ = ["SCVI", "CountModel"]
