"""The command line, ``pyro-omics``."""

from __future__ import annotations

import sys

__all__ = ["main"]

HELP = """usage: pyro-omics COMMAND [options]

Probabilistic models of count data in biology.

commands:
  fit        fit a model to data, and write its results to a folder
  validate   score a fitted model on the held-out rows
  test       score a fitted model on the test rows
  predict    the latent of data by a fitted model
  compare    fit several configurations on one split: pyro-omics compare A.yaml B.yaml
  del        from a table of counts of a DNA-encoded library to a hit list: pyro-omics del COUNTS.csv --out FOLDER

`pyro-omics COMMAND --help` has the options of each."""


def main(args: list[str] | None = None) -> None:
    """Run the command line; wrong input exits with the error message alone (JSONARGPARSE_DEBUG=1 for a traceback)."""
    given = sys.argv[1:] if args is None else args
    if given in (["-h"], ["--help"]):  # at once: the rest imports torch and Lightning
        print(HELP)
        sys.exit(0)
    from pyro_omics.cli import commands

    commands.main(args)
