"""What a configuration may name: classes of this package, and parts of Pyro, torch and Lightning."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from jsonargparse import _common, set_parsing_settings

ALLOWED = (
    "pyro_omics",
    "pyro.distributions",
    "pyro.infer",
    "pyro.nn",
    "pyro.optim",
    "torch.Size",  # a type among the arguments of distributions
    "torch.distributions",
    "torch.nn",
    "torch.optim",
    "pytorch_lightning.accelerators",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.loggers",
    "pytorch_lightning.plugins",
    "pytorch_lightning.profilers",
    "pytorch_lightning.strategies",
    "functools.partial",
)
# These run commands, or look up objects by name.
DENIED = ("*", "pyro_omics.cli", "pyro_omics.serialization", "pyro_omics.testing", "torch.nn.utils")
OPTION = "--allow"
_own: ContextVar[tuple[str, ...]] = ContextVar("own packages", default=())


@contextmanager
def allowed_classes(packages: Sequence[str] = ()) -> Iterator[None]:
    """Let configurations name `ALLOWED` and these packages only; jsonargparse's settings are restored afterwards.

    Without it, a configuration could have any function called: a ``class_path`` of os.system.

    Parameters
    ----------
    packages
        dotted paths of packages, modules or classes of the user's own.

    Raises
    ------
    ValueError
        For a path that is not a dotted name.
    """
    if wrong := [name for name in packages if not all(part.isidentifier() for part in name.split("."))]:
        raise ValueError(
            f"{OPTION} must be the name of a package, such as mypackage or mypackage.priors; got {wrong[0]!r}"
        )
    # jsonargparse has no public function that restores them.
    before = {name: dict(v) if isinstance(v, dict) else v for name, v in _common.parsing_settings.items()}
    token = _own.set(tuple(packages))
    try:
        set_parsing_settings(
            import_path_denylist=list(DENIED),
            import_path_allowlist=[*ALLOWED, *packages],
            validate_subclass_spec_in_any=True,
            instantiate_subclass_spec_in_any=True,
        )
        yield
    finally:
        _own.reset(token)
        _common.parsing_settings.clear()
        _common.parsing_settings.update(before)


def own_packages() -> list[str]:
    """The packages of one's own that are allowed at present."""
    return list(_own.get())


def explain_denied(message: str) -> str:
    """An error message of jsonargparse's; of a name that is not allowed, what to do about it."""
    denied = re.search(r"Importing '([\w.]+)' is not allowed", message)
    if denied is None:
        return message
    package = denied[1].split(".")[0]
    # Nobody's own model is in these, and what is in them runs commands.
    foreign = package in sys.stdlib_module_names or package in ("jsonargparse", "numpy", "pytorch_lightning", "torch")
    return (
        f"a configuration must name classes of pyro_omics, or parts of Pyro, torch and Lightning; got {denied[1]!r}: "
        + ("choose one of these" if foreign else f"for code of your own, which is then run, pass {OPTION} {package}")
    )


def split_allowed(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """The packages of ``--allow PACKAGE`` (repeatable, or with commas), and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(OPTION, action="append", default=[])
    known, rest = parser.parse_known_args(list(args))
    return [name.strip() for given in known.allow for name in given.split(",")], rest
