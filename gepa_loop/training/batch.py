"""What is trained together: an item's completions, and groups of them that fit into one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    student: int = 0
    """Whose they are, where several students are trained together."""

    @property
    def tokens(self) -> int:
        """Completion tokens."""
        return sum(map(len, self.completions))


def micro_batches(groups: Sequence[Group], limit: int) -> list[list[Group]]:
    """Split groups, in order, so that no part holds more than `limit` positions (padding and prompts included).

    A group too large for a part of its own is split by completions; a single completion is never split. Parts but the last
    have the same number of groups where that takes no more of them: fewer shapes, which a GPU captures.
    """
    parts: list[list[Group]] = []
    pieces = [piece for group in groups for piece in _fit(group, limit)]
    for piece in pieces:
        if parts and positions([*parts[-1], piece]) <= limit:
            parts[-1].append(piece)
        else:
            parts.append([piece])
    if not parts:
        return []
    size = -(-len(pieces) // len(parts))
    alike = [pieces[start : start + size] for start in range(0, len(pieces), size)]
    return alike if all(positions(part) <= limit for part in alike) else parts


def positions(part: Sequence[Group]) -> int:
    """Positions of one pass over these groups, padding and prompts included."""
    return len(part) * max(map(_length, part))


def _fit(group: Group, limit: int) -> list[Group]:
    if len(group.completions) == 1 or _length(group) <= limit:
        return [group]
    half = len(group.completions) // 2
    parts = group.completions[:half], group.completions[half:]
    return [g for part in parts for g in _fit(replace(group, completions=part), limit)]


def _length(group: Group) -> int:
    return max(len(group.student_prompt), len(group.teacher_prompt)) + group.tokens


def completion_tokens(groups: Sequence[Group], device: torch.device) -> Tensor:
    """All completion tokens [N], in the order of `Packed.rows_N`."""
    tokens = np.fromiter(chain.from_iterable(c for g in groups for c in g.completions), np.int64)
    return torch.from_numpy(tokens).to(device)
