"""Packs rollouts for one forward pass: each row holds a prompt once, then the completions that share it.

A completion attends to the prompt and to itself, never to its siblings, and its positions continue the
prompt's, so the result is that of separate sequences. Nothing is decoded or encoded: the ids are the
sampler's, and every mask comes from lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Group:
    """One item's prompts and the completions sampled for it."""

    student_prompt: tuple[int, ...]
    teacher_prompt: tuple[int, ...]
    """Without the cached prefix; that of whatever reads besides the student."""
    completions: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """Completion tokens."""
        return sum(map(len, self.completions))


@dataclass(frozen=True)
class Packed:
    """Rows for one forward pass. `_B` rows, `_L` positions, `_S` = cached prefix + L, `_N` completion tokens."""

    ids_BL: Tensor
    positions_BL: Tensor
    mask_B1LS: Tensor
    """True where attending is allowed."""
    rows_N: Tensor
    """Row of the position that predicts each completion token, completion by completion."""
    columns_N: Tensor
    """Its column."""


def pack(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[Sequence[int]]],
    prefix: int,
    device: torch.device,
) -> Packed:
    """Lay out one row for each prompt with its completions.

    Args:
        prompts: One for each row, without the cached prefix; at least one token each.
        completions: Those of each row; at least one token each.
        prefix: Tokens before the prompts that are in a key-value cache.
        device: Where the tensors go.
    """
    # A completion's last token predicts nothing, so it is not read.
    lengths = [len(p) + sum(len(c) - 1 for c in cs) for p, cs in zip(prompts, completions, strict=True)]
    shape = len(prompts), max(lengths)
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    # Which stretch of its row a position belongs to: 0 is the prompt, 1 and on the completions, -1 padding.
    stretch = np.full(shape, -1, np.int64)
    columns = []
    for row, (prompt, group) in enumerate(zip(prompts, completions, strict=True)):
        end = len(prompt)
        ids[row, :end], positions[row, :end], stretch[row, :end] = prompt, np.arange(end), 0
        for number, completion in enumerate(group, 1):
            read = len(completion) - 1
            span = slice(end, end + read)
            ids[row, span], stretch[row, span] = completion[:-1], number
            positions[row, span] = len(prompt) + np.arange(read)
            columns += [np.array([len(prompt) - 1]), np.arange(end, end + read)]
            end += read
    ids_BL, positions_BL, stretch_BL = torch.from_numpy(np.stack([ids, positions + prefix, stretch])).to(
        device
    )
    rows = np.repeat(np.arange(len(prompts)), [sum(map(len, group)) for group in completions])
    rows_N, columns_N = torch.from_numpy(np.stack([rows, np.concatenate(columns)])).to(device)
    return Packed(ids_BL, positions_BL, _mask(stretch_BL, prefix), rows_N, columns_N)


def _mask(stretch_BL: Tensor, prefix: int) -> Tensor:
    """A position sees the prefix, the prompt and its own stretch up to itself."""
    query_BL1, key_B1L = stretch_BL[:, :, None], stretch_BL[:, None, :]
    order_L = torch.arange(stretch_BL.shape[1], device=stretch_BL.device)
    mask_BLL = ((key_B1L == 0) | (key_B1L == query_BL1)) & (order_L <= order_L[:, None])
    # Padding sees its like: a mask row without any True gives NaN.
    return torch.nn.functional.pad(mask_BLL, (prefix, 0), value=True)[:, None]


def micro_batches(groups: Sequence[Group], limit: int) -> Iterator[list[Group]]:
    """Split groups, in order, so that no part holds more than `limit` positions (padding and prompts included).

    A group too large for a part of its own is split by completions; a single completion is never split.
    """
    pieces: list[Group] = []
    for group in groups:
        pieces += _fit(group, limit)
    part: list[Group] = []
    for piece in pieces:
        if part and positions([*part, piece]) > limit:
            yield part
            part = []
        part.append(piece)
    if part:
        yield part


def positions(part: Sequence[Group]) -> int:
    """Positions of one pass over these groups, padding and prompts included."""
    return len(part) * max(map(_length, part))


def _fit(group: Group, limit: int) -> list[Group]:
    if len(group.completions) == 1 or _length(group) <= limit:
        return [group]
    half = len(group.completions) // 2
    parts = group.completions[:half], group.completions[half:]
    return [g for p in parts for g in _fit(Group(group.student_prompt, group.teacher_prompt, p), limit)]


def _length(group: Group) -> int:
    return max(len(group.student_prompt), len(group.teacher_prompt)) + group.tokens


def completion_tokens(groups: Sequence[Group], device: torch.device) -> Tensor:
    """All completion tokens [N], in the order of `Packed.rows_N`."""
    tokens = np.fromiter(chain.from_iterable(c for g in groups for c in g.completions), np.int64)
    return torch.from_numpy(tokens).to(device)
