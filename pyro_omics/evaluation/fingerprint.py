"""Fingerprint of model, data and trainer, saved with a fit to recognise an identical fit later."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro.infer import ELBO
from torch import Tensor, nn

from pyro_omics.data.module import RowDataModule, digest
from pyro_omics.evaluation.source import source_digest
from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.lightning import pl, rank_zero_info
from pyro_omics.models.base import CountModel
from pyro_omics.schema import RowData
from pyro_omics.serialization.arguments import RecordsArguments, classes_of, encode, encode_factory
from pyro_omics.serialization.class_names import PACKAGE, class_name
from pyro_omics.version import __version__

UNKNOWN = "unknown"  # key that `encode` gives to objects that cannot be written as plain data, and so not compared


def fingerprint(svi: SVIModule, dm: RowData, trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that determines a fit, as plain JSON data: fits with equal fingerprints need not be repeated.

    Parameters
    ----------
    svi
        the untrained `SVIModule`, with the starting values of the fit.
    dm
        the DataModule.
    trainer
        name -> value of all other settings of the fit, such as the Trainer's arguments.

    Returns
    -------
    name of a part -> its settings or a digest; objects that cannot be described appear as ``{"unknown": CLASS}``.
    """
    pair, model, guide = _parts(svi)
    found = {
        "model": encode(model),
        "guide": guide,
        "elbo": _describe(svi.bound),
        "optimizer": encode(svi.make_optimizer),
        "scheduler": encode(svi.make_scheduler),
        "lr": svi.lr,
        "kl_warmup_epochs": svi.kl_warmup_epochs,
        "noise_seed": svi.noise_seed,
        "warm_start": svi.warm_start,
        "start": _state_digest(pair),
        "attributes": _attributes(pair),
        "data": _describe_data(dm),
        "trainer": {name: _describe(value) for name, value in trainer.items()},
        "versions": {"pyro_omics": __version__, "torch": torch.__version__, "pyro": pyro.__version__},
        "code": _code_digests(
            [svi, *pair.modules(), svi.bound, svi.make_optimizer, svi.make_scheduler, dm, dict(trainer)]
        ),
    }
    return json.loads(json.dumps(found))


def _parts(svi: SVIModule) -> tuple[nn.Module, CountModel, Any]:
    """The pair, its model, and the encoded guide; without an example batch, the model alone and the guide's maker."""
    if svi._waiting is not None:
        (model,) = svi._waiting
        return model, model, encode(svi._make_guide)
    return svi.elbo, svi.model, encode_factory(svi.guide)


def same_fit(folder: Path, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> bool:
    """Whether two fingerprints are of the same fit; logs the differences if not.

    Parameters
    ----------
    folder
        folder of the earlier fit, for the log.
    before
        fingerprint of the earlier fit; None where there is none.
    now
        fingerprint of the requested fit.
    """
    if before is None:
        return False
    unknown = [f"{name} (a {what})" for name, part in now.items() for what in _unknown(part)]
    differ = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if unknown:
        rank_zero_info(f"{folder} is fitted again: parts that cannot be compared are in its {', '.join(unknown)}")
    elif differ:
        rank_zero_info(f"{folder} is fitted again: it was fitted with other {', '.join(differ)}")
    return not (unknown or differ)


def _unknown(part: Any) -> Iterator[str]:
    """The names of the objects in a part of a fingerprint that could not be described."""
    if isinstance(part, dict):
        if part.keys() == {UNKNOWN}:
            yield part[UNKNOWN]
        part = list(part.values())
    for item in part if isinstance(part, list) else ():
        yield from _unknown(item)


def _describe(value: Any) -> Any:
    """Encode a value as `encode` does; tensors as digests, and objects that hold settings by their attributes."""
    if isinstance(value, Tensor | np.ndarray):
        return {"digest": _digest({"": torch.as_tensor(value)})}
    if isinstance(value, nn.Module):
        return {"class": class_name(type(value)), "digest": _state_digest(value)}
    if isinstance(value, list | tuple):
        return [_describe(item) for item in value]
    if isinstance(value, Mapping):
        return {"mapping": {str(name): _describe(item) for name, item in value.items()}}
    if isinstance(value, Enum):
        return {"class": class_name(type(value)), "name": value.name}
    described = encode(value)
    holds_settings = isinstance(value, ELBO | pl.Callback) or type(value).__module__.startswith(f"{PACKAGE}.")
    if UNKNOWN in (described if isinstance(described, dict) else ()) and holds_settings:
        return {"class": class_name(type(value)), "attributes": {k: _describe(v) for k, v in _settings(value).items()}}
    return described


def _settings(value: Any) -> dict[str, Any]:
    """Public attributes by name."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return {name: item for name, item in vars(value).items() if not name.startswith("_")}


def _attributes(pair: nn.Module) -> dict[str, Any]:
    """Other public attributes of each module that records its arguments, parameters and submodules excepted."""
    usual = {*vars(nn.Module()), "constructor_arguments", "constructor_edits"}
    return {
        f"{path}.{name}": _describe(value)
        for path, module in pair.named_modules()
        if isinstance(module, RecordsArguments)
        for name, value in _settings(module).items()
        if name not in usual
    }


def _state_digest(module: nn.Module) -> str:
    """A hash of parameters and buffers, and of which parameters are trained."""
    trained = {f"trained {name}": torch.tensor(p.requires_grad) for name, p in module.named_parameters()}
    return _digest({**module.state_dict(), **trained})


def _digest(tensors: Mapping[str, Tensor]) -> str:
    code = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        value = value.detach().cpu().contiguous()
        code.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        code.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return code.hexdigest()


def _describe_data(dm: RowData) -> dict[str, Any]:
    """Description of the rows of each split, the counts, and the other data of a minibatch."""
    if not isinstance(dm, RowDataModule):
        return {UNKNOWN: f"{type(dm).__name__}, which is not a DataModule of this package"}
    fields = {name: getattr(field, "digest", None) or _describe(field) for name, field in dm.data.fields.items()}
    rest = {"index": dm.data.index, "schema": dm.schema.to_dict(), "batch_size": dm.batch_size, "seed": dm.seed}
    return {
        **{split: digest(dm.adata.obs_names[dm.rows(split)]) for split in ("training", "validation")},
        "counts": dm.data.counts.digest,
        "fields": fields,
        **{name: _describe(value) for name, value in rest.items()},
        "blocks": _describe(dm.blocks),
    }


def _code_digests(objects: list[Any]) -> dict[str, Any]:
    """Class -> digest of its source, for classes outside installed packages."""
    classes = {base for cls in classes_of(objects) for base in cls.__mro__}
    found = {class_name(cls): source_digest(cls) for cls in classes}
    return dict(sorted((name, code) for name, code in found.items() if code is not None))
