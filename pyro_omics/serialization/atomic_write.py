"""Files that are whole or not there: written beside their place, then renamed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def atomic_write(path: Path, write: Any) -> Path:
    """Write beside, then rename: what was there stays whole until the new file is."""
    fresh = path.with_name(f".{path.stem}.tmp{path.suffix}")
    try:
        write(fresh)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    return path
