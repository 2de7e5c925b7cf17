"""Packs rollouts for one forward pass: each row holds a prompt once, then the completions that share it.

A completion attends to the prompt and to itself, never to its siblings, and its positions continue the
prompt's, so the result is that of separate sequences. Nothing is decoded or encoded: the ids are the
sampler's, and every mask comes from lengths.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
    size = max(lengths)
    ids_BL = torch.zeros(len(prompts), size, dtype=torch.long)
    positions_BL = torch.zeros(len(prompts), size, dtype=torch.long)
    # Padding sees itself: a mask row without any True gives NaN.
    mask_BLL = torch.eye(size, dtype=torch.bool).repeat(len(prompts), 1, 1)
    rows, columns = [], []
    for row, (prompt, group) in enumerate(zip(prompts, completions, strict=True)):
        end = len(prompt)
        ids_BL[row, :end] = torch.tensor(prompt)
        positions_BL[row, :end] = torch.arange(end)
        mask_BLL[row, :end, :end] = torch.ones(end, end, dtype=torch.bool).tril()
        for completion in group:
            read = len(completion) - 1
            span = slice(end, end + read)
            ids_BL[row, span] = torch.tensor(completion[:-1], dtype=torch.long)
            positions_BL[row, span] = len(prompt) + torch.arange(read)
            mask_BLL[row, span, : len(prompt)] = True
            mask_BLL[row, span, span] = torch.ones(read, read, dtype=torch.bool).tril()
            rows += [row] * len(completion)
            columns += [len(prompt) - 1, *range(end, end + read)]
            end += read
    mask = torch.cat([mask_BLL.new_ones(len(prompts), size, prefix), mask_BLL], dim=2)
    return Packed(
        ids_BL.to(device),
        (positions_BL + prefix).to(device),
        mask[:, None].to(device),
        torch.tensor(rows, device=device),
        torch.tensor(columns, device=device),
    )


def micro_batches(groups: Sequence[Group], limit: int) -> Iterator[list[Group]]:
    """Split groups, in order, so that no part holds more than `limit` positions (padding and prompts included).

    A group too large for a part of its own is split by completions; a single completion is never split.
    """
    pieces: list[Group] = []
    for group in groups:
        pieces += _fit(group, limit)
    part: list[Group] = []
    for piece in pieces:
        if part and (len(part) + 1) * max(_length(g) for g in [*part, piece]) > limit:
            yield part
            part = []
        part.append(piece)
    if part:
        yield part


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
    return torch.tensor([t for g in groups for c in g.completions for t in c], device=device)
