"""Where what is made once lies, for all runs of a user."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """GEPA_LOOP_CACHE, else `gepa-loop` in the user's folder of caches. What lies there may be deleted; it is made again."""
    if own := os.environ.get("GEPA_LOOP_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gepa-loop"
