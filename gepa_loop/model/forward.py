"""From packed rows to hidden states by the model's own modules, after a prefix that is computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from gepa_loop.model.attention import layer_masks
from gepa_loop.model.kv import KVCache, empty_cache
from gepa_loop.model.lora.training import divide
from gepa_loop.model.packed import Packed

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Prefix:
    """The tokens that every prompt begins with, and their keys and values as one row."""

    length: int = 0
    cache: KVCache | None = None


States = Callable[["PreTrainedModel", Packed, Prefix], Tensor]
"""A model, packed rows and a prefix -> last hidden states [N, H] at the positions that predict the completion tokens."""


class Forward(Protocol):
    """How a model is run in training."""

    def __call__(self, packed: Packed, prefix: Prefix) -> Tensor:
        """Last hidden states [N, H] of packed rows after a prefix, at the positions that predict the completion tokens."""
        ...

    def release(self) -> None:
        """Give back the memory that is held between calls."""
        ...


@torch.no_grad()
def read_prefix(model: PreTrainedModel, tokens: Sequence[int]) -> Prefix:
    """Compute the keys and values of `tokens` with the model's present adapters."""
    if not tokens:
        return Prefix()
    cache = empty_cache(model.config, len(tokens))
    ids = torch.tensor([list(tokens)], device=model.device)
    model.get_decoder()(input_ids=ids, past_key_values=cache, use_cache=True)
    return Prefix(len(tokens), cache)


def renew_prefix(model: PreTrainedModel, tokens: Sequence[int], prefix: Prefix) -> None:
    """Compute a prefix again, in place, after the model has moved; captured graphs read it where it lies."""
    new = read_prefix(model, tokens)
    if prefix.cache is not None and new.cache is not None:
        for old, layer in zip(prefix.cache.layers, new.cache.layers, strict=True):
            old.keys.copy_(layer.keys)
            old.values.copy_(layer.values)


def hidden_states(model: PreTrainedModel, packed: Packed, prefix: Prefix) -> Tensor:
    """`Forward` with the model's own modules and present adapters."""
    divide(model, packed.students_B, packed.ids_BL.shape[1])
    cache = None
    if prefix.cache is not None:
        rows = torch.zeros(len(packed.ids_BL), dtype=torch.long, device=model.device)
        cache = prefix.cache.rows(rows, prefix.length + packed.ids_BL.shape[1])
    before = torch.arange(prefix.length, device=model.device).expand(len(packed.ids_BL), -1)
    places_BS = torch.cat([before, packed.positions_BL], 1)
    out = model.get_decoder()(
        input_ids=packed.ids_BL,
        attention_mask=layer_masks(model.config, packed.mask_B1LS, packed.positions_BL, places_BS),
        position_ids=packed.positions_BL,
        past_key_values=cache,
        use_cache=cache is not None,
    )
    states: Tensor = out.last_hidden_state[packed.rows_N, packed.columns_N]
    return states


def recomputed_states(model: PreTrainedModel, packed: Packed) -> Tensor:
    """`hidden_states` without a prefix, whose backward pass computes each layer again from its input.

    For long rows: 36 layers of a 4B model keep 0.2 MB of a position this way, and 4.6 MB otherwise.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, GradientCheckpointingLayer)]
    for layer in layers:
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        # Of the layer alone, not of the dropout inside.
        layer.gradient_checkpointing = layer.training = True
    try:
        return hidden_states(model, packed, Prefix())
    finally:
        for layer in layers:
            layer.gradient_checkpointing = layer.training = False


@dataclass(frozen=True)
class Eager:
    """A `Forward` of the model's own modules."""

    model: PreTrainedModel

    def __call__(self, packed: Packed, prefix: Prefix) -> Tensor:
        return hidden_states(self.model, packed, prefix)

    def release(self) -> None:
        """Nothing is held."""
