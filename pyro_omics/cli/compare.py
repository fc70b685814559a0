"""``pyro-omics compare``: fit several configuration files on one split, and compare them in one table."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities.rank_zero import rank_zero_only

from pyro_omics import plots
from pyro_omics.evaluation import comparison
from pyro_omics.evaluation.fingerprint import fingerprint, same_fit
from pyro_omics.evaluation.report import draw
from pyro_omics.schema import RowData
from pyro_omics.serialization.atomic_write import atomic_write

FINGERPRINT = ".compared"
DESCRIPTION = """Fit several configuration files, each as `pyro-omics fit --config FILE` does, and compare them on the
held-out rows, which must be the same in all fits, with the same counts. A fit that exists already, with the same file
and options, the same data and the same code of your own classes, is not repeated.

  pyro-omics compare configs/a.yaml configs/b.yaml --out runs/compare --trainer.max_epochs=50"""


class FittedAlreadyError(Exception):
    """Raised before a training that would repeat a saved fit."""


def main(args: list[str], fit: Callable[[list[str], Callable[[Any, Any, Any], None]], None]) -> None:
    """Run the command.

    Parameters
    ----------
    args
        arguments of the command line: files, ``--out FOLDER``, ``--reference NAME``, and options passed on to each fit.
    fit
        function of (arguments, check) that runs ``pyro-omics`` with these arguments, and calls
        ``check(svi, dm, trainer)`` before training; ``check`` raises `FittedAlreadyError` if the fit exists already.

    Raises
    ------
    ValueError, OSError
        For fewer than two files, missing files, or files of the same name; for an unknown reference; and where the data
        of the fits differ.
    """
    parser = argparse.ArgumentParser(
        prog="pyro-omics compare",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="*", metavar="FILE.yaml", help="configuration files of pyro-omics fit")
    parser.add_argument("--out", default="runs/compare", help="folder of the results, with a folder for each file")
    parser.add_argument(
        "--reference", help="file name, without .yaml, of the fit that differences are taken to; by default the best"
    )
    given, options = parser.parse_known_args(args)
    files = [Path(name) for name in given.files]
    if loose := [option for option in options if not option.startswith("--") or "=" not in option]:
        raise ValueError(
            f"options of the fits must be written with an equals sign, --trainer.max_epochs=50; got {loose[0]!r}"
        )
    _check_files(files)
    comparison.check_reference(given.reference, [file.stem for file in files])
    out, data = Path(given.out).expanduser(), {}
    for file in files:
        _say(f"\n{file}")
        data[file.stem] = _fit_or_reuse(file, options, out / file.stem, fit)["data"]
    if rank_zero_only.rank:
        return  # a process that Lightning started takes part in the fits alone
    fits = {file.stem: comparison.read(out / file.stem) for file in files}
    table = comparison.table(fits, given.reference)
    _check_data(data)
    paths = [
        atomic_write(out / "comparison.csv", table.to_csv),
        *draw({"comparison.png": plots.comparison(table)}, out),
    ]
    print(f"\n{table.round(2).to_string()}\n\nThe table is in {paths[0]}, and a figure in {paths[1]}")


@rank_zero_only
def _say(text: str) -> None:
    print(text, flush=True)


def _fit_or_reuse(file: Path, options: list[str], folder: Path, fit: Callable[..., None]) -> dict[str, Any]:
    """Fit a configuration, unless the same fit is in the folder already, and return its fingerprint."""
    text = hashlib.sha256("\n".join([file.read_text(), *options]).encode()).hexdigest()
    current: dict[str, Any] = {}

    def check(svi: Any, dm: RowData, trainer: Any) -> None:
        # The file has the trainer's settings, but not the code of the user's callbacks.
        settings = {"file and options": text, "callbacks": [type(callback) for callback in trainer.callbacks]}
        current.update(fingerprint(svi, dm, settings))
        if same_fit(folder, _read_fingerprint(folder / FINGERPRINT), current):
            raise FittedAlreadyError
        (folder / FINGERPRINT).unlink(missing_ok=True)

    try:
        fit(["fit", "--config", str(file), *options, "--out", str(folder)], check)
    except FittedAlreadyError:
        _say(f"is fitted already, in {folder}")
        return current
    if not rank_zero_only.rank:
        atomic_write(folder / FINGERPRINT, lambda path: path.write_text(json.dumps(current, indent=1)))
    return current


def _read_fingerprint(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError:  # written by an earlier version
        return {}


def _check_data(data: dict[str, dict[str, Any]]) -> None:
    """Raise for fits to other counts or training rows, which held-out rows of the same names do not show."""
    first, *others = data
    for other in others:
        for part, what in (("counts", "counts"), ("training", "training rows")):
            if data[other].get(part) != data[first].get(part):
                raise ValueError(
                    f"{other!r} was fitted to other {what} than {first!r}: compare on the same data and split, with "
                    "the same data.adata, layer, masks, validation_size and seed in each file"
                )


def _check_files(files: list[Path]) -> None:
    if len(files) < 2:
        raise ValueError(f"compare must be given two files or more; got {[str(file) for file in files]}")
    if missing := [str(file) for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{missing[0]!r} does not exist: pass YAML files, as to pyro-omics fit --config")
    stems = [file.stem for file in files]
    if repeated := [stem for stem in stems if stems.count(stem) > 1]:
        raise ValueError(
            f"files must have different names, which name the folders of their results; got {repeated[0]!r} twice: "
            "rename one"
        )
