"""A Llama-like model on the CPU, for `sampling.network`: fused weights, hidden states as columns.

The past of what all prompts begin with is kept apart from each row's own, and read once for all rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import embedding, pad, silu

from gepa_loop.model.fused.decoder import make_decoder
from gepa_loop.model.lora.adapter import Adapter

if TYPE_CHECKING:
    from torch import Tensor

    from gepa_loop.model.base import Base


COLUMNS = 16
"""Columns of float32 come in multiples of this many: with AVX2 alone, W x of [3072, 608] takes 2.6 ms for 11 columns and .9 ms for 16
(with AVX-512 .30 and .29). Of bfloat16 fewer are faster as they are (AMX: .18 ms for 8, .23 for 16)."""


class FusedNetwork:
    """A third of the operations of the model's modules, and what is shared is read once for all rows.

    Its matrices are copies, with those side by side that read the same input, and an adapter stands behind them. Hidden
    states are columns, [H, N]: a CPU computes W x up to twice as fast as its transpose x^T W^T where N is small.
    """

    def __init__(self, base: Base) -> None:
        self._decoder = d = make_decoder(base.model)
        # Turned by x * cos + (x with its halves changed) * sin, whose first half has the other sign.
        self._cos_PD = torch.cat([d.cos_PE, d.cos_PE], 1)
        self._sin_PD = torch.cat([-d.sin_PE, d.sin_PE], 1)
        self._ranks = 0

    @torch.no_grad()
    def write(self, adapter: Adapter | None, ranks: int = 0) -> None:
        """Compute with this adapter from now on, or with several students' of `ranks` each that lie side by side in it."""
        self._ranks = ranks
        if adapter is None:
            self._decoder.write({}, 1.0)
            return
        self._decoder.reserve(adapter)
        self._decoder.write({module: adapter.pair(module) for module in adapter.modules}, adapter.scale)

    def prefill(self, tokens: list[int]) -> _FusedPast | None:
        if not tokens:
            return None
        past = self.past(None, 1, len(tokens))
        size = len(tokens)
        causal = torch.ones(1, size, size, dtype=torch.bool).tril()
        self.forward(torch.tensor([tokens]), past, torch.arange(size)[None], causal)
        return past

    def past(
        self, shared: _FusedPast | None, count: int, capacity: int, students_B: Tensor | None = None
    ) -> _FusedPast:
        """As of `Network`; `students_B` says whose each row is, where several students' adapters were written."""
        d = self._decoder
        shape = len(d.layers), count, d.kv_heads, capacity, d.width
        return _FusedPast(d.embed_VH.new_empty(shape), d.embed_VH.new_empty(shape), shared, students_B)

    def forward(
        self, ids_BT: Tensor, past: _FusedPast, positions_BT: Tensor, mask_BTS: Tensor | None
    ) -> Tensor:
        d, (rows, new) = self._decoder, ids_BT.shape
        groups, turned, width = d.heads // d.kv_heads, d.heads + d.kv_heads, d.width
        start, end, count = past.length, past.length + new, rows * new
        spare = self._spare(count)
        x_HN = embedding(pad(ids_BT.flatten(), (0, spare)), d.embed_VH).T.contiguous()
        places_N = pad(positions_BT.flatten(), (0, spare))
        cos_DN, sin_DN = (table_PD[places_N].T.contiguous() for table_PD in (self._cos_PD, self._sin_PD))
        own = bias = None
        if past.students_B is not None:
            own = d.whose(pad(past.students_B.repeat_interleave(new), (0, spare)), self._ranks)
        if mask_BTS is not None:
            bias = torch.zeros(mask_BTS.shape, dtype=x_HN.dtype).masked_fill_(~mask_BTS, float("-inf"))
            bias = bias.repeat(1, groups, 1)[:, None]
        for number, layer in enumerate(d.layers):
            qkv_WN = layer.qkv.columns(_norm(x_HN, layer.norm_H, d.eps, layer.qkv.rank), own)
            if layer.qkv.bias_O is not None:
                qkv_WN += layer.qkv.bias_O[:, None]
            qkv = qkv_WN.view(-1, width, count + spare)
            sides = torch.split(qkv[:turned], [d.heads, d.kv_heads])
            if layer.head_norms is not None:
                sides = tuple(_norm(s, w, d.eps, 0) for s, w in zip(sides, layer.head_norms, strict=True))
            query, fresh = (torch.addcmul(side * cos_DN, side.roll(width // 2, 1), sin_DN) for side in sides)
            query, fresh, own_value = (
                side[..., :count].view(-1, width, rows, new) for side in (query, fresh, qkv[turned:])
            )
            key, value = past.keys[number], past.values[number]
            key[:, :, start:end] = fresh.permute(2, 0, 3, 1)
            value[:, :, start:end] = own_value.permute(2, 0, 3, 1)
            # Attention reads each head's numbers as if they lay side by side.
            query = query.view(d.kv_heads, groups, width, rows, new).permute(3, 0, 1, 4, 2)
            query = query.contiguous().view(rows, d.kv_heads, groups * new, width)
            near = _attend(query, key[:, :, :end], value[:, :, :end], bias)
            seen = near[0]
            if past.shared is not None:
                seen = _joined(near, query, past.shared.keys[number], past.shared.values[number])
            seen_NO = seen.reshape(rows, d.heads, new, width).transpose(1, 2).reshape(count, -1)
            seen_ON = _widened(seen_NO.T, layer.out.rank, spare)
            x_HN.addmm_(layer.out.weight_OX, layer.out.lowered(seen_ON, own))
            if layer.out.bias_O is not None:
                x_HN += layer.out.bias_O[:, None]
            hidden_HN = _norm(x_HN, layer.mlp_norm_H, d.eps, layer.gate_up.rank)
            gate, up = layer.gate_up.columns(hidden_HN, own).chunk(2)
            product_IN = _widened(silu(gate, inplace=True).mul_(up), layer.down.rank)
            x_HN.addmm_(layer.down.weight_OX, layer.down.lowered(product_IN, own))
        past.length = end
        last_HB = x_HN[:, :count].view(-1, rows, new)[:, :, -1]
        last_HB = _widened(last_HB, 0, self._spare(rows))
        return (d.head_VH @ _norm(last_HB, d.norm_H, d.eps, 0))[:, :rows].T.contiguous()

    def _spare(self, count: int) -> int:
        """Columns behind `count` that are computed and not read."""
        wide = self._decoder.embed_VH.dtype == torch.float32
        return -count % COLUMNS if wide and count > 1 else 0


@dataclass(eq=False)
class _FusedPast:
    """Keys and values of all layers, [layers, rows, kv_heads, capacity, D]; `length` positions are filled."""

    keys: Tensor
    values: Tensor
    shared: _FusedPast | None
    """One row that all rows continue."""
    students_B: Tensor | None = None
    """Whose each row is, where several students answer."""
    length: int = field(default=0)

    def rows(self, index_R: Tensor, capacity: int) -> _FusedPast:
        sides = []
        for old in (self.keys, self.values):
            layers, _, heads, _, width = old.shape
            fresh = old.new_empty(layers, len(index_R), heads, capacity, width)
            fresh[:, :, :, : self.length] = old[:, index_R, :, : self.length]
            sides.append(fresh)
        students_B = None if self.students_B is None else self.students_B[index_R]
        return _FusedPast(sides[0], sides[1], self.shared, students_B, self.length)


def _norm(x: Tensor, weight_W: Tensor, eps: float, rows: int) -> Tensor:
    """RMS norm over the last but one axis, [..., W, N], in float32 or wider; `rows` rows below it are left to fill."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale: Tensor = torch.linalg.vector_norm(wide, dim=-2, keepdim=True)
    scale.square_().div_(len(weight_W)).add_(eps)
    return _widened((wide * scale.rsqrt_()).to(x.dtype).mul_(weight_W[:, None]), rows)


def _widened(x_IN: Tensor, rows: int, columns: int = 0) -> Tensor:
    """`x_IN` with `columns` more columns, of zeros, and below it `rows` more rows, which are left to fill."""
    if not rows and not columns:
        return x_IN
    inputs, count = x_IN.shape
    out = x_IN.new_empty(inputs + rows, count + columns)
    out[:inputs, :count] = x_IN
    out[:inputs, count:] = 0
    return out


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Attention [B, G, T, D] and the log of the sums of its exponentials [B, G, T]."""
    found: tuple[Tensor, Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, attn_mask=bias
    )
    return found


def _joined(own: tuple[Tensor, Tensor], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention over a row's own keys and those that all rows share [1, G, P, D], as if they were one past."""
    rows, heads, count, width = query.shape
    # All rows' queries lie along one axis, so that the shared keys are read once.
    folded = query.transpose(0, 1).reshape(1, heads, rows * count, width)
    found, level = _attend(folded, key, value, None)
    found = found.view(heads, rows, count, width).transpose(0, 1)
    level = level.reshape(heads, rows, count).transpose(0, 1)
    share = torch.sigmoid(level - own[1])[..., None]  # float32 also where the rest is narrower
    return torch.lerp(own[0], found, share.to(found.dtype))
