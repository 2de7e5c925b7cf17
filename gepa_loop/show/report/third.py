"""The place of the third number of a page: what a student costs, and after how many calls that has come back."""

from __future__ import annotations

from gepa_loop.show.report.read import Told
from gepa_loop.show.report.verdict import Tile


def cost_and_break_even(told: Told) -> Tile | None:  # noqa: ARG001 (no record of a run holds it so far)
    """What `_third.html.j2` shows beside the other two; None is two numbers."""
    return None
