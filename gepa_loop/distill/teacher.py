"""The teacher: the same model without the new adapter, reading the prompt. Its past is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gepa_loop.distill.batch import Packed
from gepa_loop.sampling.kv import KVCache, empty_cache, shared_length

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Prefix:
    """The tokens that every teacher prompt begins with, and their keys and values as one row."""

    length: int = 0
    cache: KVCache | None = None


def common_length(prompt: str, rendered: Sequence[Sequence[int]]) -> int:
    """How many tokens all rendered prompts begin with, at least one token of each left out.

    0 for the empty prompt: then teacher and student read the same tokens in the same shapes, and their
    divergence is exactly 0 rather than 0 up to rounding.
    """
    if not prompt:
        return 0
    return shared_length(rendered)


@torch.no_grad()
def read_prefix(model: PreTrainedModel, tokens: Sequence[int]) -> Prefix:
    """Compute the keys and values of `tokens` with the model's present adapters."""
    if not tokens:
        return Prefix()
    cache = empty_cache(model.config, len(tokens))
    ids = torch.tensor([list(tokens)], device=model.device)
    model.get_decoder()(input_ids=ids, past_key_values=cache, use_cache=True)
    return Prefix(len(tokens), cache)


def hidden_states(model: PreTrainedModel, packed: Packed, prefix: Prefix) -> Tensor:
    """Last hidden states [N, H] at the positions that predict the completion tokens."""
    cache = None
    if prefix.cache is not None:
        rows = torch.zeros(len(packed.ids_BL), dtype=torch.long, device=model.device)
        cache = prefix.cache.rows(rows, prefix.length + packed.ids_BL.shape[1])
    out = model.get_decoder()(
        input_ids=packed.ids_BL,
        attention_mask=packed.mask_B1LS,
        position_ids=packed.positions_BL,
        past_key_values=cache,
        use_cache=cache is not None,
    )
    states: Tensor = out.last_hidden_state[packed.rows_N, packed.columns_N]
    return states
