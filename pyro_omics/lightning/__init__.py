"""Lightning, from the one of its two packages that is in use: ``pytorch_lightning``, or else ``lightning.pytorch``.

The two hold the same code, and a Trainer of one refuses modules of the other. If, at the first use of a name of
this package, only ``lightning.pytorch`` has been imported, modules and DataModules are of that one; otherwise they are
of ``pytorch_lightning``.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytorch_lightning as pl
else:
    _is_other = "lightning.pytorch" in sys.modules and "pytorch_lightning" not in sys.modules
    pl = importlib.import_module("lightning.pytorch" if _is_other else "pytorch_lightning")

rank_zero_info = pl.utilities.rank_zero_info

__all__ = ["pl", "rank_zero_info"]
