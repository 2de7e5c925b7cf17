"""The table of what was measured with workers and what is predicted."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.scale_paper import PLACE, UNKNOWN, compared, curves, draw
from gepa_loop.start.scheduled import COUNTS

FOUND: dict[str, Any] = json.loads(PLACE.read_text())


def test_what_is_not_measured_is_said_and_what_is_stands_beside_its_prediction() -> None:
    lines = {(line.what, line.workers): line for line in compared(FOUND)}
    two = lines["sampling: 4B, 128 rows of 1,024", 2]
    assert two.measured == 7.08 and two.predicted == pytest.approx(7.06, abs=0.01) and "-0.2%" in str(two)
    assert str(lines["8 students: 0.5B, tickets, from no workers", 1]).count(UNKNOWN) == 2
    students = lines["8 students: 0.5B, tickets, from two workers", 1]
    assert students.measured is None and students.predicted == 72.0


def test_a_figure_that_is_filled_in_is_compared() -> None:
    found = copy.deepcopy(FOUND)
    found["students"]["workers"] |= {"0": {"train": 70.0}, "1": {"train": 75.0}}
    found["step"]["workers"]["2"] = {"generate": 14.0, "backward": 6.0}
    lines = {(line.what, line.workers): line for line in compared(found)}
    two = lines["8 students: 0.5B, tickets, from no workers", 2]
    assert (two.measured, two.predicted) == (36.0, 35.0)
    assert lines["8 students: 0.5B, tickets, from two workers", 1].measured == 75.0
    step = lines["a step of one student: 4B, C", 2]
    assert step.measured == 20.0 and step.predicted == pytest.approx(19.51)


def test_curves_begin_with_one_gpu_and_pass_no_number_of_them(tmp_path: Path) -> None:
    for name, speeds in curves(FOUND).items():
        assert speeds[0] == 1 and all(
            speed <= count + 1e-9 for speed, count in zip(speeds, COUNTS, strict=True)
        ), name
    draw(FOUND, tmp_path / "scale.svg")
    assert (tmp_path / "scale.svg").stat().st_size > 10_000
