"""How fast this machine reads prompts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gepa_loop.model.base import Base

AT_ONCE = 8_192
"""Tokens that a GPU is given at a time, about as a server has them; on a CPU one prompt fills the machine."""
LEAST = 256
"""Tokens of a row: fewer would time the calls and not the reading."""
PASSES = 3


def tokens_per_second(base: Base, tokens: Sequence[int]) -> float:
    """The median of a few passes over a prompt, after one that warms up; on a GPU over as many copies as `AT_ONCE` has.

    Args:
        base: Who reads, without an adapter.
        tokens: What, repeated until there are `LEAST`.
    """
    import torch

    row = list(tokens) * -(-LEAST // max(1, len(tokens)))
    row = row[: base.context]
    rows = max(1, AT_ONCE // len(row)) if base.device.type == "cuda" else 1
    ids = torch.tensor([row] * rows, device=base.device)
    took = []
    with torch.no_grad():
        for _ in range(1 + PASSES):
            begun = time.perf_counter()
            states = base.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
            states[0, -1, 0].item()  # waits for the device
            took.append(time.perf_counter() - begun)
    return ids.numel() / statistics.median(took[1:])
