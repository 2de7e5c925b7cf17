"""The draw of a token from each row's logits."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gepa_loop.model.fused.rows import Rows
from gepa_loop.sampling.cuda.drawn import Drawn

BLOCK_V = 2048
"""Logits that are read at once."""


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
    # Of temperature 1 for the log-probability, of the asked one for the draw.
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
    capacity,
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
    fits = place < capacity
    n, inner = tl.arange(0, BLOCKS), tl.arange(0, BLOCK)
    top_n = tl.load(tops + row * blocks + n, n < blocks, float("-inf"))
    top = tl.max(top_n)
    plain_n = tl.load(sums + 2 * (row * blocks + n), n < blocks, 0.0) * tl.exp(top_n - top)
    norm = top + tl.log(tl.sum(plain_n))
    # Two levels: the block from the blocks' masses, then the token inside it. No sort, no cumulative sum over the vocabulary.
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
        target = tl.load(uniforms + slot * capacity + place, fits, 0.0) * total
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
        # The same inside the block: a token without mass is never drawn.
        token = block * BLOCK + tl.minimum(token, tl.max(tl.where(mass > 0, inner, 0)))
    logprob = tl.load(logits + row * size + token).to(tl.float32) - norm
    tl.store(tokens + slot, token.to(tl.int64))
    tl.store(out_tokens + slot * capacity + place, token.to(tl.int32), fits)
    tl.store(out_logprobs + slot * capacity + place, logprob, fits)
    ended = tl.load(done + slot)
    for stop in tl.static_range(STOPS):
        ended = tl.where(token == tl.load(stops + stop), 1, ended)
    tl.store(done + slot, ended)
    tl.store(lengths + slot, place + 1, fits)


def draw_rows(logits_BV: Tensor, temperature: float, stops_K: Tensor, rows: Rows, drawn: Drawn) -> None:
    """Draw each row's next token by inverting its cumulative distribution, as `plain.draw` does; lengths grow by 1.

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
