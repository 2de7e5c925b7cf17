"""Shapes of packed rows, rounded so that few differ: a graph is captured for one shape."""

from __future__ import annotations

import torch
from torch.nn.functional import pad

from gepa_loop.model.packed import Packed, Spans

Shape = tuple[int, int, int]
"""Rows, positions and predicted tokens, as `shape_of` rounds them up."""


def shape_of(packed: Packed) -> Shape:
    """The rounded shape of packed rows.

    As many predicted tokens as positions, which cost a copy: one number less that changes from step to step. Only short prompts
    with many completions have more.
    """
    rows, length = packed.ids_BL.shape
    return rows, bucket(length), max(rows * bucket(length), bucket(len(packed.rows_N)))


def bucket(size: int) -> int:
    """`size` rounded up to a multiple of 16, or of an eighth of the power of two below it."""
    step = max(16, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step


def corner(packed: Packed, length: int) -> Packed:
    """The first `length` positions of the first row; where they predict nothing, the last of them does."""
    size = packed.ids_BL.shape[1]
    length = min(size, length)
    inside = (packed.rows_N == 0) & (packed.columns_N < length)
    rows_N, columns_N = packed.rows_N[inside], packed.columns_N[inside]
    if not len(rows_N):
        rows_N, columns_N = rows_N.new_zeros(1), columns_N.new_full((1,), length - 1)
    starts_BL, ends_BL, prompts_B = packed.spans
    spans = Spans(
        starts_BL[:1, :length].contiguous(),
        ends_BL[:1, :length].clamp(max=length),
        prompts_B[:1].clamp(max=length),
    )
    ids_BL, positions_BL = packed.ids_BL[:1, :length], packed.positions_BL[:1, :length]
    students_B = None if packed.students_B is None else packed.students_B[:1]
    return Packed(ids_BL, positions_BL, spans, packed.prefix, rows_N, columns_N, students_B)


def pad_packed(packed: Packed, length: int, count: int) -> Packed:
    """The same rows with `length` positions and `count` predicted tokens: after its own, these again, so that a comparison weighs
    all alike."""
    old = packed.ids_BL.shape[1]
    more, again = length - old, torch.arange(count, device=packed.rows_N.device) % len(packed.rows_N)
    starts_BL, ends_BL, prompts_B = packed.spans
    spans = Spans(pad(starts_BL, (0, more), value=old), pad(ends_BL, (0, more), value=length), prompts_B)
    return Packed(
        pad(packed.ids_BL, (0, more)),
        pad(packed.positions_BL, (0, more)),
        spans,
        packed.prefix,
        packed.rows_N[again],
        packed.columns_N[again],
        packed.students_B,
    )
