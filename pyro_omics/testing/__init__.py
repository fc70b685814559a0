"""The contract that every model of this package passes, for models of one's own: ``testing.check_model(model, dm)``."""

from pyro_omics.testing.contract import check_model

__all__ = ["check_model"]
