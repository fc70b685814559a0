"""The command line: ``pyro-omics fit | validate | test | predict``, by Lightning's CLI."""

from __future__ import annotations

import os
import sys
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from pyro_omics.batch import Sizes
from pyro_omics.report import Report, in_place
from pyro_omics.svi import SVIModule


class OmicsCLI(LightningCLI):
    """Lightning's CLI for (model, guide, ELBO, optimizer) over a DataModule; sizes are linked from the data."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the folder of the results, the report, the checkpoint, and the links."""
        parser.add_argument("--out", type=str, default="runs/latest", help="folder that the results are written to")
        parser.add_lightning_class_args(Report, "report")
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "data": {"class_path": "pyro_omics.CellDataModule"},
                "model.model": {"class_path": "pyro_omics.SCVI"},
                "checkpoint.filename": "checkpoint",
                "checkpoint.enable_version_counter": False,
                "trainer.logger": False,
            }
        )
        parser.link_arguments("out", "trainer.default_root_dir")
        parser.link_arguments("out", "checkpoint.dirpath")
        # A model takes what it names of these; a link to an argument that it does not have is passed over.
        parser.link_arguments("data.sizes", "model.model.init_args.sizes", apply_on="instantiate")
        for field in fields(Sizes):
            if field.name != "n_latent":
                target = f"model.model.init_args.{field.name}"
                parser.link_arguments("data.sizes", target, compute_fn=attrgetter(field.name), apply_on="instantiate")

    def instantiate_classes(self) -> None:
        """Make the parts; data that are asked about a checkpoint are aligned to what it was trained on."""
        command = self.config[self.subcommand]
        checkpoint = command.get("ckpt_path")
        if self.subcommand != "fit" and checkpoint is not None:
            trained = _description(checkpoint)
            parser = self._parser(self.subcommand)
            parser.add_instantiator(_adopting(trained), pl.LightningDataModule, subclasses=True)
        super().instantiate_classes()

    def after_fit(self) -> None:
        """Write the report, and say where it is."""
        if self.trainer.is_global_zero and not self.trainer.interrupted:
            report = next(c for c in self.trainer.callbacks if isinstance(c, Report))
            paths = report.write(self.model, self.datamodule, self.trainer, self._out)
            paths.insert(0, self._out / "checkpoint.ckpt")
            print("\nThe results are in", self._out)
            print("\n".join(f"  {path}" for path in paths))

    def after_predict(self) -> None:
        """Write the data with their latent."""
        predictions = self.trainer.predict_loop.predictions
        adata = self.datamodule.adata.copy()
        row = torch.cat([part["row"] for part in predictions])
        key = f"X_{type(self.model.model).__name__.lower()}"
        for name, obsm in (("latent", key), ("latent_sd", f"{key}_sd")):
            adata.obsm[obsm] = torch.cat([part[name] for part in predictions])[row.argsort()].numpy()
        self._out.mkdir(parents=True, exist_ok=True)
        path = in_place(self._out / "predictions.h5ad", adata.write_h5ad)
        print(f"\nThe data with obsm[{key!r}] are in {path}")

    @property
    def _out(self) -> Path:
        return Path(self.config[self.subcommand].out)


def _description(checkpoint: str) -> dict[str, Any]:
    if not Path(checkpoint).is_file():
        raise FileNotFoundError(f"ckpt_path={checkpoint!r} does not exist: give the .ckpt file that a fit left")
    loaded = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if "pyro_omics" not in loaded:
        raise ValueError(f"ckpt_path={checkpoint!r} is no checkpoint of this package's SVIModule")
    return loaded["pyro_omics"]


def _adopting(trained: dict[str, Any]) -> Any:
    def instantiate(cls: type, *args: Any, **kwargs: Any) -> Any:
        dm = cls(*args, **kwargs)
        if trained["schema"] != dm.schema or trained["n_obs"] != dm.n_obs:
            dm.adopt(trained["schema"], trained["n_obs"])
        return dm

    return instantiate


def main(args: list[str] | None = None) -> None:
    """Run the command line; errors of the input end it with their message alone (JSONARGPARSE_DEBUG=1 for more)."""
    try:
        OmicsCLI(
            SVIModule,
            pl.LightningDataModule,
            subclass_mode_data=True,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=0,
            parser_kwargs={"prog": "pyro-omics", "description": "Probabilistic models of count data in biology."},
            auto_configure_optimizers=False,
            args=args,
        )
    except (ValueError, FileNotFoundError) as error:
        if os.environ.get("JSONARGPARSE_DEBUG"):
            raise
        sys.exit(f"pyro-omics: error: {error}")


if __name__ == "__main__":
    main()
