"""What the captured graphs of the sampler read and write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gepa_loop.model.fused.rows import Past, Rows
from gepa_loop.sampling.cuda.drawn import Drawn

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Buffers:
    """What the captured graphs read and write; their addresses never change."""

    keys: list[Past]
    values: list[Past]
    rows: Rows
    drawn: Drawn
    slots: int
    """Without the one for rows that only fill a launch up."""

    @property
    def room(self) -> tuple[int, int, int, int]:
        """Of slots, shared tokens, prompts' tokens and completion tokens."""
        key = self.keys[0]
        return (
            self.slots,
            key.shared_GCD.shape[1],
            key.prompt_UGPD.shape[2],
            key.completion_RGTD.shape[2],
        )


@dataclass(frozen=True, eq=False)
class PromptReader:
    """Reads the prompts whose tokens were copied to `ids_UP`; `read` gives their hidden states."""

    ids_UP: Tensor
    read: Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Writer:
    """Writes the adapter whose matrices were copied to `factors`, A and B of each module, to the decoder's weights."""

    key: tuple[Any, ...]
    factors: list[Tensor]
    write: Callable[[], None]
