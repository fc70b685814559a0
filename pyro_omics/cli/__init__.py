"""The command line, ``pyro-omics``."""

from pyro_omics.cli.main import main

__all__ = ["main"]
