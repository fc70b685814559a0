"""``pyro-omics del``: from a table of counts of a DNA-encoded library to a hit list, tables and figures."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from anndata import AnnData
from jsonargparse import ArgumentParser

from pyro_omics import plots
from pyro_omics.cli import dna_encoded_report
from pyro_omics.cli.fit_folder import CHECKPOINT, CONFIG, LAST
from pyro_omics.cli.option_messages import option_errors, printed_notes
from pyro_omics.data import DELDataModule, read_del
from pyro_omics.data.anndata_io.reading import read_path
from pyro_omics.data.dna_encoded.tables.layouts import LayoutName
from pyro_omics.evaluation.report import History, draw, old_results, write_metrics
from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.lightning import pl
from pyro_omics.models import HierarchicalDEL
from pyro_omics.posterior import Posterior
from pyro_omics.serialization.atomic_write import atomic_write, write_together

ANNDATA = (".h5ad", ".zarr")
DESCRIPTION = """Find the binders of a DNA-encoded library: read a table of counts, fit HierarchicalDEL, and write the
hit list, all compounds ranked, building blocks and pairs of them, the fitted model, figures and metrics.
In the tables of compounds, fold, fold_lower and fold_upper are multiples of the library's background; log_enrichment,
median, lower, upper and log_tag are natural logs. A ratio of inf means no count in the controls.

  pyro-omics del counts.csv --out runs/del
  pyro-omics del counts.csv --conditions sample1=target,sample2=target,beads=control --synthon_keys bb1,bb2,bb3"""


def main(args: list[str]) -> None:
    """Run the command with these arguments.

    Raises
    ------
    ValueError, OSError, ImportError
        For wrong input, before any training.
    """
    parser = ArgumentParser(
        prog="pyro-omics del", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", action="config", help="a YAML file with these options; options given here override it"
    )
    parser.add_function_arguments(analyse, as_positional=True)
    # In jsonargparse the last value counts: the file is put first, so that options override it wherever they stand.
    file = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    file.add_argument("--config", action="append", default=[])
    files, rest = file.parse_known_args(args)
    config = parser.parse_args([*(f"--config={name}" for name in files.config), *rest])
    options = parser.instantiate_classes(config).as_dict()
    options.pop("config")
    folder = analyse(**options)
    saved = atomic_write(folder / CONFIG, lambda path: parser.save(config, path, skip_none=False, multifile=False))
    print(f"  {saved}")


def analyse(
    table: str,
    out: str = "runs/del",
    conditions: dict[str, str] | str | None = None,
    layout: LayoutName | None = None,
    counts: Literal["umi", "raw"] = "umi",
    synthon_keys: list[str] | str | None = None,
    complete: bool | None = None,
    fdr: float = 0.1,
    threshold: float = 2.0,
    max_epochs: int = 100,
    seed: int = 0,
) -> Path:
    """Fit HierarchicalDEL, with its defaults, to a table of counts, and write the results.

    Parameters
    ----------
    table
        the counts: one row per compound, one column per selection (.csv, .tsv, .txt, also compressed, or .parquet;
        see pyro_omics.read_del), or an .h5ad or .zarr for pyro_omics.DELDataModule.
    out
        folder of the results. A path ending in .csv is the file of the hit list; the other results then go into the
        folder of the same name without .csv.
    conditions
        what columns of the table were selected on, where their names do not tell: COLUMN=CONDITION,..., or a mapping.
        A condition is "target", "control", "pre-selection" or another word.
    layout
        layout of the table; by default recognised by its columns.
    counts
        "umi": molecules; "raw": reads.
    synthon_keys
        columns of building blocks, COLUMN,..., or a list; by default recognised by their names.
    complete
        whether to add the combinations of building blocks that the table omits, with counts of zero; by default, if the
        table omits compounds without counts.
    fdr
        false discovery rate of the hit list, in (0, 1).
    threshold
        fold enrichment over the background that a hit must exceed, 1 or more.
    max_epochs
        number of passes over the compounds.
    seed
        seed of the order of the compounds, the training, and the posterior draws.

    Returns
    -------
    The folder.

    Raises
    ------
    ValueError, OSError, ImportError
        For wrong input, before any training.
    """
    _check_options(fdr, threshold, max_epochs)
    folder, paths = _paths(out, table)
    notes: list[str] = []
    reading = {"conditions": _as_mapping(conditions), "layout": layout, "counts": counts, "complete": complete}
    with printed_notes(notes), option_errors():
        dm = _read_data(table, reading, _as_list(synthon_keys), seed)
    dna_encoded_report.print_selections(dm)
    folder.mkdir(parents=True, exist_ok=True)  # fails before the training, if it fails
    svi, history = _fit(dm, max_epochs, seed)
    seconds, posterior = history.seconds, Posterior(svi, dm)
    with printed_notes(notes):
        tables = dna_encoded_report.tables(posterior, fdr, math.log(threshold), seed)
    figures = dna_encoded_report.figures(posterior, tables, seed)
    figures["training_curve.png"] = plots.training_curve(history.curves)
    given = {"table": table, "fdr": fdr, "threshold": threshold, "epochs": max_epochs, "seed": seed}
    fitted = dna_encoded_report.metrics(posterior, tables, history.curves)
    metrics = {**given, **fitted, "seconds": seconds, "notes": notes}

    def write(fresh: Path) -> None:
        for name, path in paths.items():
            if path.parent == folder:
                _write_csv(fresh / path.name, tables[name])
        svi.save(fresh / "model")
        draw(figures, fresh)
        write_metrics(fresh, metrics)

    elsewhere = [name for name, path in paths.items() if path.parent != folder]
    written = write_together(folder, write, old_results(folder) | {CHECKPOINT, LAST, CONFIG})
    written += [atomic_write(paths[name], partial(_write_csv, table=tables[name])) for name in elsewhere]
    dna_encoded_report.print_hits(tables, fdr, threshold, bool(dm.schema.controls))
    print(f"\nThe results are in {folder}\n" + "\n".join(f"  {path}" for path in written))
    return folder


# Input ----------------------------------------------------------------------------------------------------------------


def _check_options(fdr: float, threshold: float, max_epochs: int) -> None:
    if not 0 < fdr < 1:
        raise ValueError(f"fdr must be a rate between 0 and 1, such as 0.1; got {fdr}")
    if not 1 <= threshold < math.inf:
        raise ValueError(f"threshold must be a fold enrichment over the background, 1 or more; got {threshold}")
    if max_epochs < 1:
        raise ValueError(f"max_epochs must be a number of passes over the compounds, 1 or more; got {max_epochs}")


def _paths(out: str, table: str) -> tuple[Path, dict[str, Path]]:
    """The folder of the results, and the paths of the tables, by name; neither is created here."""
    path = Path(out).expanduser()
    folder = path.with_suffix("") if path.suffix.lower() == ".csv" else path
    paths = {name: folder / f"{name}.csv" for name in ("hits", "compounds", "synthons", "disynthons")}
    if path.suffix.lower() == ".csv":
        paths["hits"] = path
    if Path(table).resolve() in (place.resolve() for place in paths.values()):
        raise ValueError(f"out must not replace the table {table!r}; got {out!r}: pass another path")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out must be a folder; got {out!r}, and {folder} is a file: pass another path")
    if (model := folder / "model").exists() and not (model / "config.json").is_file():
        raise ValueError(
            f"out must not replace other files; got {out!r}, and {model} is not a saved model: pass another"
        )
    return folder, paths


def _as_mapping(conditions: Mapping[str, str] | str | None) -> Mapping[str, str] | None:
    if not isinstance(conditions, str):
        return conditions
    pairs = [pair.rpartition("=")[::2] for pair in conditions.split(",")]
    if not all(column and condition for column, condition in pairs):
        raise ValueError(f"conditions must be COLUMN=CONDITION,COLUMN=CONDITION; got {conditions!r}")
    return dict(pairs)


def _as_list(keys: Sequence[str] | str | None) -> list[str] | None:
    if isinstance(keys, str):
        return [key.strip() for key in keys.split(",")]
    return None if keys is None else list(keys)


def _read_data(table: str, reading: dict[str, Any], synthon_keys: list[str] | None, seed: int) -> DELDataModule:
    return DELDataModule(_read_table(table, reading, synthon_keys), synthon_keys=synthon_keys, seed=seed)


def _read_table(table: str, reading: dict[str, Any], synthon_keys: list[str] | None) -> AnnData:
    if Path(table).suffix.lower() not in ANNDATA:
        return read_del(table, synthon_keys=synthon_keys, **reading)
    for argument, value in reading.items():
        if value not in (None, "umi"):
            raise ValueError(
                f"{argument} must be left out for an AnnData such as {table!r}, since it says how to read a table; got "
                f'{value!r} (conditions are in adata.var["condition"])'
            )
    return read_path(table)[0]


# Training -------------------------------------------------------------------------------------------------------------


def _fit(dm: DELDataModule, max_epochs: int, seed: int) -> tuple[SVIModule, History]:
    pl.seed_everything(seed, verbose=False)
    svi, history = SVIModule(HierarchicalDEL.from_data(dm)), History()
    options = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False, "limit_val_batches": 0}
    trainer = pl.Trainer(max_epochs=max_epochs, accelerator="cpu", callbacks=[history], **options)
    try:
        with dna_encoded_report.without_lightning_messages():
            trainer.fit(svi, dm)
    except SystemExit:
        print("\nThe fit was ended by a signal; nothing was written. Run the command again", file=sys.stderr)
        raise
    return svi, history


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    table.to_csv(path, float_format="%.6g")
