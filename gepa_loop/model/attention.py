"""Scaled dot-product attention that never repeats the keys and values of grouped-query models.

`transformers` copies each key and value head once per query head as soon as a mask is given. Here the
query heads that share a key head are laid along the query axis instead, which is the same sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

NAME = "gepa_loop_sdpa"

UNUSED = {
    "sliding_window",
    "position_ids",
    "use_cache",
    "cache_position",
    "output_attentions",
    "position_embeddings",
}
"""Arguments of attention that other kernels need: windows are in the masks, and positions in queries and keys."""


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
    **more: Any,
) -> tuple[Tensor, None]:
    """Attention of `query` [B, heads, T, D] over `key` and `value` [B, kv_heads, S, D].

    Args:
        module: The attention layer; unused.
        attention_mask: True or 0 where attending is allowed, [B or 1, 1, T, S]; None means causal when
            T > 1, and everything when T is 1.
        dropout: Dropout probability.
        scaling: Factor on the scores; None is 1 / sqrt(D).
        more: What a family adds to the call; without effect here, or refused.

    Returns:
        The output as [B, T, heads, D], and None for the weights.

    Raises:
        NotImplementedError: The family caps scores, adds to them, or lets a sink take part.
    """
    from torch.nn.functional import scaled_dot_product_attention as sdpa

    if odd := sorted(
        n for n, value in more.items() if value is not None and value is not False and n not in UNUSED
    ):
        raise NotImplementedError(f"its attention takes {', '.join(odd)}")
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
        out = out.reshape(batch, heads, length, -1)  # values may be narrower than keys
    return out.transpose(1, 2).contiguous(), None


def layer_masks(
    config: PretrainedConfig, mask_B1TS: Tensor, positions_BT: Tensor, keys_BS: Tensor
) -> Tensor | dict[str, Tensor]:
    """A mask as the layers of a model take it: where they have a sliding window, only the nearest positions are seen.

    `transformers` uses a ready mask as it is, also in layers with a window. Distances are those of positions, not of
    columns: a row may hold padding, or several completions of one prompt.

    Args:
        config: The model's; its `layer_types`, where there are any, say which layers have the window.
        mask_B1TS: True where attending is allowed.
        positions_BT: Those of the queries.
        keys_BS: Those of the keys.

    Returns:
        One mask for all layers, or one for each kind of layer.
    """
    window = sliding_window(config)
    if window is None:
        return mask_B1TS
    near_BTS = positions_BT[:, :, None] - keys_BS[:, None, :] < window
    masks = {"full_attention": mask_B1TS, "sliding_attention": mask_B1TS & near_BTS[:, None]}
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    return masks if len(kinds) > 1 else masks[kinds.pop()]


def sliding_window(config: PretrainedConfig) -> int | None:
    """How many positions a layer with a window sees, its own included; None without such layers."""
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    window: int | None = getattr(config, "sliding_window", None)
    return window if getattr(config, "use_sliding_window", True) else None


def folded_bias(mask_B1TS: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores of folded queries, [B, 1, groups * T, S]: 0 where attending is allowed, else -inf.

    Its rows begin where a GPU's kernels want them aligned.
    """
    import torch
    from torch.nn.functional import pad

    padded = pad(mask_B1TS, (0, -mask_B1TS.shape[3] % 8)).repeat(1, 1, groups, 1)
    bias = torch.zeros(padded.shape, dtype=dtype, device=padded.device).masked_fill_(~padded, float("-inf"))
    return bias[..., : mask_B1TS.shape[3]]
