"""The training forward of a Llama-like model with fused kernels; its projections are the model's own modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from gepa_loop.model.lora.training import divide
from gepa_loop.model.packed import Packed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from gepa_loop.model.forward import Prefix


def fused_states(model: PreTrainedModel, packed: Packed, prefix: Prefix) -> Tensor:
    """`forward.hidden_states` for a model that `decoder.unsupported` knows, with its present adapters.

    Norms, rotation and activation are one kernel each instead of five to ten, and attention computes only what is seen.
    """
    from gepa_loop.model.fused.training_attention import attend
    from gepa_loop.model.fused.training_layers import add_norm, rotate, silu_mul

    decoder, eps = model.get_decoder(), model.config.rms_norm_eps
    rows, length = packed.ids_BL.shape
    divide(model, packed.students_B, length)
    x_NH = model.get_input_embeddings()(packed.ids_BL).flatten(0, 1)
    cos_BLD, sin_BLD = (
        side.expand(rows, -1, -1).contiguous() for side in decoder.rotary_emb(x_NH, packed.positions_BL)
    )
    width = cos_BLD.shape[2]
    kv_heads = model.config.num_key_value_heads
    delta_NH = None
    for number, block in enumerate(decoder.layers):
        attention, mlp = block.self_attn, block.mlp
        norms = (
            (attention.q_norm.weight, attention.k_norm.weight)
            if hasattr(attention, "q_norm")
            else (None, None)
        )
        x_NH, hidden_NH = add_norm(x_NH, delta_NH, block.input_layernorm.weight, eps)
        query = rotate(attention.q_proj(hidden_NH), norms[0], cos_BLD, sin_BLD, eps)
        key = rotate(attention.k_proj(hidden_NH), norms[1], cos_BLD, sin_BLD, eps)
        value = attention.v_proj(hidden_NH).view(rows, length, kv_heads, width).transpose(1, 2)
        past = None
        if prefix.cache is not None:
            layer = prefix.cache.layers[number]
            past = layer.keys[0, :, : prefix.length], layer.values[0, :, : prefix.length]
        seen = attend(query, key, value, past, packed.spans, attention.scaling).view(rows * length, -1)
        x_NH, hidden_NH = add_norm(x_NH, attention.o_proj(seen), block.post_attention_layernorm.weight, eps)
        delta_NH = mlp.down_proj(silu_mul(mlp.gate_proj(hidden_NH), mlp.up_proj(hidden_NH)))
    _, hidden_NH = add_norm(x_NH, delta_NH, decoder.norm.weight, eps)
    return hidden_NH[packed.rows_N * length + packed.columns_N]
