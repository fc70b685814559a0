"""Data: AnnData in, minibatches of tensors out."""

from pyro_omics.data import datasets, simulate
from pyro_omics.data.blocks import Blocks
from pyro_omics.data.cells import CellDataModule
from pyro_omics.data.chemistry import add_fingerprints, fingerprints
from pyro_omics.data.compounds import DELDataModule
from pyro_omics.data.del_reading import read_del
from pyro_omics.data.grid import complete_grid
from pyro_omics.data.reading import from_mudata

__all__ = [
    "Blocks",
    "CellDataModule",
    "DELDataModule",
    "add_fingerprints",
    "complete_grid",
    "datasets",
    "fingerprints",
    "from_mudata",
    "read_del",
    "simulate",
]
