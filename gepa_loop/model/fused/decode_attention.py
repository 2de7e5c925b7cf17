"""Attention of one query a row over its past in three stretches."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gepa_loop.model.fused.rows import Past, Rows

BLOCK_S = 128
"""Keys that are read at once."""


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
    # Milakov and Gimelshein, arXiv 1805.02867: what was summed fades when a higher score comes.
    at, width = tl.arange(0, BLOCK), tl.arange(0, D)
    for start in range(split * BLOCK, length, SPLITS * BLOCK):
        inside = start + at < length
        where = (start + at)[:, None] * D + width[None, :]
        key = tl.load(keys + where, inside[:, None], 0.0)
        # "ieee": float32 would be rounded to tf32's 10 bits, and the other sampler's tokens would differ.
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
    out_row,
    scale,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    D: tl.constexpr,
    PAD: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    row, group, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    # 64 bits: a slot's number times its stride passes 2^31 in a long cache.
    slot = tl.load(slots + row).to(tl.int64)
    owner = tl.load(owners + slot).to(tl.int64)
    each: tl.constexpr = HEADS // KV_HEADS
    # The query heads of one key head are the rows of a product, filled up to the 16 that tensor cores take.
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
        place = row * out_row + (group * each + head)[:, None] * D + width[None, :]
        tl.store(out + place, (acc / total[:, None]).to(query.dtype), own)
    else:
        n = (row * HEADS + group * each + head) * SPLITS + split
        tl.store(part + n[:, None] * D + width[None, :], acc, own)
        tl.store(part_top + n, top, head < each)
        tl.store(part_total + n, total, head < each)


@triton.jit
def _join(
    part, part_top, part_total, out, out_row, HEADS: tl.constexpr, D: tl.constexpr, SPLITS: tl.constexpr
):
    # The splits' sums, brought to the highest score of all of them.
    n = tl.program_id(0)
    split, width = tl.arange(0, SPLITS), tl.arange(0, D)
    top = tl.load(part_top + n * SPLITS + split)
    weight = tl.exp(top - tl.max(top))
    total = tl.sum(tl.load(part_total + n * SPLITS + split) * weight)
    acc = tl.load(part + (n * SPLITS + split)[:, None] * D + width[None, :])
    place = n // HEADS * out_row + n % HEADS * D + width
    tl.store(out + place, (tl.sum(acc * weight[:, None], 0) / total).to(out.dtype.element_ty))


def attend(q_BND: Tensor, keys: Past, values: Past, rows: Rows, splits: int, spare: int) -> Tensor:
    """Attention of one query a row over its past in three stretches; [B, heads * D + spare].

    Args:
        q_BND: Queries.
        keys: Of one layer.
        values: Of the same.
        rows: The launch; a completion's newest key is already there.
        splits: Programs that share one row's past; a power of 2.
        spare: Columns behind what is found that are left to fill.
    """
    batch, heads, width = q_BND.shape
    kv_heads = keys.completion_RGTD.shape[1]
    out = q_BND.new_empty(batch, heads * width + spare)
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
        out.stride(0),
        width**-0.5,
        HEADS=heads,
        KV_HEADS=kv_heads,
        D=width,
        PAD=max(16, triton.next_power_of_2(heads // kv_heads)),
        SPLITS=splits,
        BLOCK=BLOCK_S,
        num_warps=4,
    )
    if splits > 1:
        _join[batch * heads,](
            part, part_top, part_total, out, out.stride(0), HEADS=heads, D=width, SPLITS=splits, num_warps=1
        )
    return out
