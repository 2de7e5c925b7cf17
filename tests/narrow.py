"""A device with little memory, for tests."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gepa_loop.model.base import Base
from gepa_loop.model.forward import Prefix, hidden_states
from gepa_loop.model.packed import Packed


@dataclass
class Narrow:
    """A forward on a device with memory for `most` positions."""

    base: Base
    most: int
    released: int = 0

    def __call__(self, packed: Packed, prefix: Prefix) -> torch.Tensor:
        if packed.ids_BL.numel() > self.most:
            raise torch.OutOfMemoryError(f"no memory for {packed.ids_BL.numel()} positions")
        return hidden_states(self.base.model, packed, prefix)

    def release(self) -> None:
        self.released += 1
