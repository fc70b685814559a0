"""Simulated data with known truth: cells, cells with proteins, and selections of DNA-encoded libraries."""

from pyro_omics.data.dna_encoded.simulate import del_from_prior, del_library
from pyro_omics.data.single_cell.simulate import cells, citeseq

__all__ = ["cells", "citeseq", "del_from_prior", "del_library"]
