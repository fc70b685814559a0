"""Data: AnnData in, minibatches of tensors out."""

from pyro_omics.data import datasets, simulate
from pyro_omics.data.anndata_io.multimodal import from_mudata
from pyro_omics.data.blocks import Blocks
from pyro_omics.data.dna_encoded.fingerprints import add_fingerprints, fingerprints
from pyro_omics.data.dna_encoded.full_grid import complete_grid
from pyro_omics.data.dna_encoded.module import DELDataModule
from pyro_omics.data.dna_encoded.tables.layouts import LAYOUTS
from pyro_omics.data.dna_encoded.tables.reading import read_del
from pyro_omics.data.single_cell.module import CellDataModule

__all__ = [
    "LAYOUTS",
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
