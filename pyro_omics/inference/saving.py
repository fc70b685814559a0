"""Trained pairs on disk: weights as safetensors, everything else as JSON, no pickle."""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from safetensors.torch import load_file, save_file

from pyro_omics.models.base import CountModel, Guide
from pyro_omics.serialization.arguments import RecordsArguments, decode, encode, qualified_name
from pyro_omics.version import __version__

if TYPE_CHECKING:
    from pyro_omics.inference.svi_module import SVIModule

WEIGHTS, CONFIG = "weights.safetensors", "config.json"


def save(svi: SVIModule, path: str | Path) -> Path:
    """Write a folder with ``weights.safetensors`` and ``config.json``.

    The folder is written beside its place and renamed, so that what was there stays whole until the new one is.

    Raises
    ------
    FileExistsError
        Where ``path`` exists and is not such a folder.
    """
    path = Path(path).expanduser()
    if path.exists() and not (path / CONFIG).is_file():
        raise FileExistsError(f"{path} exists and is no saved model: choose a path that does not exist")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        # safetensors refuses shared memory; a copy each is small.
        save_file(
            {name: value.detach().cpu().clone() for name, value in svi.elbo.state_dict().items()}, fresh / WEIGHTS
        )
        (fresh / CONFIG).write_text(json.dumps(_config(svi), indent=1))
        os.chmod(fresh / WEIGHTS, 0o644)
        os.chmod(fresh, 0o755)
        if path.exists():
            old = path.rename(fresh.with_name(fresh.name + "-old"))
            try:
                fresh.rename(path)
            except OSError:
                old.rename(path)
                raise
            shutil.rmtree(old)
        else:
            fresh.rename(path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return path


def _config(svi: SVIModule) -> dict[str, Any]:
    guide = encode(svi.guide)
    if isinstance(svi.guide, RecordsArguments):
        # The guide's first argument is the model, which stands beside it.
        guide["arguments"] = dict(list(guide["arguments"].items())[1:])
    return {
        "pyro_omics": __version__,
        "model": encode(svi.model),
        "guide": guide,
        "kl_warmup_epochs": svi.kl_warmup_epochs,
        "schema": svi.schema,
    }


def load(
    path: str | Path,
    model: type[CountModel] | CountModel | None = None,
    guide: Callable[[CountModel], Guide] | None = None,
    **options: Any,
) -> SVIModule:
    """A trained pair from a folder that ``svi.save(path)`` wrote, ready for `Posterior` or further training.

    Parameters
    ----------
    path
        the folder.
    model
        your own model's class, or a model built as the saved one was; not needed for this package's models.
    guide
        your own guide's class (or any callable model -> guide); not needed for this package's guides.
    options
        for training further: `SVIModule`'s ``elbo``, ``optimizer`` and ``scheduler``, which are not saved.

    Raises
    ------
    FileNotFoundError
        Where the folder or one of its files is missing.
    ValueError
        Where the configuration names a class outside this package that was not passed in, or the weights do not fit.
    """
    from pyro_omics.inference.svi_module import SVIModule

    path = Path(path).expanduser()
    for name in (WEIGHTS, CONFIG):
        if not (path / name).is_file():
            raise FileNotFoundError(f"{path} has no {name}: it is not a folder that svi.save(path) wrote")
    try:
        config = json.loads((path / CONFIG).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path / CONFIG} is not JSON ({error}): it is not as svi.save(path) wrote it") from error
    given = not (model is None or isinstance(model, type))
    built = cast(CountModel, model) if given else _model(config["model"], cast("type[CountModel] | None", model))
    make_guide = _guide(config["guide"], guide) if guide is None or isinstance(guide, type) else guide
    svi = SVIModule(built, guide=make_guide, **{"kl_warmup_epochs": config["kl_warmup_epochs"], **options})
    try:
        svi.elbo.load_state_dict(load_file(path / WEIGHTS), strict=True)
    except RuntimeError as error:
        raise ValueError(f"the weights in {path} are not of this model and guide: {error}") from error
    svi.schema = config["schema"]
    return svi


def _model(data: dict[str, Any], cls: type[CountModel] | None) -> CountModel:
    if "class" not in data:
        raise ValueError("the saved model did not record its arguments: pass the model itself, load(path, model=MODEL)")
    return decode(data, {} if cls is None else {data["class"]: cls, qualified_name(cls): cls})


def _guide(data: dict[str, Any], cls: type | None) -> Callable[[CountModel], Guide]:
    if "class" not in data:
        if cls is not None:
            return cls
        raise ValueError(
            f"the guide was a {data.get('unknown')}, which is not made from its description: pass it, "
            "load(path, guide=MyGuide)"
        )
    arguments = decode({"mapping": data["arguments"]}, instead="guide=MODEL_TO_GUIDE")
    return functools.partial(cls or decode({"type": data["class"]}, instead="guide=MyGuide"), **arguments)
