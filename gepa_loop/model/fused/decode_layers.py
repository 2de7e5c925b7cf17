"""Norms, activation, and rotary positions with the write to the cache."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from gepa_loop.model.fused.rows import Rotary, Rows


@triton.jit
def _add_rms_norm(x, delta, weight, out, size, out_row, eps, ADD: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < size
    value = tl.load(x + row * size + at, inside, 0.0)
    if ADD:
        value = value + tl.load(delta + row * size + at, inside, 0.0)
        tl.store(x + row * size + at, value, inside)
    wide = value.to(tl.float32)
    scale = tl.rsqrt(tl.sum(wide * wide) / size + eps)
    normed = (wide * scale).to(value.dtype)
    tl.store(out + row * out_row + at, normed * tl.load(weight + at, inside, 0.0), inside)


def add_rms_norm(x_BH: Tensor, delta_BH: Tensor | None, weight_H: Tensor, eps: float, spare: int) -> Tensor:
    """RMSNorm of x + delta, [B, H + spare], with `spare` columns left to fill; the sum is written to `x_BH`, in place."""
    rows, size = x_BH.shape
    out = x_BH.new_empty(rows, size + spare)
    block = triton.next_power_of_2(size)
    _add_rms_norm[rows,](
        x_BH,
        x_BH if delta_BH is None else delta_BH,
        weight_H,
        out,
        size,
        size + spare,
        eps,
        ADD=delta_BH is not None,
        BLOCK=block,
        num_warps=4 if block <= 1024 else 8,
    )
    return out


@triton.jit
def _silu_mul(gate_up, out, size, out_row, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    gate = tl.load(gate_up + row * 2 * size + at, inside, 0.0)
    up = tl.load(gate_up + row * 2 * size + size + at, inside, 0.0)
    wide = gate.to(tl.float32)
    tl.store(out + row * out_row + at, (wide / (1 + tl.exp(-wide))).to(gate.dtype) * up, inside)


def silu_mul(gate_up_BI: Tensor, spare: int) -> Tensor:
    """silu(gate) * up of [B, gate | up], with `spare` columns behind it left to fill."""
    rows, size = gate_up_BI.shape[0], gate_up_BI.shape[1] // 2
    out = gate_up_BI.new_empty(rows, size + spare)
    _silu_mul[(rows, triton.cdiv(size, 1024))](gate_up_BI, out, size, size + spare, BLOCK=1024)
    return out


@triton.jit(do_not_specialize=["length", "start"])
def _rotate_and_keep(
    qkv,
    q_out,
    keys,
    values,
    cos,
    sin,
    q_weight,
    k_weight,
    slots,
    shared,
    owners,
    prompts,
    lengths,
    stride_slot,
    stride_head,
    positions,
    length,
    start,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    NORM: tl.constexpr,
    READ: tl.constexpr,
):
    row, head = tl.program_id(0), tl.program_id(1)
    if READ:
        # Whole prompts: row after row of `length` positions each. That changes with every candidate, which must compile nothing.
        slot = (row // length).to(tl.int64)
        place = row % length
        position = start + place
        q_row = (slot * HEADS + head) * length + place
    else:
        slot = tl.load(slots + row).to(tl.int64)
        # Rows that only fill a launch up may stand anywhere; they stay inside the cache and the table.
        place = tl.maximum(tl.load(lengths + slot) - 1, 0)
        position = tl.load(shared) + tl.load(prompts + tl.load(owners + slot)) + place
        q_row = row * HEADS + head
    position = tl.minimum(position, positions - 1)
    half = tl.arange(0, D // 2)
    source = qkv + (row * (HEADS + 2 * KV_HEADS) + head) * D
    low, high = tl.load(source + half), tl.load(source + D // 2 + half)
    kept = slot * stride_slot + place * D
    if head >= HEADS + KV_HEADS:
        target = values + kept + (head - HEADS - KV_HEADS) * stride_head
        tl.store(target + half, low)
        tl.store(target + D // 2 + half, high)
    else:
        if NORM:
            weight = q_weight if head < HEADS else k_weight
            wide_low, wide_high = low.to(tl.float32), high.to(tl.float32)
            total = tl.sum(wide_low * wide_low) + tl.sum(wide_high * wide_high)
            scale = tl.rsqrt(total / D + eps)
            low = (wide_low * scale).to(low.dtype) * tl.load(weight + half)
            high = (wide_high * scale).to(high.dtype) * tl.load(weight + D // 2 + half)
        c = tl.load(cos + position * (D // 2) + half).to(tl.float32)
        s = tl.load(sin + position * (D // 2) + half).to(tl.float32)
        first = low.to(tl.float32) * c - high.to(tl.float32) * s
        second = high.to(tl.float32) * c + low.to(tl.float32) * s
        if head < HEADS:  # noqa: SIM108 (Triton compiles no such expression)
            target = q_out + q_row * D
        else:
            target = keys + kept + (head - HEADS) * stride_head
        tl.store(target + half, first.to(low.dtype))
        tl.store(target + D // 2 + half, second.to(low.dtype))


def rotate_and_keep(
    qkv_BW: Tensor,
    rotary: Rotary,
    norms: tuple[Tensor, Tensor] | None,
    keys_RGTD: Tensor,
    values_RGTD: Tensor,
    rows: Rows,
) -> Tensor:
    """Turn queries and keys to their positions and write keys and values to the completions' cache, in place.

    Args:
        qkv_BW: Queries, keys and values of all heads, side by side.
        rotary: How they are turned.
        norms: Weights of Qwen 3's norms of queries and keys.
        keys_RGTD: Where the keys go.
        values_RGTD: Where the values go.
        rows: The launch.

    Returns:
        Queries [B, heads, D].
    """
    heads, kv_heads, width = rotary.heads, keys_RGTD.shape[1], keys_RGTD.shape[3]
    out = qkv_BW.new_empty(len(qkv_BW), heads, width)
    q_weight, k_weight = (qkv_BW, qkv_BW) if norms is None else norms
    _rotate_and_keep[(len(qkv_BW), heads + 2 * kv_heads)](
        qkv_BW,
        out,
        keys_RGTD,
        values_RGTD,
        rotary.cos_PE,
        rotary.sin_PE,
        q_weight,
        k_weight,
        rows.slots_B,
        rows.shared_1,
        rows.owners_R,
        rows.prompts_U,
        rows.lengths_R,
        keys_RGTD.stride(0),
        keys_RGTD.stride(1),
        len(rotary.cos_PE),
        0,
        0,
        rotary.eps,
        HEADS=heads,
        KV_HEADS=kv_heads,
        D=width,
        NORM=norms is not None,
        READ=False,
        num_warps=1,
    )
    return out


def rotate_and_keep_prompts(
    qkv_UPW: Tensor,
    rotary: Rotary,
    norms: tuple[Tensor, Tensor] | None,
    keys_UGPD: Tensor,
    values_UGPD: Tensor,
    first: int,
) -> Tensor:
    """`rotate_and_keep` for whole prompts, whose positions begin at `first`.

    Args:
        qkv_UPW: Queries, keys and values of each position.
        rotary: As there.
        norms: As there.
        keys_UGPD: Where the keys go, from place 0 on.
        values_UGPD: Where the values go.
        first: Position of the first token.

    Returns:
        Queries [U, heads, P, D].
    """
    heads, kv_heads, width = rotary.heads, keys_UGPD.shape[1], keys_UGPD.shape[3]
    prompts, length, _ = qkv_UPW.shape
    out = qkv_UPW.new_empty(prompts, heads, length, width)
    q_weight, k_weight = (qkv_UPW, qkv_UPW) if norms is None else norms
    _rotate_and_keep[(prompts * length, heads + 2 * kv_heads)](
        qkv_UPW,
        out,
        keys_UGPD,
        values_UGPD,
        rotary.cos_PE,
        rotary.sin_PE,
        q_weight,
        k_weight,
        *[qkv_UPW] * 5,
        keys_UGPD.stride(0),
        keys_UGPD.stride(1),
        len(rotary.cos_PE),
        length,
        first,
        rotary.eps,
        HEADS=heads,
        KV_HEADS=kv_heads,
        D=width,
        NORM=norms is not None,
        READ=True,
        num_warps=1,
    )
    return out
