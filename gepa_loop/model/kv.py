"""A key-value cache that is written in place, so that a decoded token never copies the past."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.cache_utils import Cache, DynamicLayer

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig


class _Layer(DynamicLayer):  # type: ignore[misc]
    """Keys and values [rows, kv_heads, capacity, D], of which the first `length` positions are filled."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: Any = None
        self.values: Any = None
        self.capacity = 0
        self.length = 0

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        rows, heads, new, width = key_states.shape
        if self.keys is None:
            capacity = max(self.capacity, new)
            self.keys = key_states.new_empty(rows, heads, capacity, width)
            self.values = value_states.new_empty(rows, heads, capacity, value_states.shape[-1])
            self.is_initialized = True
        end = self.length + new
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self, *_: Any) -> int:
        return self.length


class KVCache(Cache):  # type: ignore[misc]
    """The past of a batch: one layer for each of the model's, with a capacity of `capacity` positions."""

    def __init__(self, layers: int, capacity: int) -> None:
        super().__init__(layers=[_Layer() for _ in range(layers)])
        for layer in self.layers:
            layer.capacity = capacity

    def rows(self, index_R: Tensor, capacity: int) -> KVCache:
        """A new cache whose row r is this one's row `index_R[r]`, with a capacity of `capacity` positions."""
        out = KVCache(len(self.layers), capacity)
        for old, new in zip(self.layers, out.layers, strict=True):
            for name in ("keys", "values"):
                past = getattr(old, name)
                fresh = past.new_empty(len(index_R), past.shape[1], capacity, past.shape[3])
                fresh[:, :, : old.length] = past[index_R.to(past.device), :, : old.length]
                setattr(new, name, fresh)
            new.length, new.is_initialized = old.length, True
        return out


def empty_cache(config: PretrainedConfig, capacity: int) -> KVCache:
    """A cache without a past for a model of this config."""
    return KVCache(config.num_hidden_layers, capacity)
