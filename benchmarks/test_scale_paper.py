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
    assert str(lines["sampling: 4B, 128 rows of 1,024", 1]).count(UNKNOWN) == 1


def test_a_figure_that_is_filled_in_is_compared() -> None:
    found = copy.deepcopy(FOUND)
    for workers, seconds in (("0", (69.0, 71.0)), ("1", (74.0, 77.0))):
        for run, own in zip(found["overhead"]["workers"][workers], seconds, strict=True):
            run["train"] = own
    found["students"]["workers"]["1"]["train"] = 75.0
    found["students"]["workers"]["2"]["train"] = 36.0
    found["step"]["workers"] = {
        "0": {"generate": 14.0, "backward": 6.0},
        "1": {"generate": 9.0, "backward": 6.5},
    }
    lines = {(line.what, line.workers): line for line in compared(found)}
    one = lines["8 students, 0.5B, tickets: train, from none", 1]
    two = lines["8 students, 0.5B, tickets: train, from one", 2]
    assert (one.measured, one.predicted, two.measured, two.predicted) == (75.5, 70.0, 36.0, 37.5)
    step = lines["a step of one student: 4B, C, stale", 1]
    assert step.measured == 15.5 and step.predicted == 14.0, "what is sampled beside the update hides it"


def test_curves_begin_with_one_gpu_and_pass_no_number_of_them(tmp_path: Path) -> None:
    stale = curves(FOUND)["1 student's steps, stale"]
    phases = FOUND["step"]["workers"]["0"]
    whole = sum(phases.values())
    assert stale[1] == stale[-1] == pytest.approx(whole / phases["generate"]), "its 32 rows are not cut"
    for name, speeds in curves(FOUND).items():
        assert speeds[0] == 1 and all(
            speed <= count + 1e-9 for speed, count in zip(speeds, COUNTS, strict=True)
        ), name
    draw(FOUND, tmp_path / "scale.svg")
    assert (tmp_path / "scale.svg").stat().st_size > 10_000
