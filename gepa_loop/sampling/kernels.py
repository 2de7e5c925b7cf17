"""Triton kernels of one decoded token, where PyTorch would launch five small ones for each.

They compute what the Llama family's modules in `transformers` do, in the same order of roundings where it matters: sums in
float32, results in the model's type. `_R` are slots of the key-value cache, `_B` the rows of a launch, each in a slot.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_S = 128
"""Keys that the attention kernel reads at once."""
BLOCK_V = 2048
"""Logits that the sampling kernels read at once."""


class Past(NamedTuple):
    """One layer's keys or values: of what all prompts begin with, of each prompt's rest, and of each completion."""

    shared_GCD: Tensor
    prompt_UGPD: Tensor
    completion_RGTD: Tensor


class Rows(NamedTuple):
    """Which slots a launch computes, and where each stands; int32."""

    slots_B: Tensor
    shared_1: Tensor
    """Tokens that all prompts begin with."""
    owners_R: Tensor
    """The prompt of each slot."""
    prompts_U: Tensor
    """Tokens of each prompt after the shared ones."""
    lengths_R: Tensor
    """Completion tokens of each slot, the one that is being read included."""


# ------------------------------------------------------------------------------------- norms and activation


@triton.jit
def _add_rms_norm(x, delta, weight, out, size, eps, ADD: tl.constexpr, BLOCK: tl.constexpr):
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
    tl.store(out + row * size + at, normed * tl.load(weight + at, inside, 0.0), inside)


def add_rms_norm(x_BH: Tensor, delta_BH: Tensor | None, weight_H: Tensor, eps: float) -> Tensor:
    """RMSNorm of x + delta, [B, H]; the sum is written to `x_BH`, in place."""
    rows, size = x_BH.shape
    out = torch.empty_like(x_BH)
    block = triton.next_power_of_2(size)
    _add_rms_norm[rows,](
        x_BH,
        x_BH if delta_BH is None else delta_BH,
        weight_H,
        out,
        size,
        eps,
        ADD=delta_BH is not None,
        BLOCK=block,
        num_warps=4 if block <= 1024 else 8,
    )
    return out


@triton.jit
def _silu_mul(gate_up, out, size, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    gate = tl.load(gate_up + row * 2 * size + at, inside, 0.0)
    up = tl.load(gate_up + row * 2 * size + size + at, inside, 0.0)
    wide = gate.to(tl.float32)
    tl.store(out + row * size + at, (wide / (1 + tl.exp(-wide))).to(gate.dtype) * up, inside)


def silu_mul(gate_up_BI: Tensor) -> Tensor:
    """silu(gate) * up of [B, gate | up]."""
    rows, size = gate_up_BI.shape[0], gate_up_BI.shape[1] // 2
    out = gate_up_BI.new_empty(rows, size)
    _silu_mul[(rows, triton.cdiv(size, 1024))](gate_up_BI, out, size, BLOCK=1024)
    return out


# ------------------------------------------------------------------------- rotary positions and the cache


@triton.jit
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
    start,
    eps,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    NORM: tl.constexpr,
    READ: tl.constexpr,
):
    row, head = tl.program_id(0), tl.program_id(1)
    if READ > 0:
        # Whole prompts: row after row of READ positions each.
        slot = (row // READ).to(tl.int64)
        place = row % READ
        position = start + place
        q_row = (slot * HEADS + head) * READ + place
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
    heads: int,
    keys_RGTD: Tensor,
    values_RGTD: Tensor,
    cos_PE: Tensor,
    sin_PE: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    rows: Rows,
) -> Tensor:
    """Turn queries and keys to their positions and write keys and values to the completions' cache, in place.

    Args:
        qkv_BW: Queries, keys and values of all heads, side by side.
        heads: Query heads.
        keys_RGTD: Where the keys go.
        values_RGTD: Where the values go.
        cos_PE: Cosines of the rotary angles, by position; [P, D / 2].
        sin_PE: Their sines.
        norms: Weights of Qwen 3's norms of queries and keys.
        eps: Of those norms.
        rows: The launch.

    Returns:
        Queries [B, heads, D].
    """
    kv_heads, width = keys_RGTD.shape[1], keys_RGTD.shape[3]
    out = qkv_BW.new_empty(len(qkv_BW), heads, width)
    q_weight, k_weight = (qkv_BW, qkv_BW) if norms is None else norms
    _rotate_and_keep[(len(qkv_BW), heads + 2 * kv_heads)](
        qkv_BW,
        out,
        keys_RGTD,
        values_RGTD,
        cos_PE,
        sin_PE,
        q_weight,
        k_weight,
        rows.slots_B,
        rows.shared_1,
        rows.owners_R,
        rows.prompts_U,
        rows.lengths_R,
        keys_RGTD.stride(0),
        keys_RGTD.stride(1),
        len(cos_PE),
        0,
        eps,
        HEADS=heads,
        KV_HEADS=kv_heads,
        D=width,
        NORM=norms is not None,
        READ=0,
        num_warps=1,
    )
    return out


def rotate_and_keep_prompts(
    qkv_NW: Tensor,
    heads: int,
    length: int,
    keys_UGPD: Tensor,
    values_UGPD: Tensor,
    cos_PE: Tensor,
    sin_PE: Tensor,
    norms: tuple[Tensor, Tensor] | None,
    eps: float,
    first: int,
) -> Tensor:
    """`rotate_and_keep` for whole prompts, whose positions begin at `first`; they lie one after the other in `_N`.

    Args:
        qkv_NW: Queries, keys and values of `length` positions of each prompt.
        heads: Query heads.
        length: Positions of each prompt.
        keys_UGPD: Where the keys go, from place 0 on.
        values_UGPD: Where the values go.
        cos_PE: As there.
        sin_PE: As there.
        norms: As there.
        eps: As there.
        first: Position of the first token.

    Returns:
        Queries [U, heads, length, D].
    """
    kv_heads, width = keys_UGPD.shape[1], keys_UGPD.shape[3]
    out = qkv_NW.new_empty(len(qkv_NW) // length, heads, length, width)
    q_weight, k_weight = (qkv_NW, qkv_NW) if norms is None else norms
    _rotate_and_keep[(len(qkv_NW), heads + 2 * kv_heads)](
        qkv_NW,
        out,
        keys_UGPD,
        values_UGPD,
        cos_PE,
        sin_PE,
        q_weight,
        k_weight,
        *[qkv_NW] * 5,
        keys_UGPD.stride(0),
        keys_UGPD.stride(1),
        len(cos_PE),
        first,
        eps,
        HEADS=heads,
        KV_HEADS=kv_heads,
        D=width,
        NORM=norms is not None,
        READ=length,
        num_warps=1,
    )
    return out


# ------------------------------------------------------------------------------------------------ attention


@triton.jit
def _segment(
    q,
    keys,
    values,
    length,
    split,
    acc,
    top,
    total,
    scale,
    D: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Online softmax over one stretch of keys and values that lie at [length, D]; every SPLITS-th block of it."""
    at, width = tl.arange(0, BLOCK), tl.arange(0, D)
    for start in range(split * BLOCK, length, SPLITS * BLOCK):
        inside = start + at < length
        where = (start + at)[:, None] * D + width[None, :]
        key = tl.load(keys + where, inside[:, None], 0.0)
        score = tl.dot(q, tl.trans(key), input_precision="ieee") * scale
        score = tl.where(inside[None, :], score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        p = tl.exp(score - higher[:, None])
        fade = tl.exp(top - higher)
        value = tl.load(values + where, inside[:, None], 0.0)
        acc = acc * fade[:, None] + tl.dot(p.to(value.dtype), value, input_precision="ieee")
        total = total * fade + tl.sum(p, 1)
        top = higher
    return acc, top, total


@triton.jit
def _attend(
    q,
    shared_k,
    shared_v,
    prompt_k,
    prompt_v,
    completion_k,
    completion_v,
    slots,
    shared,
    owners,
    prompts,
    lengths,
    out,
    part,
    part_top,
    part_total,
    shared_head,
    prompt_slot,
    prompt_head,
    completion_slot,
    completion_head,
    scale,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    PAD: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, group, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    slot = tl.load(slots + row).to(tl.int64)
    owner = tl.load(owners + slot).to(tl.int64)
    each: tl.constexpr = HEADS // KV_HEADS
    head, width = tl.arange(0, PAD), tl.arange(0, D)
    own = (head < each)[:, None]
    place = (row * HEADS + group * each + head)[:, None] * D + width[None, :]
    query = tl.load(q + place, own, 0.0)
    acc = tl.zeros([PAD, D], tl.float32)
    # Finite, so that a split without any key gives weight 0 and not NaN.
    top = tl.full([PAD], -1e30, tl.float32)
    total = tl.zeros([PAD], tl.float32)
    offset = group * shared_head
    acc, top, total = _segment(
        query,
        shared_k + offset,
        shared_v + offset,
        tl.load(shared),
        split,
        acc,
        top,
        total,
        scale,
        D,
        SPLITS,
        BLOCK,
    )
    offset = owner * prompt_slot + group * prompt_head
    acc, top, total = _segment(
        query,
        prompt_k + offset,
        prompt_v + offset,
        tl.load(prompts + owner),
        split,
        acc,
        top,
        total,
        scale,
        D,
        SPLITS,
        BLOCK,
    )
    offset = slot * completion_slot + group * completion_head
    acc, top, total = _segment(
        query,
        completion_k + offset,
        completion_v + offset,
        tl.load(lengths + slot),
        split,
        acc,
        top,
        total,
        scale,
        D,
        SPLITS,
        BLOCK,
    )
    if SPLITS == 1:
        tl.store(out + place, (acc / total[:, None]).to(query.dtype), own)
    else:
        n = (row * HEADS + group * each + head) * SPLITS + split
        tl.store(part + n[:, None] * D + width[None, :], acc, own)
        tl.store(part_top + n, top, head < each)
        tl.store(part_total + n, total, head < each)


@triton.jit
def _join(part, part_top, part_total, out, D: tl.constexpr, SPLITS: tl.constexpr):
    n = tl.program_id(0)
    split, width = tl.arange(0, SPLITS), tl.arange(0, D)
    top = tl.load(part_top + n * SPLITS + split)
    weight = tl.exp(top - tl.max(top))
    total = tl.sum(tl.load(part_total + n * SPLITS + split) * weight)
    acc = tl.load(part + (n * SPLITS + split)[:, None] * D + width[None, :])
    tl.store(out + n * D + width, (tl.sum(acc * weight[:, None], 0) / total).to(out.dtype.element_ty))


def attend(q_BND: Tensor, keys: Past, values: Past, rows: Rows, scale: float, splits: int) -> Tensor:
    """Attention of one query a row over its past in three stretches; [B, heads, D].

    Args:
        q_BND: Queries.
        keys: Of one layer.
        values: Of the same.
        rows: The launch; a completion's newest key is already there.
        scale: Factor on the scores.
        splits: Programs that share one row's past; a power of 2.
    """
    batch, heads, width = q_BND.shape
    kv_heads = keys.completion_RGTD.shape[1]
    out = torch.empty_like(q_BND)
    part = part_top = part_total = out
    if splits > 1:
        part = q_BND.new_empty(batch, heads, splits, width, dtype=torch.float32)
        part_top, part_total = q_BND.new_empty(2, batch, heads, splits, dtype=torch.float32)
    _attend[(batch, kv_heads, splits)](
        q_BND,
        keys.shared_GCD,
        values.shared_GCD,
        keys.prompt_UGPD,
        values.prompt_UGPD,
        keys.completion_RGTD,
        values.completion_RGTD,
        rows.slots_B,
        rows.shared_1,
        rows.owners_R,
        rows.prompts_U,
        rows.lengths_R,
        out,
        part,
        part_top,
        part_total,
        keys.shared_GCD.stride(0),
        keys.prompt_UGPD.stride(0),
        keys.prompt_UGPD.stride(1),
        keys.completion_RGTD.stride(0),
        keys.completion_RGTD.stride(1),
        scale,
        HEADS=heads,
        KV_HEADS=kv_heads,
        D=width,
        PAD=max(16, triton.next_power_of_2(heads // kv_heads)),
        SPLITS=splits,
        BLOCK=BLOCK_S,
        num_warps=4,
    )
    if splits > 1:
        _join[batch * heads,](part, part_top, part_total, out, D=width, SPLITS=splits, num_warps=1)
    return out


# ------------------------------------------------------------------------------------------------- sampling


@triton.jit
def _block_sums(logits, sums, tops, size, blocks, inverse, GREEDY: tl.constexpr, BLOCK: tl.constexpr):
    """Of each block of a row's logits: the highest, and the sums of exp relative to it, heated and not."""
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(logits + row * size + at, at < size, float("-inf")).to(tl.float32)
    # Finite also where every token of the block is ruled out.
    top = tl.maximum(tl.max(value), -1e30)
    n = row * blocks + block
    tl.store(tops + n, top)
    tl.store(sums + 2 * n, tl.sum(tl.exp(value - top)))
    if not GREEDY:
        tl.store(sums + 2 * n + 1, tl.sum(tl.exp((value - top) * inverse)))


@triton.jit
def _draw(
    logits,
    sums,
    tops,
    uniforms,
    slots,
    lengths,
    stops,
    tokens,
    out_tokens,
    out_logprobs,
    done,
    size,
    room,
    blocks,
    inverse,
    STOPS: tl.constexpr,
    GREEDY: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + row).to(tl.int64)
    place = tl.load(lengths + slot)
    # The slot of rows that only fill a launch up runs ahead of the others.
    fits = place < room
    n, inner = tl.arange(0, BLOCKS), tl.arange(0, BLOCK)
    top_n = tl.load(tops + row * blocks + n, n < blocks, float("-inf"))
    top = tl.max(top_n)
    plain_n = tl.load(sums + 2 * (row * blocks + n), n < blocks, 0.0) * tl.exp(top_n - top)
    norm = top + tl.log(tl.sum(plain_n))
    if GREEDY:
        block = tl.argmax(top_n, 0)
        value = tl.load(
            logits + row * size + block * BLOCK + inner, block * BLOCK + inner < size, float("-inf")
        )
        token = block * BLOCK + tl.argmax(value.to(tl.float32), 0)
    else:
        hot_n = tl.load(sums + 2 * (row * blocks + n) + 1, n < blocks, 0.0) * tl.exp((top_n - top) * inverse)
        upto_n = tl.cumsum(hot_n)
        total = tl.sum(tl.where(n == blocks - 1, upto_n, 0.0))
        target = tl.load(uniforms + slot * room + place, fits, 0.0) * total
        # The first block whose cumulative mass is above the target; the last with mass where rounding leaves none.
        block = tl.sum((upto_n <= target).to(tl.int32))
        last = tl.max(tl.where(hot_n > 0, n, 0))
        block = tl.minimum(block, last)
        before = tl.sum(tl.where(n < block, hot_n, 0.0))
        where = block * BLOCK + inner
        value = tl.load(logits + row * size + where, where < size, float("-inf")).to(tl.float32)
        mass = tl.exp((value - top) * inverse)
        upto = before + tl.cumsum(mass)
        token = tl.sum((upto <= target).to(tl.int32))
        token = block * BLOCK + tl.minimum(token, tl.max(tl.where(mass > 0, inner, 0)))
    logprob = tl.load(logits + row * size + token).to(tl.float32) - norm
    tl.store(tokens + slot, token.to(tl.int64))
    tl.store(out_tokens + slot * room + place, token.to(tl.int32), fits)
    tl.store(out_logprobs + slot * room + place, logprob, fits)
    ended = tl.load(done + slot)
    for stop in tl.static_range(STOPS):
        ended = tl.where(token == tl.load(stops + stop), 1, ended)
    tl.store(done + slot, ended)
    tl.store(lengths + slot, place + 1, fits)


class Drawn(NamedTuple):
    """What has been sampled in each slot; changed in place by `draw_rows`."""

    uniforms_RT: Tensor
    """Random numbers of each place of a completion."""
    last_R: Tensor
    """The newest token, int64."""
    tokens_RT: Tensor
    """int32."""
    logprobs_RT: Tensor
    """Under the temperature-1 distribution, float32."""
    done_R: Tensor
    """1 once a stop token was sampled; int32."""


def draw_rows(logits_BV: Tensor, temperature: float, stops_K: Tensor, rows: Rows, drawn: Drawn) -> None:
    """Draw each row's next token by inverting its cumulative distribution, as `torch.draw` does; lengths grow by 1.

    Args:
        logits_BV: Of the next token.
        temperature: 0 takes the likeliest token, the first of equals.
        stops_K: Tokens that end a completion, int64.
        rows: The launch.
        drawn: Gets the tokens, in place.
    """
    batch, size = logits_BV.shape
    blocks = triton.cdiv(size, BLOCK_V)
    sums = torch.empty(batch, blocks, 2, dtype=torch.float32, device=logits_BV.device)
    tops = torch.empty(batch, blocks, dtype=torch.float32, device=logits_BV.device)
    greedy = temperature == 0
    inverse = 1.0 if greedy else 1 / temperature
    _block_sums[(batch, blocks)](logits_BV, sums, tops, size, blocks, inverse, GREEDY=greedy, BLOCK=BLOCK_V)
    _draw[batch,](
        logits_BV,
        sums,
        tops,
        drawn.uniforms_RT,
        rows.slots_B,
        rows.lengths_R,
        stops_K,
        drawn.last_R,
        drawn.tokens_RT,
        drawn.logprobs_RT,
        drawn.done_R,
        size,
        drawn.tokens_RT.shape[1],
        blocks,
        inverse,
        STOPS=len(stops_K),
        GREEDY=greedy,
        BLOCKS=triton.next_power_of_2(blocks),
        BLOCK=BLOCK_V,
        num_warps=8,
    )
