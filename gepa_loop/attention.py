"""Scaled dot-product attention that never repeats the keys and values of grouped-query models.

`transformers` copies each key and value head once per query head as soon as a mask is given. Here the
query heads that share a key head are laid along the query axis instead, which is the same sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

NAME = "gepa_loop_sdpa"


def use_grouped_attention(model: PreTrainedModel) -> None:
    """Make `model` compute its attention with `grouped_sdpa`, in place."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, grouped_sdpa)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def grouped_sdpa(
    module: Any,  # noqa: ARG001 (the signature is transformers')
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of `query` [B, heads, T, D] over `key` and `value` [B, kv_heads, S, D].

    Args:
        module: The attention layer; unused.
        attention_mask: True or 0 where attending is allowed, [B or 1, 1, T, S]; None means causal when
            T > 1, and everything when T is 1.
        dropout: Dropout probability.
        scaling: Factor on the scores; None is 1 / sqrt(D).

    Returns:
        The output as [B, T, heads, D], and None for the weights.
    """
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    batch, heads, length, width = query.shape
    groups = heads // key.shape[1]
    if attention_mask is None:
        out = sdpa(
            query, key, value, dropout_p=dropout, is_causal=length > 1, scale=scaling, enable_gqa=groups > 1
        )
    else:
        folded = query.reshape(batch, heads // groups, groups * length, width)
        mask = attention_mask.repeat(1, 1, groups, 1) if length > 1 else attention_mask
        out = sdpa(folded, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling)
        out = out.reshape(batch, heads, length, width)
    return out.transpose(1, 2).contiguous(), None


def folded_bias(mask_B1TS: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of folded queries, [B, 1, groups * T, S]: 0 where attending is allowed, else -inf.

    Its rows begin where a GPU's kernels want them aligned.
    """
    import torch
    from torch.nn.functional import pad

    room = pad(mask_B1TS, (0, -mask_B1TS.shape[3] % 8)).repeat(1, 1, groups, 1)
    bias = torch.zeros(room.shape, dtype=dtype, device=room.device).masked_fill_(~room, float("-inf"))
    return bias[..., : mask_B1TS.shape[3]]
