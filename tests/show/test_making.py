"""Items that take long to make, as a person sees it."""

from __future__ import annotations

import io

from rich.console import Console

from gepa_loop.show.making import making


def seen(seconds: list[float], terminal: bool = False) -> str:
    """What is printed where items are ready at these times."""
    out, clock = io.StringIO(), [0.0]
    with making(Console(file=out, force_terminal=terminal, width=100), "sokoban", lambda: clock[0]) as told:
        for number, clock[0] in enumerate(seconds, 1):
            told(number, 40)
    return out.getvalue()


def test_a_moment_is_silent() -> None:
    assert seen([5.0, 5.2, 5.9]) == ""


def test_more_than_a_moment_is_told() -> None:
    assert seen([5.0, 5.5, 6.0, 6.1]) == "making items of sokoban\n"
    assert seen([5.0, *[6.0] * 39]) == "making items of sokoban\n  40/40\n"
    terminal = seen([5.0, 5.5, 6.1], terminal=True)
    assert "✓" in terminal and "making items of sokoban" in terminal
