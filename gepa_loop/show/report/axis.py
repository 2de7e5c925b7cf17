"""Where an axis ends and what stands at its ticks."""

from __future__ import annotations

from gepa_loop.scores.numbers import plain

TOPS = (0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)
"""Ends that an axis of scores may have."""


def top_of(score: float) -> float:
    """The end of an axis on which the largest score is this one."""
    return next((top for top in TOPS if score <= top), TOPS[-1])


def score_ticks(top: float) -> list[tuple[float, str]]:
    """Scores from 0 to `top`, and how they are written: four parts, or five of .5 and 1."""
    parts = 5 if top in (0.5, 1.0) else 4
    return [(top * n / parts, plain(f"{top * n / parts:.3g}")) for n in range(parts + 1)]


def steps_between(last: int) -> int:
    """Steps between two ticks of an axis that ends at `last`: 1, 2 or 5 times a power of 10, for no more than eight ticks."""
    power = 1
    while last > 8 * 5 * power:
        power *= 10
    return next(n * power for n in (1, 2, 5) if last <= 8 * n * power)
