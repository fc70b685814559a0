"""Bounds on the evidence: the ELBO, and importance-weighted and Renyi bounds of each row."""

from pyro_omics.inference.elbos import delta_kl as delta_kl  # registers the corrected KL of Delta distributions
from pyro_omics.inference.elbos.renyi import ImportanceWeightedELBO, RenyiELBO
from pyro_omics.inference.elbos.trace import TraceELBO

__all__ = ["ImportanceWeightedELBO", "RenyiELBO", "TraceELBO"]
