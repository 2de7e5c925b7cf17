"""The list of runs, and how they are deleted."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from gepa_loop.cli import run
from gepa_loop.run.files import append_jsonl, write_json
from gepa_loop.show.runs import run_line

Made = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Made:
    """Makes a run below the working directory."""
    monkeypatch.chdir(tmp_path)

    def make(name: str, command: str, result: dict[str, object] | None, age: int = 0) -> Path:
        folder = tmp_path / "runs" / name
        write_json(folder / "manifest.json", {"birth": "b", "identity": {"command": command}})
        if result is not None:
            write_json(folder / "result.json", result)
        for file in folder.iterdir():
            os.utime(file, (10**9 - age, 10**9 - age))
        return folder

    return make


SCORES = {"base": {"mean": 0.0}, "prompted": {"mean": 0.5}, "student": {"mean": 0.25}}


def test_what_a_line_says(made: Made) -> None:
    done = run_line(made("d", "distill", {"decides": "greedy", "greedy": SCORES}))
    assert (done.name, done.command, done.state) == ("d", "distill", "done")
    assert done.outcome == "bare .000, prompted .500, student .250" and done.megabytes > 0
    lost = run_line(made("l", "loop", {"test": {**SCORES, "student": None}, "adapter": None}))
    assert lost.outcome == "no winner, bare .000, prompted .500"
    scored = run_line(
        made("e", "evaluate", {"split": "select", "subjects": [{"id": "none+base", "mean": 1.0}]})
    )
    assert scored.outcome == "none+base on select 1.000"
    scores = [
        {"cell": name, "student": {"mean": mean}}
        for name, mean in (("low", 0.25), ("mid", 0.5), ("high", 0.375))
    ]
    swept = {"untrained": [SCORES], "baseline": "low", "cells": scores, "seeds": [0, 1]}
    sweep = made("s", "sweep", swept)
    grid: dict[str, Any] = {"cells": {"low": [], "mid": [], "high": []}, "seeds": [0, 1]}
    write_json(sweep / "grid.json", grid)
    outcome = "bare .000, prompted .500, low .250, mid .500"
    assert (run_line(sweep).state, run_line(sweep).outcome) == ("done", outcome)
    for more in ({"seeds": [0, 1, 2]}, {"cells": {**grid["cells"], "top": []}}):
        write_json(sweep / "grid.json", {**grid, **more})
        assert (run_line(sweep).state, run_line(sweep).outcome) == ("unfinished", outcome)
    two = [{"id": "a", "name": "student a of d", "mean": 0.5}, {"id": "b", "name": "bare", "mean": 0.25}]
    both = run_line(made("two", "evaluate", {"split": "test", "subjects": two}))
    assert both.outcome == "student a of d on test .500, bare on test .250"
    half = run_line(made("h", "loop", None))
    assert (half.state, half.outcome) == ("unfinished", "")
    folder = made("x", "loop", {"test": SCORES})
    (folder / "result.json").write_text((folder / "result.json").read_text().replace("0.5", "0.9"))
    assert run_line(folder).state == "damaged"
    assert run_line(made("o", "loop", {"test": {"base": SCORES["base"]}})).state == "another version"


def test_a_run_at_work_is_listed_and_said_to_be(made: Made) -> None:
    folder, over = made("w", "loop", None), threading.Event()

    def work() -> None:
        """What a run does all the time: files that are written beside their place, and folders that go."""
        for n in itertools.count():
            write_json(folder / f"round_{n % 7}" / "race" / "1.json", {"step": n})
            shutil.rmtree(folder / f"round_{(n + 3) % 7}", ignore_errors=True)
            if over.is_set():
                return

    with FileLock(folder / ".lock"), ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            assert {run_line(folder).state for _ in range(300)} == {"running"}
        finally:
            over.set()
        working.result()
    assert run_line(folder).state == "unfinished"
    with FileLock(made("again", "loop", {"test": SCORES}) / ".lock"):
        assert run_line(folder.parent / "again").state == "running"  # with a further round, say


def test_looking_at_runs_changes_nothing_in_them(made: Made) -> None:
    folder = made("d", "distill", {"decides": "greedy", "greedy": SCORES})
    assert run_line(folder).state == "done"
    assert sorted(file.name for file in folder.iterdir()) == ["manifest.json", "result.json"]
    (lock := folder / ".lock").touch()
    os.utime(lock, (10**9, 10**9))
    assert run_line(folder).state == "done" and lock.stat().st_mtime == 10**9
    # One that cannot be tried.
    lock.unlink()
    lock.mkdir()
    assert run_line(folder).state == "done"


def test_the_list(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs"]) == 0
    shown = capsys.readouterr().out
    assert "there are no runs" in shown and "next: gepa-loop init" in shown
    Path("gepa-loop.toml").touch()
    assert run(["runs"]) == 0
    assert "next: gepa-loop check" in capsys.readouterr().out
    made("old", "distill", {"decides": "greedy", "greedy": SCORES}, age=900)
    adapter = made("mine", "loop", {"test": SCORES, "adapter": "round_00/a"}, age=500)
    assert adapter.exists()
    made("new", "loop", {"test": {**SCORES, "student": None}, "adapter": None})
    assert run(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [word for line in lines for word in line.split()[:1] if word in ("new", "mine", "old")] == [
        "new",
        "mine",
        "old",
    ]
    assert lines[-1] == "next: gepa-loop chat mine --compare"
    made("a-name-of-many-words-that-is-longer-than-its-share", "loop", None)
    assert run(["runs"]) == 0
    assert "a-name-of-many-words-that-is-longer-than-its-share " in capsys.readouterr().out


def test_a_run_that_is_not_finished_says_how_far_it_is_and_what_continues_it(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    made("old", "distill", {"decides": "greedy", "greedy": SCORES, "adapter": "a"}, age=900)
    folder = made("half", "loop", None)
    row = {"stage": "baseline", "round": 0, "candidate": None, "seconds": 1.0}
    append_jsonl(folder / "stages.jsonl", [row])
    append_jsonl(folder / "events.jsonl", [{"event": "start", "typed": "gepa-loop loop --run-name half"}])
    assert run(["runs"]) == 0
    shown = capsys.readouterr().out
    assert "unfinished" in shown and "round 0, baseline" in shown
    assert "to continue half, next: gepa-loop loop --run-name half\n" in shown
    with FileLock(folder / ".lock"):
        assert run(["runs"]) == 0
    assert "next: gepa-loop chat old" in capsys.readouterr().out, (
        "nothing is continued while a process is at it"
    )
    # `last` is a finished one where there is one, and else this one, of which there is something to say.
    shutil.rmtree(folder.parent / "old")
    for command in ("report", "chat"):
        assert run([command, "last"]) == 6
        said = capsys.readouterr().err
        assert "run half is not finished: it reached round 0, baseline" in said and "no such run" not in said
        assert "Continue it: gepa-loop loop --run-name half" in said


def test_small_runs_of_this_minute_have_a_size_and_an_age(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    made("tiny", "loop", None)
    write_json(Path("runs/tiny/result.json"), {"test": SCORES, "adapter": "a"})
    assert run(["runs"]) == 0
    (line,) = (one for one in capsys.readouterr().out.splitlines() if one.startswith("tiny "))
    assert "1 kB" in line and "just now" in line and " 0 " not in line


def test_last_is_not_deleted_by_that_name(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    mine = made("mine", "loop", None)
    assert run(["runs", "remove", "last", "--yes"]) == 2 and mine.exists()
    said = capsys.readouterr().err
    assert "called by its own name" in said and "The last run is mine." in said
    made("last", "loop", None)
    assert run(["runs", "remove", "last", "--yes"]) == 0 and not Path("runs/last").exists()


def test_runs_are_deleted_one_by_one(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = made("a", "loop", None), made("b", "loop", None)
    with FileLock(one / ".lock"):
        assert run(["runs", "remove", "a", "--yes"]) == 6
    assert "in use" in capsys.readouterr().err and one.exists()
    assert run(["runs", "remove", "a", "nope", "--yes"]) == 2 and one.exists()
    # Nothing but runs below ./runs: no path, not the working directory, no folder that happens to have a manifest.
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "runs" / "extension").mkdir()
    (tmp_path / "runs" / "extension" / "manifest.json").write_text('{"name": "x"}')
    for name, code in (("", 2), (".", 2), ("..", 2), ("../runs/a", 2), (str(one), 2), ("extension", 6)):
        assert run(["runs", "remove", name, "--yes"]) == code, name
    assert (
        one.exists() and (tmp_path / "manifest.json").exists() and (tmp_path / "runs" / "extension").exists()
    )
    assert run(["runs", "remove", "a", "-y"]) == 0
    assert not one.exists() and other.exists()
