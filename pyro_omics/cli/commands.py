"""The command line: ``pyro-omics fit | validate | test | predict`` (Lightning's CLI), ``compare`` and ``del``."""

from __future__ import annotations

import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from pkgutil import resolve_name
from pydoc import locate
from typing import Any

import pytorch_lightning as pl
import torch
from jsonargparse import Namespace
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from torch.distributions import Distribution

from pyro_omics.cli import compare, dna_encoded
from pyro_omics.cli.allowed_classes import allowed_classes, explain_denied, split_allowed
from pyro_omics.cli.fit_folder import CONFIG, FitFolder, ended_by, last_checkpoint
from pyro_omics.cli.wrong_values import explain_wrong_value
from pyro_omics.data.module import RowDataModule
from pyro_omics.evaluation.report import Report
from pyro_omics.inference.checkpoint_io import ENTRY, read_checkpoint
from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.models import CountModel
from pyro_omics.models.bayesianize import bayesianize
from pyro_omics.parts.weight_priors import WeightPrior
from pyro_omics.schema import Schema
from pyro_omics.serialization.atomic_write import atomic_write
from pyro_omics.serialization.class_names import class_name
from pyro_omics.sizes import Sizes

USAGE = """pyro-omics {name} --config FILE.yaml [--data.adata FILE.h5ad] [--out FOLDER] [options]

Data, model and guide are classes, chosen by name, with their arguments given here or in the YAML:
  --data.adata cells.h5ad --data.batch_key donor          the data (pyro_omics.CellDataModule)
  --model.model pyro_omics.SCVI --model.model.n_latent 20 the model
  --model.model.likelihood pyro_omics.likelihoods.NegativeBinomial
  --model.guide pyro_omics.guides.Amortized --model.guide.rest pyro.infer.autoguide.AutoMultivariateNormal
  --data pyro_omics.DELDataModule --data.adata counts.csv --model.model pyro_omics.HierarchicalDEL
  --model.optimizer pyro.optim.clipped_adam.ClippedAdam --model.optimizer.lr 4e-3
  --bayesianize decoder                                   make the decoder's weights latent
  --print_config                                          print the whole configuration, and stop
  --model.model.help pyro_omics.SCVI                      the arguments of a class
  --allow mypackage                                       let the configuration name classes of your own package"""
DEFAULTS = {"data": "pyro_omics.CellDataModule", "model.model": "pyro_omics.SCVI"}
DESCRIPTION = """Probabilistic models of count data in biology. For a DNA-encoded library, `pyro-omics del COUNTS.csv
--out FOLDER` goes from a table of counts to a hit list: see `pyro-omics del --help`. `pyro-omics compare A.yaml B.yaml`
fits several configurations on one split: see `pyro-omics compare --help`."""
MISMATCH = "choose a model (--model.model) for these data (--data), or data for this model"
LINKED = tuple(field.name for field in fields(Sizes) if field.name != "n_latent")  # arguments set from the data


class OmicsParser(LightningArgumentParser):
    """A parser in which a class chosen in place of a default class keeps its own defaults."""

    def get_defaults(self, *args: Any, **kwargs: Any) -> Any:
        """The defaults, with the default classes by name alone."""
        # Otherwise the chosen class would take the default class' values for all arguments of the same name.
        defaults = super().get_defaults(*args, **kwargs)
        for key in DEFAULTS:
            if key in defaults:
                defaults[key].pop("init_args", None)
        return defaults

    def error(self, message: str, ex: Exception | None = None) -> None:
        """Exit with a message; of a class or an argument that may not be named, or is not there, with the mend."""
        # The parsers of the arguments of a class do not exit: theirs are part of the message that is explained.
        text = str(message)
        super().error(explain_wrong_value(explain_denied(text)) if self.exit_on_error else text, ex)


class OmicsCLI(LightningCLI):
    """Lightning's CLI for model, guide, ELBO and optimizer over a DataModule; the model's sizes come from the data."""

    command: str | None = None  # that goes on with a fit, if not ``pyro-omics fit``

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the arguments of data and model, before the trainer's many arguments."""
        parser.add_lightning_class_args(pl.LightningDataModule, "data", subclass_mode=True)
        parser.add_lightning_class_args(SVIModule, "model")
        parser.add_lightning_class_args(pl.Trainer, "trainer")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the folder of the results, latent weights, the report, and the links from data to model."""
        parser.add_argument("--out", type=str, default="runs/latest", help="folder of the results")
        parser.add_argument(
            "--bayesianize", type=list[str] | str | None, default=None,
            help="parts of the model whose parameters become latents, such as decoder (pyro_omics.bayesianize)",
        )  # fmt: skip
        parser.add_argument(
            "--weight_prior", type=WeightPrior | Distribution | None, default=None,
            help="their prior, such as pyro_omics.priors.Horseshoe, pyro.distributions.Laplace; Normal(0, 1) when null",
        )  # fmt: skip
        parser.add_lightning_class_args(Report, "report")
        parser.set_defaults(
            {
                **{key: {"class_path": name} for key, name in DEFAULTS.items()},
                "trainer.logger": False,
            }
        )
        parser.link_arguments("out", "trainer.default_root_dir")
        # A link to an argument that the model does not have is ignored.
        parser.link_arguments("data.sizes", "model.model.init_args.sizes", apply_on="instantiate")
        for name in LINKED:
            target = f"model.model.init_args.{name}"
            parser.link_arguments("data.sizes", target, compute_fn=_field(name), apply_on="instantiate")

    def instantiate_classes(self) -> None:
        """Instantiate all classes; data for a checkpoint are aligned to those that it was trained on."""
        parser = self._parser(self.subcommand)
        parser.add_instantiator(self._make_model, CountModel, subclasses=True)
        if self.subcommand != "fit" and self.trained is not None:
            parser.add_instantiator(_aligned_data(self.trained), pl.LightningDataModule, subclasses=True)
        super().instantiate_classes()

    def _make_model(self, cls: type, *args: Any, **kwargs: Any) -> Any:
        """The model, with its sizes from the data, and with latent weights if ``bayesianize`` names parts."""
        model = _make_sized(cls, *args, **kwargs)
        parts, prior = (self.config[self.subcommand][name] for name in ("bayesianize", "weight_prior"))
        if not parts and prior is not None:
            raise ValueError("weight_prior needs parts with latent weights: name them, such as bayesianize=decoder")
        if not parts:
            return model
        if prior is not None:
            # Lightning's instantiate_class would import pyro_omics.priors, which is a public name but not a module.
            prior = resolve_name(prior.class_path)(**prior.as_dict().get("init_args", {}))
        return bayesianize(model, *([parts] if isinstance(parts, str) else parts), prior=prior)

    def _parse_ckpt_path(self) -> None:
        # Lightning's own method reads hyperparameters, which these checkpoints do not have, and fails on other files.
        config = self.config[self.config.subcommand]
        if config.get("ckpt_path") == "last" and self.config.subcommand == "fit":
            config["ckpt_path"] = self._last_checkpoint(config)
        checkpoint = config.get("ckpt_path")
        if checkpoint is None and self.config.subcommand != "fit":
            raise ValueError(
                f"--ckpt_path is needed, since {self.config.subcommand} runs a trained model: pass the checkpoint.ckpt "
                "of a fit, and --config with the config.yaml beside it"
            )
        self.trained = None if checkpoint is None else read_checkpoint(checkpoint)[ENTRY]

    def _last_checkpoint(self, config: Any) -> str | None:
        """The path of the last checkpoint of a fit with this configuration; None before its first."""
        callbacks = config.trainer.callbacks
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        given = [callback.get("init_args") or {} for callback in callbacks if isinstance(callback, Namespace)]
        folders = [Path(config.out), *(Path(args["dirpath"]) for args in given if args.get("dirpath"))]
        found = last_checkpoint(folders)
        print(f"The fit goes on from {found}" if found else f"No checkpoint in {config.out} yet: the fit starts afresh")
        return None if found is None else str(found)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer; a fit's default checkpoint is written to the folder of the results."""
        given = self.config_init[self.subcommand].trainer.get("callbacks")
        given = list(given) if isinstance(given, list) else [given]  # a copy: Lightning adds its own to the list
        trainer = super().instantiate_trainer(**kwargs)
        if self.subcommand == "fit":
            resumed = self.config[self.subcommand].get("ckpt_path")
            self._folder = FitFolder(self._out, self._write_config, resumed, self.command)
            self._folder.attach(trainer, given)
        return trainer

    def fit(self, **kwargs: Any) -> None:
        """Fit; where a signal ended the fit, exit with its status, whatever else it ended."""
        try:
            with self._folder.writing():
                self.trainer.fit(**kwargs)
        except RuntimeError as error:
            if self._folder.status is None:
                raise
            raise SystemExit(self._folder.status) from error
        finally:
            self.trainer._signal_connector.teardown()  # Lightning keeps its handlers where a callback fails at the end

    def after_fit(self) -> None:
        """Write the report, and print the paths of its files."""
        if self.trainer.is_global_zero and not self.trainer.interrupted:
            report = next(c for c in self.trainer.callbacks if isinstance(c, Report))
            self._folder.begin()
            with self._folder.writing(), self._folder.reporting():
                if number := ended_by(self.trainer):  # after the last step, when Lightning no longer looks
                    sys.exit(128 + number)
                paths = report.write(self.model, self.datamodule, self.trainer, self._out)
            saved = [getattr(callback, "best_model_path", "") for callback in self.trainer.checkpoint_callbacks]
            paths += [Path(os.path.relpath(path)) for path in saved if path]
            print("\nThe results are in", self._out)
            print("\n".join(f"  {path}" for path in [*paths, self._out / CONFIG]))

    def _write_config(self, path: Path) -> None:
        config = self.config[self.subcommand].clone()
        config["ckpt_path"] = None  # of the fit, however it was resumed
        self._parser(self.subcommand).save(config, path, skip_none=False, overwrite=True, multifile=False)
        # jsonargparse writes the modules that classes are defined in, which may move; public names stay.
        path.write_text(re.sub(r"(?<![\w./])pyro_omics(?:\.\w+)+", _public_name, path.read_text()))

    def before_validate(self) -> None:
        """Raise for data without held-out rows, on which Lightning would silently do nothing."""
        if isinstance(self.datamodule, RowDataModule) and not len(self.datamodule.rows("validation")):
            raise ValueError(
                "no rows are held out to validate on: pass data.validation_size or data.validation_indices, as in the "
                "fit"
            )

    def before_predict(self) -> None:
        """Raise for a model without a latent, and for several processes, each of which would write some of the rows."""
        if self.trainer.world_size > 1:
            raise ValueError(
                f"predict writes one file, but the Trainer has {self.trainer.world_size} processes: pass "
                "trainer.devices=1"
            )
        pair = getattr(self.model, "elbo", None)  # a model without an example batch has no pair before it sees data
        if pair is not None and not pair.model.local_sites:
            name = type(pair.model).__name__
            raise ValueError(
                f"{name} has no local sites, so its rows have no latent to predict: use a Posterior with its queries, "
                f"{list(pair.model.queries)}"
            )

    def after_predict(self) -> None:
        """Write the data with the predicted latent to predictions.h5ad."""
        predictions = self.trainer.predict_loop.predictions
        adata = self.datamodule.adata.copy()
        row = torch.cat([part["row"] for part in predictions])
        key = self.model.model.latent_key
        for name, obsm in (("latent", key), ("latent_sd", f"{key}_sd")):
            adata.obsm[obsm] = torch.cat([part[name] for part in predictions])[row.argsort()].numpy()
        self._out.mkdir(parents=True, exist_ok=True)
        path = atomic_write(self._out / "predictions.h5ad", adata.write_h5ad)
        print(f"\nThe data with obsm[{key!r}] are in {path}")

    @property
    def _out(self) -> Path:
        return Path(self.config[self.subcommand].out)


def _public_name(path: re.Match[str]) -> str:
    """The public path of the class at a path of this package; the path itself where there is no such class."""
    found = locate(path[0])
    return class_name(found) if isinstance(found, type) else path[0]


def _field(name: str) -> Callable[[Any], Any]:
    def size(sizes: Any) -> Any:
        return getattr(sizes, name, None)

    size.__name__ = name  # --help shows this name
    return size


def _make_sized(cls: type, *args: Any, **kwargs: Any) -> Any:
    """Make a model with sizes linked from the data; a size that the data do not have is None and is left out.

    Raises
    ------
    ValueError
        Where the model requires a size that the data do not have.
    """
    kwargs = {name: value for name, value in kwargs.items() if value is not None or name not in LINKED}
    wanted = inspect.signature(cls.__init__).parameters  # type: ignore[misc]
    required = (name for name in LINKED if name in wanted and wanted[name].default is inspect.Parameter.empty)
    if absent := [name for name in required if name not in kwargs]:
        raise ValueError(f"{cls.__name__} needs {', '.join(absent)}, which these data do not have: {MISMATCH}")
    return cls(*args, **kwargs)


def _aligned_data(trained: dict[str, Any]) -> Any:
    """An instantiator of DataModules that aligns them to the training data of a checkpoint."""

    def instantiate(cls: type, *args: Any, **kwargs: Any) -> Any:
        dm = cls(*args, **kwargs)
        schema = None if trained["schema"] is None else Schema.from_dict(trained["schema"])
        if schema != dm.schema or trained["n_obs"] != dm.n_obs:
            dm.adopt(schema, trained["n_obs"], trained.get("sizes"))
        return dm

    return instantiate


def _shorten(message: str) -> str:
    """An error message without jsonargparse's list of all types that a value was tried as."""
    if sizes := re.match(r"Not a valid subclass of (\w*Sizes)\. Got value: (\w*Sizes)\(", message):
        return f"the model needs {sizes[1]}, but these data have {sizes[2]}: {MISMATCH}"
    if not message.startswith("Does not validate against any of the Union subtypes"):
        return message
    tried = re.findall(r"^  - (.*(?:\n    .*)*)", message, flags=re.MULTILINE)
    return "\n".join(error for error in tried if "NoneType" not in error) or message


def main(args: list[str] | None = None) -> None:
    """Run the command line; wrong input exits with the error message alone (JSONARGPARSE_DEBUG=1 for a traceback)."""
    given = list(sys.argv[1:] if args is None else args)
    # As with `python script.py`: the user's own classes are found in the working folder.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    # A fit replaces the results of the last one in its folder on purpose.
    # The arguments without --allow are those of sys.argv, which stay there for the processes that Lightning starts.
    for message in (
        "Checkpoint directory .* exists and is not empty",
        "The dirpath has changed from",
        "LightningCLI's args parameter",
    ):
        warnings.filterwarnings("ignore", message=message)
    try:
        packages, given = split_allowed(given)
        with allowed_classes(packages):
            if given[:1] == ["del"]:
                dna_encoded.main(given[1:])
            elif given[:1] == ["compare"]:
                compare.main(given[1:], _run_checked)
            else:
                _run_lightning(given)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        if os.environ.get("JSONARGPARSE_DEBUG"):
            raise
        sys.exit(f"pyro-omics: error: {_shorten(str(error))}")


def _run_checked(args: list[str], check: Callable[[Any, Any, Any], None]) -> None:
    """Run Lightning's CLI with these arguments; ``check(svi, dm, trainer)`` is called before a fit."""

    class Checked(OmicsCLI):
        command = "the same command: fits that were finished are not repeated"

        def before_fit(self) -> None:
            check(self.model, self.datamodule, self.trainer)

    _run_lightning(args, Checked)


def _run_lightning(args: list[str] | None, cli: type[OmicsCLI] = OmicsCLI) -> None:
    cli(
        SVIModule,
        pl.LightningDataModule,
        subclass_mode_data=True,
        save_config_callback=None,  # `after_fit` writes the configuration with the results
        seed_everything_default=0,
        parser_class=OmicsParser,
        parser_kwargs={
            "prog": "pyro-omics",
            "description": DESCRIPTION,
            **{name: {"usage": USAGE.format(name=name)} for name in ("fit", "validate", "test", "predict")},
        },
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=args,
    )


if __name__ == "__main__":
    main()
