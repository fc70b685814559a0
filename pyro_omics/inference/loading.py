"""Load a trained model and guide from a folder written by `SVIModule.save`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.models.base import CountModel, Guide
from pyro_omics.schema import Schema
from pyro_omics.serialization.arguments import decode
from pyro_omics.serialization.class_names import qualified_name
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
        Where the folder or one of its files is missing.
    TypeError
        Where ``classes`` is not a list of classes.
    ValueError
        Where the configuration names a class outside this package that was not passed in, or the weights do not fit.
    """
    known = _by_name(classes)
    weights, config = read_folder(path)
    built: Any = model
    if model is None or isinstance(model, type):
        built = decode(config["model"], _with_class(known, config["model"], model))
    if guide is None or isinstance(guide, type):
        guide = _guide(config["guide"], known, guide)
    svi = SVIModule(built, guide=guide, **{"kl_warmup_epochs": config["kl_warmup_epochs"], **options})
    try:
        svi.elbo.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} do not fit this model and guide: {error}") from error
    svi.schema = None if config["schema"] is None else Schema.from_dict(config["schema"])
    return svi


def _by_name(classes: Iterable[type]) -> dict[str, type]:
    """Classes by dotted path."""
    given = list(classes) if isinstance(classes, Iterable) else [classes]
    if not isinstance(classes, Iterable) or not all(isinstance(cls, type) for cls in given):
        raise TypeError(f"classes must be a list of classes, such as [MyPrior]; got {classes!r}")
    return {qualified_name(cls): cls for cls in given}


def _with_class(known: dict[str, type], data: dict[str, Any], cls: Any) -> dict[str, type]:
    """The known classes, with ``cls`` in place of the saved class, whatever its name."""
    saved = data.get("class", data.get("partial"))
    return known if cls is None or saved is None else {**known, saved: cls, qualified_name(cls): cls}


def _guide(data: dict[str, Any], known: dict[str, type], cls: type | None) -> Callable[[CountModel], Guide]:
    if "unknown" in data:  # the guide did not record its arguments
        name = data["unknown"].rpartition(".")[2]
        if (found := cls or known.get(data["unknown"])) is None:
            raise ValueError(
                f"the guide was a {data['unknown']}, which did not record its arguments: pass a callable that makes it "
                f"from the model, load(path, guide={name})"
            )
        return found
    maker = {"partial": data.get("partial", data.get("class")), "arguments": data["arguments"]}
    return decode(maker, _with_class(known, data, cls))
