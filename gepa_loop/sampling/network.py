"""How the in-process sampler runs a model: any model by its own modules, a Llama-like one on the CPU by fused weights.

Both keep the past of each row apart from the tokens that all prompts begin with. Masks are over a row's own positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.nn.functional import pad

from gepa_loop.model.attention import layer_masks
from gepa_loop.model.fused.columns import FusedNetwork
from gepa_loop.model.fused.decoder import unsupported
from gepa_loop.model.kv import KVCache, empty_cache
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.low_rank import Twin

if TYPE_CHECKING:
    from torch import Tensor

    from gepa_loop.model.base import Base


class Past(Protocol):
    """Keys and values of a batch."""

    @property
    def length(self) -> int:
        """A row's own positions so far, without what is shared."""
        ...

    def rows(self, index_R: Tensor, capacity: int) -> Past:
        """A past whose row r is this one's row `index_R[r]`, with a capacity of `capacity` own positions."""
        ...


class Network(Protocol):
    """A model with one adapter at a time."""

    def write(self, adapter: Adapter | None) -> None:
        """Compute with this adapter from now on; base weights are never written to."""
        ...

    def prefill(self, tokens: list[int]) -> Any:
        """The past of what all prompts begin with; None without any."""
        ...

    def past(self, shared: Any, count: int, capacity: int) -> Past:
        """A past of `count` rows after what is shared, with a capacity of `capacity` own positions."""
        ...

    def forward(self, ids_BT: Tensor, past: Any, positions_BT: Tensor, mask_BTS: Tensor | None) -> Tensor:
        """Logits [B, V] after the last of the tokens, which join the past.

        Args:
            ids_BT: The tokens.
            past: From `past`; changed in place.
            positions_BT: Their positions, shared tokens counted.
            mask_BTS: True where attending is allowed among a row's own positions, the new ones included; None allows
                all, and needs T = 1.
        """
        ...


def open_network(base: Base) -> Network:
    """The faster of the two for a model."""
    # 24 tokens of 16 rows of a 135M model took a CPU 3.23 s by its modules and 2.51 s fused.
    if base.device.type == "cpu" and unsupported(base.model) is None:
        return FusedNetwork(base)
    return ModuleNetwork(base)


class ModuleNetwork:
    """The model's own modules; their weights are shared with it, not copied."""

    def __init__(self, base: Base) -> None:
        self._twin = Twin(base.model)
        self._model = self._twin.model

    def write(self, adapter: Adapter | None) -> None:
        self._twin.set_adapter(adapter)

    def prefill(self, tokens: list[int]) -> KVCache | None:
        if not tokens:
            return None
        cache = empty_cache(self._model.config, len(tokens))
        ids = torch.tensor([tokens], device=self._model.device)
        self._run(ids, cache, torch.arange(len(tokens), device=ids.device)[None], None)
        return cache

    def past(self, shared: KVCache | None, count: int, capacity: int) -> _ModulePast:
        length = 0 if shared is None else shared.get_seq_length()
        places_BS = torch.arange(length, device=self._model.device).expand(count, -1)
        if shared is None:
            return _ModulePast(empty_cache(self._model.config, capacity), 0, places_BS)
        rows = torch.zeros(count, dtype=torch.long, device=self._model.device)
        return _ModulePast(shared.rows(rows, length + capacity), length, places_BS)

    def forward(
        self, ids_BT: Tensor, past: _ModulePast, positions_BT: Tensor, mask_BTS: Tensor | None
    ) -> Tensor:
        past.places_BS = torch.cat([past.places_BS, positions_BT], 1)
        if mask_BTS is None:
            return self._run(ids_BT, past.cache, positions_BT, None)
        # What is shared lies before each row's own positions and has no padding.
        mask_B1TS = pad(mask_BTS, (past.shared, 0), value=True)[:, None]
        masks = layer_masks(self._model.config, mask_B1TS, positions_BT, past.places_BS)
        return self._run(ids_BT, past.cache, positions_BT, masks)

    def _run(
        self, ids_BT: Tensor, cache: KVCache, positions_BT: Tensor, mask: Tensor | dict[str, Tensor] | None
    ) -> Tensor:
        # Of the last position alone: logits of 49,152 tokens are 200 KB in float32, for each token of each prompt.
        out = self._model(
            input_ids=ids_BT,
            attention_mask=mask,
            position_ids=positions_BT,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1]
        return logits


@dataclass(eq=False)
class _ModulePast:
    """The shared tokens are copied into every row."""

    cache: KVCache
    shared: int
    places_BS: Tensor
    """Positions of all tokens so far; those of padding are any."""

    @property
    def length(self) -> int:
        return int(self.cache.get_seq_length()) - self.shared

    def rows(self, index_R: Tensor, capacity: int) -> _ModulePast:
        return _ModulePast(
            self.cache.rows(index_R, self.shared + capacity), self.shared, self.places_BS[index_R]
        )
