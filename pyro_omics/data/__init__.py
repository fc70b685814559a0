"""Data: AnnData in, minibatches of tensors out."""

from pyro_omics.data import datasets, simulate
from pyro_omics.data.cells import CellDataModule

__all__ = ["CellDataModule", "datasets", "simulate"]
