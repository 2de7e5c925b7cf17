"""Which rows are generated together: rows of like length, since a batch is padded to its longest. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

ROW = 512
"""Positions of a row of ordinary length on a CPU: `sampling.batch` rows of so many are one batch. 64 of them are 1.5 GB of keys
and values of a 135M model in float32."""

SLACK = 2_048
"""Positions of padding on a CPU that are read sooner than another batch is decoded."""


def by_length(lengths: Sequence[int], rows: int, horizon: int, on_cpu: bool) -> list[list[int]]:
    """Indices of the rows of each batch, shorter rows first; equal ones stay in order.

    Args:
        lengths: Tokens of each row that are to be read.
        rows: Most rows of a batch.
        horizon: Longest completion.
        on_cpu: Reading takes time in proportion to its positions, padding included. So a batch also ends where it would
            have more than `rows` * `ROW` positions, completions counted, or more padding than tokens and `SLACK`.
    """
    batches: list[list[int]] = []
    real = 0
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[row]
        count = len(batches[-1]) + 1 if batches else 0
        full = count > rows
        if on_cpu:
            padding = count * length - (real + length)
            full |= count * (length + horizon) > rows * ROW or padding > max(real + length, SLACK)
        if full or not batches:
            batches.append([])
            real = 0
        batches[-1].append(row)
        real += length
    return batches


def in_turn(lengths: Sequence[int], rows: int, horizon: int) -> list[int]:
    """Sizes of consecutive parts of rows whose calls of a sampler on a CPU take no longer than one of ordinary rows.

    A part has at most `rows` rows; one of more than `ROW` positions, the completion counted, counts as several.
    """
    sizes: list[int] = []
    weight = 0
    for length in lengths:
        own = max(1, -(-(length + horizon) // ROW))
        if not sizes or weight + own > rows:
            sizes.append(0)
            weight = 0
        sizes[-1] += 1
        weight += own
    return sizes


def worth_joining(groups: Sequence[Sequence[Sequence[int]]]) -> bool:
    """Whether a CPU answers groups of rows sooner in one call than in one call each.

    What all rows of a call begin with is read once. So rows of one prompt share it in a call of their own, and read it once a
    row in a call with other prompts, which saves decoding in turn.
    """
    alone = sum(_positions(rows) for rows in groups)
    together = _positions([row for rows in groups for row in rows])
    return together - alone <= SLACK * (len(groups) - 1)


def _positions(rows: Sequence[Sequence[int]]) -> int:
    shared = shared_length(rows)
    return shared + sum(len(row) - shared for row in rows)


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with; at least the last token of each is left to read."""
    first, last = min(map(tuple, prompts)), max(map(tuple, prompts))
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return min(sum(1 for _ in same), min(map(len, prompts)) - 1)
