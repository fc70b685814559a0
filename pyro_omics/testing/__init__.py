"""`check_model(model, dm)`: the tests that every model of this package passes, for models of your own."""

from pyro_omics.testing.contract import check_model

__all__ = ["check_model"]
