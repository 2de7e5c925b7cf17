"""Attention of packed rows and its gradients, in Triton: each query meets the keys it sees and hardly any other.

In a row of one prompt and eight completions nine tenths of the keys before a query belong to completions beside its own. A mask
would compute all of them; here a block of queries runs over the prefix, the prompt and its own stretch. FlashAttention-2
(arXiv 2307.08691) otherwise: scores are never stored, and the backward pass computes them again.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gepa_loop.model.packed import Spans


@triton.jit
def _fold(
    q, keys, values, key_row, value_row, first, last, queries, limit, starts, prompt, acc, top, total, scale,
    PART: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Online softmax over the keys from `first` up to `last`; `_seen` says which of them count."""
    at, width = tl.arange(0, BLOCK), tl.arange(0, D)
    for n in range(first, last, BLOCK):
        column = n + at
        inside = (column < last)[:, None]
        key = tl.load(keys + column[:, None] * key_row + width[None, :], inside, 0.0)
        score = tl.dot(q, tl.trans(key), input_precision="ieee") * scale
        seen = _seen(column[None, :], queries[:, None], last, limit, starts[:, None], prompt, PART)
        score = tl.where(seen, score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, 1))
        p = tl.exp(score - higher[:, None])
        fade = tl.exp(top - higher)
        value = tl.load(values + column[:, None] * value_row + width[None, :], inside, 0.0)
        acc = acc * fade[:, None] + tl.dot(p.to(value.dtype), value, input_precision="ieee")
        total = total * fade + tl.sum(p, 1)
        top = higher
    return acc, top, total


@triton.jit
def _seen(column, query, last, limit, start, prompt, PART: tl.constexpr):
    """Which keys a query sees: all of the prefix, the prompt up to itself, and its own stretch up to itself."""
    if PART == 0:
        return (column < last) & (query < limit)
    if PART == 1:
        return (column < prompt) & (column <= query)
    return (column >= prompt) & (column >= start) & (column <= query) & (column < limit)


@triton.jit
def _forward(
    q, k, v, past_k, past_v, out, norms, starts, prompts, length, past, value_batch, value_head, value_row, scale,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    tile, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row, head = pair // HEADS, pair % HEADS
    group = head // GROUPS
    width = tl.arange(0, D)
    queries = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    real = queries < length
    query = tl.load(q + (pair * length + queries)[:, None] * D + width[None, :], real[:, None], 0.0)
    start = tl.load(starts + row * length + queries, real, length)
    prompt = tl.load(prompts + row)
    end = tl.minimum((tile + 1) * BLOCK_M, length)
    acc = tl.zeros([BLOCK_M, D], tl.float32)
    # Finite, so that a block of which a query sees nothing gives weight 0 and not NaN.
    top = tl.full([BLOCK_M], -1e30, tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    kv_heads: tl.constexpr = HEADS // GROUPS
    own = k + (row * kv_heads + group) * length * D
    own_v = v + row * value_batch + group * value_head
    acc, top, total = _fold(
        query, past_k + group * past * D, past_v + group * past * D, D, D, 0, past, queries, length, start, prompt,
        acc, top, total, scale, 0, D, BLOCK_N,
    )  # fmt: skip
    acc, top, total = _fold(
        query, own, own_v, D, value_row, 0, tl.minimum(prompt, end), queries, length, start, prompt,
        acc, top, total, scale, 1, D, BLOCK_N,
    )  # fmt: skip
    acc, top, total = _fold(
        query, own, own_v, D, value_row, tl.maximum(tl.min(start), prompt), end, queries, length, start, prompt,
        acc, top, total, scale, 2, D, BLOCK_N,
    )  # fmt: skip
    place = ((row * length + queries) * HEADS + head)[:, None] * D + width[None, :]
    tl.store(out + place, (acc / total[:, None]).to(query.dtype), real[:, None])
    tl.store(norms + pair * length + queries, top + tl.log(total), real)


@triton.jit
def _query_slope(
    q, slope, keys, values, key_row, value_row, first, last, queries, limit, starts, prompt, norm, delta, acc, excess, mean, scale,
    PART: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add up slopes times keys, the slopes alone, and the keys by their weights."""
    at, width = tl.arange(0, BLOCK), tl.arange(0, D)
    for n in range(first, last, BLOCK):
        column = n + at
        inside = (column < last)[:, None]
        key = tl.load(keys + column[:, None] * key_row + width[None, :], inside, 0.0)
        value = tl.load(values + column[:, None] * value_row + width[None, :], inside, 0.0)
        score = tl.dot(q, tl.trans(key), input_precision="ieee") * scale
        seen = _seen(column[None, :], queries[:, None], last, limit, starts[:, None], prompt, PART)
        p = tl.where(seen, tl.exp(score - norm[:, None]), 0.0)
        wide = p * (tl.dot(slope, tl.trans(value), input_precision="ieee") - delta[:, None])
        rounded = wide.to(key.dtype)
        acc += tl.dot(rounded, key, input_precision="ieee")
        excess += tl.sum(rounded.to(tl.float32), 1)
        mean += tl.dot(p.to(key.dtype), key, input_precision="ieee")
    return acc, excess, mean


@triton.jit
def _backward_queries(
    q, k, v, past_k, past_v, slope, norms, deltas, out, starts, prompts, length, past,
    value_batch, value_head, value_row, scale,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    tile, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    row, head = pair // HEADS, pair % HEADS
    group = head // GROUPS
    width = tl.arange(0, D)
    queries = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    real = queries < length
    here = (pair * length + queries)[:, None] * D + width[None, :]
    query = tl.load(q + here, real[:, None], 0.0)
    place = ((row * length + queries) * HEADS + head)[:, None] * D + width[None, :]
    grad = tl.load(slope + place, real[:, None], 0.0)
    norm = tl.load(norms + pair * length + queries, real, 0.0)
    delta = tl.load(deltas + pair * length + queries, real, 0.0)
    start = tl.load(starts + row * length + queries, real, length)
    prompt = tl.load(prompts + row)
    end = tl.minimum((tile + 1) * BLOCK_M, length)
    acc, mean = tl.zeros([BLOCK_M, D], tl.float32), tl.zeros([BLOCK_M, D], tl.float32)
    excess = tl.zeros([BLOCK_M], tl.float32)
    kv_heads: tl.constexpr = HEADS // GROUPS
    own = k + (row * kv_heads + group) * length * D
    own_v = v + row * value_batch + group * value_head
    acc, excess, mean = _query_slope(
        query, grad, past_k + group * past * D, past_v + group * past * D, D, D, 0, past, queries, length, start,
        prompt, norm, delta, acc, excess, mean, scale, 0, D, BLOCK_N,
    )  # fmt: skip
    acc, excess, mean = _query_slope(
        query, grad, own, own_v, D, value_row, 0, tl.minimum(prompt, end), queries, length, start,
        prompt, norm, delta, acc, excess, mean, scale, 1, D, BLOCK_N,
    )  # fmt: skip
    acc, excess, mean = _query_slope(
        query, grad, own, own_v, D, value_row, tl.maximum(tl.min(start), prompt), end, queries, length, start,
        prompt, norm, delta, acc, excess, mean, scale, 2, D, BLOCK_N,
    )  # fmt: skip
    # A query's slopes sum to 0, so what all keys have in common cancels; of rounded slopes it does not: keys of some hundreds
    # (Qwen 2.5) left errors of .05 to .14 of the gradient with cuDNN's and PyTorch's kernels.
    acc -= excess[:, None] * mean
    tl.store(out + here, (acc * scale).to(query.dtype), real[:, None])


@triton.jit
def _backward_keys(
    q, k, v, slope, norms, deltas, key_out, value_out, starts, ends, prompts, length,
    value_batch, value_head, value_row, scale,
    HEADS: tl.constexpr, GROUPS: tl.constexpr, D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    tile, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    kv_heads: tl.constexpr = HEADS // GROUPS
    row, group = pair // kv_heads, pair % kv_heads
    at, width = tl.arange(0, BLOCK_M), tl.arange(0, D)
    first = tile * BLOCK_N
    columns = first + tl.arange(0, BLOCK_N)
    real = columns < length
    here = (pair * length + columns)[:, None] * D + width[None, :]
    key = tl.load(k + here, real[:, None], 0.0)
    there = row * value_batch + group * value_head + columns[:, None] * value_row + width[None, :]
    value = tl.load(v + there, real[:, None], 0.0)
    last = tl.max(tl.load(ends + row * length + columns, real, 0))
    prompt = tl.load(prompts + row)
    key_acc = tl.zeros([BLOCK_N, D], tl.float32)
    value_acc = tl.zeros([BLOCK_N, D], tl.float32)
    for head in range(group * GROUPS, (group + 1) * GROUPS):
        base = (row * HEADS + head) * length
        for m in range(first, last, BLOCK_M):
            queries = m + at
            inside = queries < length
            query = tl.load(q + (base + queries)[:, None] * D + width[None, :], inside[:, None], 0.0)
            place = ((row * length + queries) * HEADS + head)[:, None] * D + width[None, :]
            grad = tl.load(slope + place, inside[:, None], 0.0)
            norm = tl.load(norms + base + queries, inside, 0.0)
            delta = tl.load(deltas + base + queries, inside, 0.0)
            start = tl.load(starts + row * length + queries, inside, length)
            score = tl.dot(key, tl.trans(query), input_precision="ieee") * scale
            column, asked = columns[:, None], queries[None, :]
            seen = (column <= asked) & ((column < prompt) | (column >= start[None, :])) & (asked < length)
            p = tl.where(seen, tl.exp(score - norm[None, :]), 0.0)
            value_acc += tl.dot(p.to(grad.dtype), grad, input_precision="ieee")
            wide = p * (tl.dot(value, tl.trans(grad), input_precision="ieee") - delta[None, :])
            key_acc += tl.dot(wide.to(query.dtype), query, input_precision="ieee")
    tl.store(key_out + here, (key_acc * scale).to(key.dtype), real[:, None])
    tl.store(value_out + here, value_acc.to(key.dtype), real[:, None])


def blocks(dtype: torch.dtype) -> dict[str, int]:
    """Queries and keys that a program takes at once, and how it is built."""
    size = 64 if dtype.itemsize == 2 else 32
    return {"BLOCK_M": size, "BLOCK_N": size, "num_warps": 4, "num_stages": 2 if dtype.itemsize == 2 else 1}


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        past: tuple[Tensor, Tensor] | None,
        spans: Spans,
        scale: float,
    ) -> Tensor:
        rows, heads, length, width = query.shape
        kv_heads = key.shape[1]
        sides = (key, value) if past is None else tuple(side.contiguous() for side in past)
        before = 0 if past is None else sides[0].shape[1]
        out = query.new_empty(rows, length, heads, width)
        norms = query.new_empty(rows, heads, length, dtype=torch.float32)
        options = blocks(query.dtype)
        shape = {"HEADS": heads, "GROUPS": heads // kv_heads, "D": width}
        strides = value.stride(0), value.stride(1), value.stride(2)
        _forward[(triton.cdiv(length, options["BLOCK_M"]), rows * heads)](
            query, key, value, *sides, out, norms, spans.starts_BL, spans.prompts_B, length, before, *strides, scale,
            **shape, **options,
        )  # fmt: skip
        ctx.save_for_backward(query, key, value, *sides, out, norms, *spans)
        ctx.shape, ctx.scale, ctx.before = shape, scale, before
        return out

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        query, key, value, past_key, past_value, out, norms, starts_BL, ends_BL, prompts_B = ctx.saved_tensors
        rows, heads, length, _ = query.shape
        slope = slope.contiguous()
        deltas = (out.float() * slope.float()).sum(-1).transpose(1, 2).contiguous()
        query_out, key_out, value_out = (torch.empty_like(t) for t in (query, key, key))
        options = blocks(query.dtype)
        strides = value.stride(0), value.stride(1), value.stride(2)
        _backward_queries[(triton.cdiv(length, options["BLOCK_M"]), rows * heads)](
            query, key, value, past_key, past_value, slope, norms, deltas, query_out, starts_BL, prompts_B, length,
            ctx.before, *strides, ctx.scale, **ctx.shape, **options,
        )  # fmt: skip
        _backward_keys[(triton.cdiv(length, options["BLOCK_N"]), rows * key.shape[1])](
            query, key, value, slope, norms, deltas, key_out, value_out, starts_BL, ends_BL, prompts_B, length,
            *strides, ctx.scale, **ctx.shape, **options,
        )  # fmt: skip
        return query_out, key_out, value_out, None, None, None


def attend(
    query_BHLD: Tensor,
    key_BGLD: Tensor,
    value_BGLD: Tensor,
    past: tuple[Tensor, Tensor] | None,
    spans: Spans,
    scale: float,
) -> Tensor:
    """Attention [B, L, H, D] of packed rows; query head h reads key head h // (H / G).

    Args:
        query_BHLD: Queries, contiguous.
        key_BGLD: Keys of the rows themselves, contiguous.
        value_BGLD: Their values; a head's numbers lie side by side.
        past: Keys and values [G, P, D] that all rows continue and every query sees; they get no gradient.
        spans: What each position sees of its row.
        scale: Factor on the scores.
    """
    found: Tensor = _Attend.apply(query_BHLD, key_BGLD, value_BGLD, past, spans, scale)  # type: ignore[no-untyped-call]
    return found
