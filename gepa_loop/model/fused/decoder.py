"""Prompts and single tokens of a Llama-like model: fused weights and Triton kernels instead of the model's modules.

The weights are a second copy, with projections that read the same input side by side and, behind them, what an adapter adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import embedding, linear, scaled_dot_product_attention

from gepa_loop.model.attention import folded_bias
from gepa_loop.model.fused.projection import Projection
from gepa_loop.model.fused.rows import Rotary, Whose, whose_ranks
from gepa_loop.model.lora.low_rank import ALIGNED, check_fits

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from gepa_loop.model.fused.rows import Past, Rows
    from gepa_loop.model.lora.adapter import Adapter

FAMILY = ("llama", "mistral", "qwen2", "qwen3")
"""Values of `model_type` whose layers are the ones below."""


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
    # Triton's `arange` takes powers of 2, and its `dot` 16 at least.
    if width < 16 or width & (width - 1):
        return f"no fused decoder for heads of {width}"
    return None


def _width(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer's weights."""

    norm_H: Tensor
    qkv: Projection
    head_norms: tuple[Tensor, Tensor] | None
    """Of queries and of keys (Qwen 3)."""
    out: Projection
    mlp_norm_H: Tensor
    gate_up: Projection
    down: Projection


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

    @property
    def rotary(self) -> Rotary:
        """As the kernels take it."""
        return Rotary(self.heads, self.cos_PE, self.sin_PE, self.eps)

    @property
    def projections(self) -> Iterator[Projection]:
        """Those of all layers."""
        for layer in self.layers:
            yield from (layer.qkv, layer.out, layer.gate_up, layer.down)

    def reserve(self, adapter: Adapter, narrow: bool = False) -> bool:
        """Reserve columns for an adapter of this one's rank; whether matrices moved, and what was captured is void.

        `narrow` gives back columns of an adapter of at least twice the rank.

        Raises:
            ModelError: The adapter changes what is no layer of the model, or one of another shape.
        """
        shapes = {name: (n, p.inputs) for p in self.projections for name, n in p.modules.items()}
        for module in adapter.modules:
            check_fits(adapter, module, shapes.get(module))
        wanted, there = -(-adapter.rank // ALIGNED) * ALIGNED, self.layers[0].out.rank
        if wanted <= there and not (narrow and 2 * wanted <= there):
            return False
        for projection in self.projections:
            projection.reserve(wanted)
        return True

    def whose(self, student_N: Tensor, ranks: int) -> Whose | None:
        """Which ranks the rows of these students compute with, of `ranks` each; 0: there is one student."""
        return whose_ranks(student_N, ranks, self.layers[0].out.rank) if ranks else None

    def write(self, pairs: Mapping[str, tuple[Tensor, Tensor]], scale: float) -> None:
        """Compute with an adapter from now on, in place; layers that it leaves alone are the base's.

        Args:
            pairs: A [rank, in] and B [out, rank] by layer, where the model lies.
            scale: The adapter's alpha / rank.
        """
        for projection in self.projections:
            for name, down_RI, up_OR in projection.places():
                rank = 0
                if name in pairs:
                    a, b = pairs[name]
                    rank = len(a)
                    down_RI[:rank] = a
                    torch.mul(b, scale, out=up_OR[:, :rank])
                # What an adapter of a higher rank left, and columns that only fill up.
                down_RI[rank:] = up_OR[:, rank:] = 0

    def prefill(
        self,
        ids_UP: Tensor,
        keys: Sequence[Tensor],
        values: Sequence[Tensor],
        shared: tuple[Sequence[Tensor], Sequence[Tensor]] | None,
        skip: int,
        whose: Whose | None = None,
    ) -> Tensor:
        """Read prompts from their beginning, or from after what they share.

        Args:
            ids_UP: The tokens, padded on the right: no real token sees padding.
            keys: Each layer's cache [U, kv_heads, >= P, D]; it is filled from place 0 on.
            values: The same.
            shared: Each layer's keys and values [kv_heads, >= skip, D] of the first `skip` tokens; None without any.
            skip: How many those are.
            whose: Which ranks each position computes with; None is all.

        Returns:
            Last hidden states before the last norm, [U, P, H].
        """
        from gepa_loop.model.fused.decode_layers import add_rms_norm, rotate_and_keep_prompts, silu_mul

        rows, length = ids_UP.shape
        x = embedding(ids_UP.flatten(), self.embed_VH)
        delta = bias = None
        if shared is not None:
            mask = torch.ones(1, 1, length, skip + length, dtype=torch.bool, device=x.device).tril(skip)
            bias = folded_bias(mask, self.heads // self.kv_heads, x.dtype)
        for number, (layer, key, value) in enumerate(zip(self.layers, keys, values, strict=True)):
            hidden = add_rms_norm(x, delta, layer.norm_H, self.eps, layer.qkv.rank)
            qkv_UPW = layer.qkv(hidden, whose).view(rows, length, -1)
            query = rotate_and_keep_prompts(qkv_UPW, self.rotary, layer.head_norms, key, value, skip)
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
            seen = seen.reshape(rows, self.heads, length, -1).transpose(1, 2)
            joined = x.new_empty(rows * length, layer.out.inputs + layer.out.rank)
            joined[:, : layer.out.inputs].view(seen.shape).copy_(seen)
            hidden = add_rms_norm(x, layer.out(joined, whose), layer.mlp_norm_H, self.eps, layer.gate_up.rank)
            delta = layer.down(silu_mul(layer.gate_up(hidden, whose), layer.down.rank), whose)
        return (x if delta is None else x + delta).view(rows, length, -1)

    def logits(self, x_BH: Tensor) -> Tensor:
        """Logits [B, V] of what `prefill` returned, at the wanted positions."""
        from gepa_loop.model.fused.decode_layers import add_rms_norm

        return linear(add_rms_norm(x_BH, None, self.norm_H, self.eps, 0), self.head_VH)

    def decode(
        self,
        tokens_B: Tensor,
        keys: list[Past],
        values: list[Past],
        rows: Rows,
        splits: int,
        ranks: int = 0,
    ) -> Tensor:
        """Logits [B, V] after one more token of each row, whose keys and values are written to the cache.

        Of several students' adapters, of so many `ranks` each, a row computes with its own.
        """
        from gepa_loop.model.fused.decode_attention import attend
        from gepa_loop.model.fused.decode_layers import add_rms_norm, rotate_and_keep, silu_mul

        x = embedding(tokens_B, self.embed_VH)
        delta, own = None, self.whose(rows.students_R[rows.slots_B], ranks)
        for layer, key, value in zip(self.layers, keys, values, strict=True):
            hidden = add_rms_norm(x, delta, layer.norm_H, self.eps, layer.qkv.rank)
            places = key.completion_RGTD, value.completion_RGTD
            query = rotate_and_keep(layer.qkv(hidden, own), self.rotary, layer.head_norms, *places, rows)
            seen = attend(query, key, value, rows, splits, layer.out.rank)
            hidden = add_rms_norm(x, layer.out(seen, own), layer.mlp_norm_H, self.eps, layer.gate_up.rank)
            delta = layer.down(silu_mul(layer.gate_up(hidden, own), layer.down.rank), own)
        return linear(add_rms_norm(x, delta, self.norm_H, self.eps, 0), self.head_VH)


def make_decoder(model: PreTrainedModel) -> Decoder:
    """The decoder of a supported model; its matrices are copies, everything else is the model's.

    Args:
        model: One for which `unsupported` is None.
    """
    config, decoder = model.config, model.get_decoder()
    layers = []
    prefix = f"{model.base_model_prefix}.layers"
    for number, block in enumerate(decoder.layers):
        attention, mlp = block.self_attn, block.mlp

        def fused(
            part: str, names: tuple[str, ...], owner: Any, at: str = f"{prefix}.{number}"
        ) -> Projection:
            parts = [getattr(owner, name) for name in names]
            weight_OI = torch.cat([layer.weight.detach() for layer in parts])
            biases = [layer.bias.detach() for layer in parts if layer.bias is not None]
            return Projection(
                modules={f"{at}.{part}.{name}": len(p.weight) for name, p in zip(names, parts, strict=True)},
                weight_OX=weight_OI,
                down_RI=weight_OI.new_empty(0, weight_OI.shape[1]),
                bias_O=torch.cat(biases) if biases else None,
            )

        norms = (attention.q_norm.weight, attention.k_norm.weight) if hasattr(attention, "q_norm") else None
        layers.append(
            Layer(
                norm_H=block.input_layernorm.weight,
                qkv=fused("self_attn", ("q_proj", "k_proj", "v_proj"), attention),
                head_norms=norms,
                out=fused("self_attn", ("o_proj",), attention),
                mlp_norm_H=block.post_attention_layernorm.weight,
                gate_up=fused("mlp", ("gate_proj", "up_proj"), mlp),
                down=fused("mlp", ("down_proj",), mlp),
            )
        )
    positions = torch.arange(config.max_position_embeddings, device=model.device)[None]
    # Of the first argument only type and device are read. It gives each angle twice, once for either half of a head.
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
    )
