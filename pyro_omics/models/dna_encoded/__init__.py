"""Models of DNA-encoded libraries: counts from features, and counts as a superposition of products.

A new model is a file of its own, imported here.
"""

from pyro_omics.models.dna_encoded.count_regression import DELCount
from pyro_omics.models.dna_encoded.hierarchical import HierarchicalDEL

__all__ = ["DELCount", "HierarchicalDEL"]
