"""Prompts and single tokens of a Llama-like model: fused weights and Triton kernels instead of the model's modules.

The weights are a second copy, with projections that read the same input side by side, into which adapters are merged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import embedding, linear, scaled_dot_product_attention

from gepa_loop.attention import folded_bias

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from gepa_loop.sampling.kernels.rows import Past, Rows

FAMILY = ("llama", "mistral", "qwen2", "qwen3")
"""Values of `model_type` whose layers are the ones below."""


KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Of attention over prompts. cuDNN's would be chosen before them; with it the host was seen to spend .02 to .12 s on each new length."""


def unsupported(model: PreTrainedModel) -> str | None:
    """Why a model cannot be decoded here, or None."""
    config = model.config
    if config.model_type not in FAMILY:
        return f"no fused decoder for model type {config.model_type}"
    if getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True):
        return "no fused decoder for sliding windows"
    if config.hidden_act != "silu" or getattr(config, "mlp_bias", False):
        return "no fused decoder for this kind of feed-forward layer"
    rotary = getattr(model.get_decoder().rotary_emb, "rope_type", "default")
    if rotary in ("dynamic", "longrope"):
        return f"no fused decoder for {rotary} rotary angles, which depend on the length"
    width = _width(config)
    if width < 16 or width & (width - 1):
        return f"no fused decoder for heads of {width}"
    return None


def _width(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer's weights; matrices as [out, in]."""

    norm_H: Tensor
    qkv_WH: Tensor
    qkv_bias_W: Tensor | None
    head_norms: tuple[Tensor, Tensor] | None
    """Of queries and of keys (Qwen 3)."""
    out_HO: Tensor
    out_bias_H: Tensor | None
    mlp_norm_H: Tensor
    gate_up_IH: Tensor
    down_HI: Tensor


@dataclass(frozen=True, eq=False)
class Decoder:
    """A model's weights as a sampler reads them; norms, embeddings and output layer are the model's own."""

    layers: tuple[Layer, ...]
    embed_VH: Tensor
    norm_H: Tensor
    head_VH: Tensor
    cos_PE: Tensor
    sin_PE: Tensor
    heads: int
    kv_heads: int
    width: int
    """Of a head."""
    eps: float
    views: Mapping[str, Tensor]
    """The fused matrices' parts under the names of the model's parameters; what is written there is decoded with."""

    @sdpa_kernel(KERNELS)
    def read(
        self,
        ids_UP: Tensor,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        shared: tuple[Sequence[Tensor], Sequence[Tensor]] | None,
        skip: int,
    ) -> Tensor:
        """Read prompts from their beginning, or from after what they share.

        Args:
            ids_UP: The tokens, padded on the right: no real token sees padding.
            keys: Each layer's cache [U, kv_heads, >= P, D]; it is filled from place 0 on.
            values: The same.
            shared: Each layer's keys and values [kv_heads, >= skip, D] of the first `skip` tokens; None without any.
            skip: How many those are.

        Returns:
            Last hidden states before the last norm, [U, P, H].
        """
        from gepa_loop.sampling.kernels.layers import add_rms_norm, rotate_and_keep_prompts, silu_mul

        rows, length = ids_UP.shape
        x = embedding(ids_UP.flatten(), self.embed_VH)
        delta = bias = None
        if shared is not None:
            mask = torch.ones(1, 1, length, skip + length, dtype=torch.bool, device=x.device).tril(skip)
            bias = folded_bias(mask, self.heads // self.kv_heads, x.dtype)
        for number, (layer, key, value) in enumerate(zip(self.layers, keys, values, strict=True)):
            hidden = add_rms_norm(x, delta, layer.norm_H, self.eps)
            query = rotate_and_keep_prompts(
                linear(hidden, layer.qkv_WH, layer.qkv_bias_W),
                self.heads,
                length,
                key,
                value,
                self.cos_PE,
                self.sin_PE,
                layer.head_norms,
                self.eps,
                skip,
            )
            past_key, past_value = key[:, :, :length], value[:, :, :length]
            if shared is None:
                seen = scaled_dot_product_attention(
                    query, past_key, past_value, is_causal=True, enable_gqa=self.heads != self.kv_heads
                )
            else:
                first_key, first_value = (side[number][None, :, :skip] for side in shared)
                past_key = torch.cat([first_key.expand(rows, -1, -1, -1), past_key], 2)
                past_value = torch.cat([first_value.expand(rows, -1, -1, -1), past_value], 2)
                # The query heads that share a key head lie along the query axis, as the bias has them.
                folded = query.view(rows, self.kv_heads, -1, self.width)
                seen = scaled_dot_product_attention(folded, past_key, past_value, attn_mask=bias)
            seen = seen.reshape(rows, self.heads, length, -1).transpose(1, 2).reshape(rows * length, -1)
            hidden = add_rms_norm(x, linear(seen, layer.out_HO, layer.out_bias_H), layer.mlp_norm_H, self.eps)
            delta = linear(silu_mul(linear(hidden, layer.gate_up_IH)), layer.down_HI)
        return (x if delta is None else x + delta).view(rows, length, -1)

    def logits(self, x_BH: Tensor) -> Tensor:
        """Logits [B, V] of what `read` returned, at the wanted positions."""
        from gepa_loop.sampling.kernels.layers import add_rms_norm

        return linear(add_rms_norm(x_BH, None, self.norm_H, self.eps), self.head_VH)

    def step(self, tokens_B: Tensor, keys: list[Past], values: list[Past], rows: Rows, splits: int) -> Tensor:
        """Logits [B, V] after one more token of each row, whose keys and values are written to the cache."""
        from gepa_loop.sampling.kernels.attention import attend
        from gepa_loop.sampling.kernels.layers import add_rms_norm, rotate_and_keep, silu_mul

        x = embedding(tokens_B, self.embed_VH)
        delta = None
        for layer, key, value in zip(self.layers, keys, values, strict=True):
            hidden = add_rms_norm(x, delta, layer.norm_H, self.eps)
            query = rotate_and_keep(
                linear(hidden, layer.qkv_WH, layer.qkv_bias_W),
                self.heads,
                key.completion_RGTD,
                value.completion_RGTD,
                self.cos_PE,
                self.sin_PE,
                layer.head_norms,
                self.eps,
                rows,
            )
            seen = attend(query, key, value, rows, self.width**-0.5, splits)
            hidden = add_rms_norm(
                x, linear(seen.flatten(1), layer.out_HO, layer.out_bias_H), layer.mlp_norm_H, self.eps
            )
            delta = linear(silu_mul(linear(hidden, layer.gate_up_IH)), layer.down_HI)
        return linear(add_rms_norm(x, delta, self.norm_H, self.eps), self.head_VH)


def make_decoder(model: PreTrainedModel) -> Decoder:
    """The decoder of a supported model; its matrices are copies, everything else is the model's.

    Args:
        model: One for which `unsupported` is None.
    """
    config, decoder = model.config, model.get_decoder()
    views: dict[str, Tensor] = {}
    layers = []
    prefix = f"{model.base_model_prefix}.layers"
    for number, block in enumerate(decoder.layers):
        attention, mlp = block.self_attn, block.mlp

        def fused(names: tuple[str, ...], part: str, owner: Any, at: str = f"{prefix}.{number}") -> Tensor:
            weights = [getattr(owner, name).weight for name in names]
            whole = torch.cat([weight.detach() for weight in weights])
            for name, view in zip(names, torch.split(whole, [len(w) for w in weights]), strict=True):
                views[f"{at}.{part}.{name}.weight"] = view
            return whole

        biases = [getattr(attention, f"{name}_proj").bias for name in "qkv"]
        norms = (attention.q_norm.weight, attention.k_norm.weight) if hasattr(attention, "q_norm") else None
        layers.append(
            Layer(
                norm_H=block.input_layernorm.weight,
                qkv_WH=fused(("q_proj", "k_proj", "v_proj"), "self_attn", attention),
                qkv_bias_W=None if biases[0] is None else torch.cat(biases).detach(),
                head_norms=norms,
                out_HO=fused(("o_proj",), "self_attn", attention),
                out_bias_H=attention.o_proj.bias,
                mlp_norm_H=block.post_attention_layernorm.weight,
                gate_up_IH=fused(("gate_proj", "up_proj"), "mlp", mlp),
                down_HI=fused(("down_proj",), "mlp", mlp),
            )
        )
    positions = torch.arange(config.max_position_embeddings, device=model.device)[None]
    cos, sin = decoder.rotary_emb(torch.empty(0, dtype=model.dtype, device=model.device), positions)
    width = _width(config)
    return Decoder(
        layers=tuple(layers),
        embed_VH=model.get_input_embeddings().weight,
        norm_H=decoder.norm.weight,
        head_VH=model.get_output_embeddings().weight,
        cos_PE=cos[0, :, : width // 2].contiguous(),
        sin_PE=sin[0, :, : width // 2].contiguous(),
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        width=width,
        eps=config.rms_norm_eps,
        views=views,
    )
