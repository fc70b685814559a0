"""Load a trained model and guide from a folder written by `SVIModule.save`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pyro_omics.inference.description import make_described
from pyro_omics.inference.saved_pair import check_saved
from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.models.base import CountModel, Guide
from pyro_omics.schema import Schema
from pyro_omics.serialization.folder import read_folder


def load(
    path: str | Path,
    model: type[CountModel] | CountModel | None = None,
    guide: Callable[[CountModel], Guide] | Guide | None = None,
    classes: Iterable[type] = (),
    **options: Any,
) -> SVIModule:
    """Load the trained model and guide that ``svi.save(path)`` wrote, for `Posterior` or further training.

    Parameters
    ----------
    path
        the folder.
    model
        class of your own model, or a model built as the saved one was; not needed for this package's models.
    guide
        class of your own guide, any callable model -> guide, or a guide; not needed for this package's guides.
    classes
        your own classes that are used anywhere in the pair: priors, likelihoods, other parts, model and guide. They are
        matched by name and built with the saved arguments.
    options
        ``elbo``, ``optimizer`` and ``scheduler`` of `SVIModule` for further training, which are not saved.

    Raises
    ------
    FileNotFoundError
        Where the folder or one of its files is missing, as for a Trainer's checkpoint, which
        ``SVIModule.load_from_checkpoint`` reads.
    TypeError
        Where ``classes`` is not a list of classes.
    ValueError
        Where the configuration names a class outside this package that was not passed in, or where model or guide were
        not made as those that were saved.
    """
    weights, config, rows = read_folder(path, needed=("model", "guide", "kl_warmup_epochs", "schema"))
    built, maker = make_described(config, model, guide, classes)
    svi = SVIModule(built, guide=maker, **{"kl_warmup_epochs": config["kl_warmup_epochs"], **options})
    check_saved(config, weights, svi.elbo, (svi.model, svi.guide), path)
    svi.elbo.load_state_dict(weights, strict=True)
    svi.schema = None if config["schema"] is None else Schema.from_dict(config["schema"])
    svi.row_codes = rows
    return svi
