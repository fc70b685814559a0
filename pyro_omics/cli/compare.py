"""``pyro-omics compare``: fits of several configuration files on one split, in one table."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pyro_omics import plots
from pyro_omics.evaluation import comparison
from pyro_omics.evaluation.fingerprint import fingerprint, same_fit
from pyro_omics.evaluation.report import draw
from pyro_omics.schema import RowData
from pyro_omics.serialization.atomic_write import atomic_write

FINGERPRINT = ".compared"
DESCRIPTION = """Fit several configuration files, each as `pyro-omics fit --config FILE` does, and compare them on the
held-out rows, which must be the same, of the same counts. What is fitted already, by the same file and options, from
the same data and with the same code of your own classes, is not fitted again.

  pyro-omics compare configs/a.yaml configs/b.yaml --out runs/compare --trainer.max_epochs=50"""


class FittedAlreadyError(Exception):
    """The same fit is there already."""


def main(args: list[str], fit: Callable[[list[str], Callable[[Any, Any, Any], None]], None]) -> None:
    """Run the command.

    Parameters
    ----------
    args
        of the command line: files, ``--out FOLDER``, ``--reference NAME``, and options that are passed on to each fit.
    fit
        runs ``pyro-omics`` with arguments, and calls its second one with the SVIModule, the DataModule and the Trainer
        before training, which raises `FittedAlreadyError` where there is nothing to train.

    Raises
    ------
    ValueError, OSError
        For files that are fewer than two, missing, or of the same name; for a reference that is none of their names;
        and where their data differ.
    """
    parser = argparse.ArgumentParser(
        prog="pyro-omics compare",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="*", metavar="FILE.yaml", help="configurations, as of pyro-omics fit")
    parser.add_argument("--out", default="runs/compare", help="folder of the results, one folder in it for each file")
    parser.add_argument("--reference", help="file, by its name without .yaml, that differences are to; else the best")
    given, options = parser.parse_known_args(args)
    files = [Path(name) for name in given.files]
    if loose := [option for option in options if not option.startswith("--") or "=" not in option]:
        raise ValueError(f"{loose[0]!r}: write options of the fits with an equals sign, --trainer.max_epochs=50")
    _check(files)
    comparison.check_reference(given.reference, [file.stem for file in files])
    out, fits, data = Path(given.out).expanduser(), {}, {}
    for file in files:
        folder = out / file.stem
        print(f"\n{file}", flush=True)
        data[file.stem] = _fitted(file, options, folder, fit)["data"]
        fits[file.stem] = comparison.read(folder)
    table = comparison.table(fits, given.reference)
    _check_data(data)
    paths = [
        atomic_write(out / "comparison.csv", table.to_csv),
        *draw({"comparison.png": plots.comparison(table)}, out),
    ]
    print(f"\n{table.round(2).to_string()}\n\nThe table is in {paths[0]}, and a figure in {paths[1]}")


def _fitted(file: Path, options: list[str], folder: Path, fit: Callable[..., None]) -> dict[str, Any]:
    """The fingerprint of the fit in the folder, after it was made where it is not there already."""
    text = hashlib.sha256("\n".join([file.read_text(), *options]).encode()).hexdigest()
    current: dict[str, Any] = {}

    def check(svi: Any, dm: RowData, trainer: Any) -> None:
        # The trainer's settings are in the file; of its callbacks, own classes' code is not.
        settings = {"file and options": text, "callbacks": [type(callback) for callback in trainer.callbacks]}
        current.update(fingerprint(svi, dm, settings))
        if same_fit(folder, _read(folder / FINGERPRINT), current):
            raise FittedAlreadyError
        (folder / FINGERPRINT).unlink(missing_ok=True)

    try:
        fit(["fit", "--config", str(file), *options, "--out", str(folder)], check)
    except FittedAlreadyError:
        print(f"is fitted already, in {folder}", flush=True)
    else:
        atomic_write(folder / FINGERPRINT, lambda path: path.write_text(json.dumps(current, indent=1)))
    return current


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError:  # of an earlier version
        return {}


def _check_data(data: dict[str, dict[str, Any]]) -> None:
    """Refuse fits whose held-out rows have the same names, and are not the same."""
    first, *others = data
    for other in others:
        for part, what in (("counts", "counts"), ("training", "training rows")):
            if data[other].get(part) != data[first].get(part):
                raise ValueError(
                    f"{other!r} was fitted to other {what} than {first!r}: compare on the same data and split, with "
                    "the same data.adata, layer, masks, validation_size and seed in each file"
                )


def _check(files: list[Path]) -> None:
    if len(files) < 2:
        raise ValueError(f"a comparison is of two files or more, and got {[str(file) for file in files]}")
    if missing := [str(file) for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{missing[0]!r} does not exist: give YAML files, as of pyro-omics fit --config")
    stems = [file.stem for file in files]
    if again := [stem for stem in stems if stems.count(stem) > 1]:
        raise ValueError(f"two files are called {again[0]!r}, and so would be the folders of their results: rename one")
