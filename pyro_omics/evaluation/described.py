"""What a fit is of, as it is kept beside it: by this a comparison knows whether to read it, or to fit again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_info

from pyro_omics.data.module import RowDataModule, digest
from pyro_omics.evaluation.identity import UntoldError, identity
from pyro_omics.inference.svi_module import SVIModule
from pyro_omics.serialization.arguments import encode


def described_pair(svi: SVIModule) -> dict[str, Any]:
    """What tells a freshly made SVIModule from others: its `identity`; and settings, for a reader."""
    pair = {} if svi._unmade is not None else {"model": encode(svi.model), "guide": encode(svi.guide)}
    return {
        **pair,
        "elbo": type(svi.bound).__name__,
        "optimizer": encode(svi.make_optimizer),
        "scheduler": encode(svi.make_scheduler),
        "kl_warmup_epochs": svi.kl_warmup_epochs,
        "noise_seed": svi.noise_seed,
        "code, settings and start": told(svi),
    }


def described_data(dm: Any) -> dict[str, Any]:
    """What tells data from others: their rows in each split, their counts, and all else that a minibatch is made of."""
    if not isinstance(dm, RowDataModule):
        return {"untold": f"a {type(dm).__name__}"}
    rows = {split: digest(dm.adata.obs_names[dm.rows(split)]) for split in ("training", "validation")}
    fields = {name: getattr(field, "digest", field) for name, field in dm.data.fields.items()}
    rest = [type(dm), type(dm.data), fields, dm.data.index, dm.schema, dm.batch_size, dm.seed, dm.blocks]
    return {**rows, "counts": dm.data.counts.digest, "rest": told(rest)}


def told(value: Any) -> dict[str, str]:
    """Its `identity`, or that it has none."""
    try:
        return {"identity": identity(value)}
    except UntoldError as error:
        return {"untold": str(error)}


def is_kept(folder: Path, before: dict[str, Any] | None, described: dict[str, Any]) -> bool:
    """Whether a folder has this very fit, by its description; where it has another one, the log says what differs."""
    if before is None:
        return False
    differ = [name for name in {**before, **described} if before.get(name) != described.get(name)]
    untold = [f"{name} ({what})" for name, part in described.items() for what in _untold(part)]
    if untold:
        rank_zero_info(f"{folder} is fitted again: what cannot be told from others is part of its {', '.join(untold)}")
    elif differ:
        rank_zero_info(f"{folder} is fitted again: it was fitted with other {', '.join(differ)}")
    return not (untold or differ)


def _untold(part: Any) -> list[str]:
    if not isinstance(part, dict):
        return []
    return [part["untold"]] if "untold" in part else [what for inner in part.values() for what in _untold(inner)]
