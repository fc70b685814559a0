"""Queries of a fitted model, labelled and with rows in the order of the AnnData."""

from pyro_omics.posterior.posterior import Posterior

__all__ = ["Posterior"]
