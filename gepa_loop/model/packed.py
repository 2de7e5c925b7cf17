"""Packed rows for one forward pass: a prompt once, then the completions that share it.

A completion attends to the prompt and to itself, never to its siblings, and its positions continue the
prompt's, so the result is that of separate sequences. Nothing is decoded or encoded: the ids are the
sampler's, and every mask comes from lengths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad


class Spans(NamedTuple):
    """What a position sees of its row, up to itself: the prompt, and its own stretch; int32.

    A stretch is the prompt, a completion, or the padding.
    """

    starts_BL: Tensor
    """Where its stretch begins."""
    ends_BL: Tensor
    """Behind the last position that sees it."""
    prompts_B: Tensor
    """Positions of the prompt."""


@dataclass(frozen=True)
class Packed:
    """Rows for one forward pass. `_B` rows, `_L` positions, `_S` = cached prefix + L, `_N` completion tokens."""

    ids_BL: Tensor
    positions_BL: Tensor
    spans: Spans
    prefix: int
    """Tokens of a cache that every position sees besides."""
    rows_N: Tensor
    """Row of the position that predicts each completion token, completion by completion."""
    columns_N: Tensor
    """Its column."""
    students_B: Tensor | None = None
    """Which student each row is for; None where there is one."""

    @property
    def mask_B1LS(self) -> Tensor:
        """True where attending is allowed."""
        starts_BL, _, prompts_B = self.spans
        order_L = torch.arange(starts_BL.shape[1], device=starts_BL.device)
        near_BLL = (order_L < prompts_B[:, None, None]) | (order_L >= starts_BL[:, :, None])
        return pad(near_BLL & (order_L <= order_L[:, None]), (self.prefix, 0), value=True)[:, None]


def pack(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[Sequence[int]]],
    prefix: int,
    device: torch.device,
    students: Sequence[int] | None = None,
) -> Packed:
    """Lay out one row for each prompt with its completions.

    Args:
        prompts: One for each row, without the cached prefix; at least one token each.
        completions: Those of each row; at least one token each.
        prefix: Tokens before the prompts that are in a key-value cache.
        device: Where the tensors go.
        students: Whose each row is, where several students read.
    """
    # A completion's last token predicts nothing, so it is not read.
    lengths = [len(p) + sum(len(c) - 1 for c in cs) for p, cs in zip(prompts, completions, strict=True)]
    shape = len(prompts), max(lengths)
    ids, positions, starts = (np.zeros(shape, np.int64) for _ in range(3))
    ends = np.full(shape, shape[1], np.int64)
    columns = []
    for row, (prompt, group) in enumerate(zip(prompts, completions, strict=True)):
        end = len(prompt)
        ids[row, :end], positions[row, :end] = prompt, np.arange(end)
        for completion in group:
            read = len(completion) - 1
            span = slice(end, end + read)
            ids[row, span], starts[row, span], ends[row, span] = completion[:-1], end, end + read
            positions[row, span] = len(prompt) + np.arange(read)
            columns += [np.array([len(prompt) - 1]), np.arange(end, end + read)]
            end += read
        starts[row, end:] = end
    ids_BL, positions_BL, starts_BL, ends_BL = torch.from_numpy(
        np.stack([ids, positions + prefix, starts, ends])
    ).to(device)
    prompts_B = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.int32, device=device)
    rows = np.repeat(np.arange(len(prompts)), [sum(map(len, group)) for group in completions])
    rows_N, columns_N = torch.from_numpy(np.stack([rows, np.concatenate(columns)])).to(device)
    spans = Spans(starts_BL.int(), ends_BL.int(), prompts_B)
    owners_B = None if students is None else torch.tensor(students, device=device)
    return Packed(ids_BL, positions_BL, spans, prefix, rows_N, columns_N, owners_B)
