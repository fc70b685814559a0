"""Bounds on the evidence: the ELBO, and importance-weighted and Renyi bounds by row."""

from pyro_omics.inference.elbos import delta_kl as delta_kl  # registers the KL of autoguides' points
from pyro_omics.inference.elbos.renyi import ImportanceWeightedELBO, RenyiELBO
from pyro_omics.inference.elbos.trace import TraceELBO

__all__ = ["ImportanceWeightedELBO", "RenyiELBO", "TraceELBO"]
