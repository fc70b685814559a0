"""Queries of a fitted model, with rows in AnnData's order and labelled."""

from pyro_omics.posterior.posterior import Posterior

__all__ = ["Posterior"]
