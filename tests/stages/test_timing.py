"""The seconds of stages."""

import time
from pathlib import Path

import pytest
from observers import Watch

from gepa_loop.cost.records import StageRow
from gepa_loop.run.files import read_jsonl
from gepa_loop.stages.timing import FILE, Timed, gpu_seconds, kind_of, seconds_by_stage


class Clock:
    """A clock that is moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_each_stage_is_written_when_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, heard = Clock(monkeypatch), Watch()
    with Timed(heard, tmp_path, began=90.0) as timed:
        timed.stage("baseline", round=0)
        clock.now = 103.0
        timed.progress(1, 2, kl=0.5)
        timed.note("so")
        timed.stage("distill", round=0, candidate="ab")
        clock.now = 110.0
        timed.stage("test: base")
        clock.now = 110.5
    rows = read_jsonl(tmp_path / FILE, StageRow)
    assert [(r["stage"], r["round"], r["candidate"], r["seconds"]) for r in rows] == [
        ("loading", None, None, 10.0),
        ("baseline", 0, None, 3.0),
        ("distill", 0, "ab", 7.0),
        ("test: base", None, None, 0.5),
    ]
    assert heard.said == [
        ("stage", "baseline", 0, None),
        ("progress", 1, 2, {"kl": 0.5}),
        ("note", "so"),
        ("stage", "distill", 0, "ab"),
        ("stage", "test: base", None, None),
    ]
    assert seconds_by_stage(tmp_path) == {"loading": 10.0, "baseline": 3.0, "training": 7.0, "test": 0.5}


def test_a_run_has_taken_all_gpus_of_each_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    for gpus, began, seconds in ((4, 99.0, 10.0), (1, 110.0, 5.0)):
        with Timed(Watch(), tmp_path, began, gpus) as timed:
            timed.stage("baseline")
            clock.now += seconds
            timed.stage("costs")
            clock.now += 100
        clock.now = 110.0
    assert gpu_seconds(tmp_path) == 4 * (1 + 10) + 5


def test_an_interrupted_stage_counts_and_one_that_was_done_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    timed = Timed(Watch(), tmp_path, began=95.0)
    timed.stage("distill")
    clock.now = 104.0
    timed.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    again = Timed(Watch(), tmp_path, began=103.0)
    with again:
        again.stage("baseline")
        clock.now = 104.01
        again.stage("distill")
        clock.now = 106.01
    assert seconds_by_stage(tmp_path) == {"loading": 6.0, "training": 6.0}
    before = (tmp_path / FILE).read_bytes()
    with Timed(Watch(), tmp_path, began=100.0) as idle:
        idle.stage("baseline")
    with Timed(Watch(), tmp_path, began=100.0):
        pass
    assert (tmp_path / FILE).read_bytes() == before, "a finished run takes nothing more"


@pytest.mark.parametrize(
    ("stage", "kind"),
    [
        ("baseline on race", "baseline"),
        ("untrained", "baseline"),
        ("prompt on race", "prompts"),
        ("race to step 20", "training"),
        ("student of step 20", "students"),
        ("student", "students"),
        ("distilled", "training"),
        ("front", "search"),
        ("test: student prompted", "test"),
        ("the prompted model's replies: pareto", "references"),
        ("lr=3, seed 0", "lr=3, seed 0"),
        ("testing", "testing"),
    ],
)
def test_stages_have_the_names_of_a_plan(stage: str, kind: str) -> None:
    assert kind_of(stage) == kind
