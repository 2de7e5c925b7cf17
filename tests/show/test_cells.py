"""The table of a sweep's cells."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from gepa_loop.show.cells import WIDTH, cells_line, cells_table, sparkline
from gepa_loop.stages.cells import Cell


@pytest.mark.parametrize(
    ("values", "low", "high", "bars"),
    [
        ([], 0, 1, ""),
        ([0, 0.5, 1], 0, 1, "▁▅█"),
        ([0, 0.124, 0.126, 0.99, 1], 0, 1, "▁▁▂██"),
        ([0.5, 0.5], 0.5, 0.5, "▁▁"),
        ([3, 4], 2, 4, "▅█"),
        (list(range(30)), 0, 29, "▁▁▂▂▃▄▄▅▅▆▆▇▇██"),
    ],
)
def test_a_curve_in_a_line(values: list[float], low: float, high: float, bars: str) -> None:
    assert sparkline(values, low, high) == bars
    assert len(sparkline(list(range(1000)), 0, 999)) <= WIDTH


def test_the_table() -> None:
    cells = [
        Cell("low", 0, "done", 20, {10: 0.0, 20: 0.5}, {10: 2.0, 20: 1.0}, 10),
        Cell("high", 0, "running", 10, {10: 1.0}, {10: 4.0}),
        Cell("low", 1, "owed", 0, {}, {}),
    ]
    out = io.StringIO()
    Console(file=out, width=120).print(cells_table(cells))
    lines = [line.split() for line in out.getvalue().splitlines()]
    # The two columns have a scale each: 0 to 1, and 1 to 4.
    assert lines[1] == ["low", "0", "done", "20", "10", ".500", "▁▅", "1.000", "▃▁"]
    assert lines[2] == ["high", "0", "running", "10", "1.000", "█", "4.000", "█"]
    assert lines[3] == ["low", "1", "owed"]
    assert cells_line(cells) == "3 students: 1 done, 1 running, 1 owed"
