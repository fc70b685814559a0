"""Data: AnnData in, minibatches of tensors out."""

from pyro_omics.data import datasets, simulate
from pyro_omics.data.cells import CellDataModule
from pyro_omics.data.reading import from_mudata

__all__ = ["CellDataModule", "datasets", "from_mudata", "simulate"]
