"""What a loop could show, before it begins."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist

import pytest

from gepa_loop.cli import run
from gepa_loop.config.load import load_config
from gepa_loop.start.power import LARGE, loop_power, power_of, select_warning


def test_the_least_gain_is_that_of_a_paired_test() -> None:
    # With many items the t test's is the normal's: (z of the level + z of the power) times the standard error.
    z = NormalDist().inv_cdf
    for students in (1, 2, 9):
        expected = (z(1 - 0.05 / students / 2) + z(0.8)) * math.sqrt(0.25 / 10_000)
        assert power_of(10_000, students, 0.05).least == pytest.approx(expected, rel=1e-3)
    assert 0.12 < power_of(128, 1, 0.05).least < power_of(128, 2, 0.05).least < LARGE
    # The number of LARGE's docstring.
    assert [power_of(n, 2, 0.05).is_small for n in (24, 61, 62)] == [True, True, False]
    assert power_of(4, 1, 0.05).least == math.inf
    assert "4 items of select are too few for any student to win" in str(power_of(4, 1, 0.05))
    assert "one student is tested" in str(power_of(50, 1, 0.05))


def test_students_are_as_many_as_a_race_leaves_or_as_prompts_are_handed_on() -> None:
    def tested(*sets: str) -> int:
        return loop_power(load_config("demo", ["loop.front=5", *sets], env={})).students

    assert tested() == 2 and tested("race.on=false") == 6 and tested("objective.type=grpo") == 1
    level = loop_power(load_config("demo", ["loop.alpha=.01"], env={})).least
    assert level > loop_power(load_config("demo", [], env={})).least


def test_only_what_can_hardly_be_won_is_warned_of() -> None:
    assert select_warning(load_config("demo", [], env={})) is None
    said = select_warning(load_config("demo", ["task.splits.select=24"], env={}))
    assert (
        said is not None
        and "gain about .33" in said
        and "24 items of select" in said
        and "more items" in said
    )


def test_it_is_said_by_doctor_plan_and_the_beginning_of_a_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEPA_LOOP_CACHE", str(tmp_path / "cache"))

    def told(*words: str) -> str:
        assert run([*words, "--config", "smoke"]) == 0
        return " ".join(capsys.readouterr().out.split())

    said = "to win, a student must gain about"
    assert f"note splits of a loop: {said}" in told("doctor")
    planned = told("plan")
    assert planned.count(said) == 1 and "warning" not in planned
    sets = ["--run-name", "l"]
    assert f"warning: {said} .421 on the 16 items" in told("loop", *sets)
    assert "warning" not in told("loop", *sets), "a finished one is only shown"
    (tmp_path / "p.txt").write_text("Answer.")
    assert said not in told("distill", "--prompt", "p.txt", "--dry-run")
