"""``pyro-omics compare``: fits of several configuration files on one split, in one table."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path

from pyro_omics import comparison, plots
from pyro_omics.report import draw, in_place

MARK = ".compared"
DESCRIPTION = """Fit several configuration files, each as `pyro-omics fit --config FILE` does, and compare them on the
held-out rows, which must be the same. What is fitted already, by the same file and options, is not fitted again.

  pyro-omics compare configs/a.yaml configs/b.yaml --out runs/compare --trainer.max_epochs=50"""


def main(args: list[str], fit: Callable[[list[str]], None]) -> None:
    """Run the command.

    Parameters
    ----------
    args
        of the command line: files, ``--out FOLDER``, and options that are passed on to each fit.
    fit
        runs ``pyro-omics`` with arguments.

    Raises
    ------
    ValueError, OSError
        For files that are fewer than two, missing, or of the same name.
    """
    parser = argparse.ArgumentParser(
        prog="pyro-omics compare",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="*", metavar="FILE.yaml", help="configurations, as of pyro-omics fit")
    parser.add_argument("--out", default="runs/compare", help="folder of the results, one folder in it for each file")
    given, options = parser.parse_known_args(args)
    files = [Path(name) for name in given.files]
    if loose := [option for option in options if not option.startswith("--") or "=" not in option]:
        raise ValueError(f"{loose[0]!r}: write options of the fits with an equals sign, --trainer.max_epochs=50")
    _check(files)
    out, fits = Path(given.out).expanduser(), {}
    for file in files:
        folder = out / file.stem
        mark = hashlib.sha256("\n".join([file.read_text(), *options]).encode()).hexdigest()
        if not _kept(folder, mark):
            (folder / MARK).unlink(missing_ok=True)
            print(f"\n{file}", flush=True)
            fit(["fit", "--config", str(file), *options, "--out", str(folder)])
            in_place(folder / MARK, lambda path, mark=mark: path.write_text(mark))
        fits[file.stem] = comparison.read(folder)
    table = comparison.table(fits)
    paths = [in_place(out / "comparison.csv", table.to_csv), *draw({"comparison.png": plots.comparison(table)}, out)]
    print(f"\n{table.round(2).to_string()}\n\nThe table is in {paths[0]}, and a figure in {paths[1]}")


def _kept(folder: Path, mark: str) -> bool:
    return (folder / MARK).is_file() and (folder / MARK).read_text() == mark


def _check(files: list[Path]) -> None:
    if len(files) < 2:
        raise ValueError(f"a comparison is of two files or more, and got {[str(file) for file in files]}")
    if missing := [str(file) for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{missing[0]!r} does not exist: give YAML files, as of pyro-omics fit --config")
    stems = [file.stem for file in files]
    if again := [stem for stem in stems if stems.count(stem) > 1]:
        raise ValueError(f"two files are called {again[0]!r}, and so would be the folders of their results: rename one")
