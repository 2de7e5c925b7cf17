"""Seeds derived from a run's one seed."""

from __future__ import annotations

import hashlib
import json


def derive_seed(seed: int, *path: str | int) -> int:
    """A 63-bit seed for one place in a run: the same for the same path, unrelated between paths."""
    digest = hashlib.sha256(json.dumps([seed, *path]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
