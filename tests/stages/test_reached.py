"""What is said of runs that are not finished."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from gepa_loop.run.files import append_jsonl, write_json
from gepa_loop.stages.reached import continuation, reached, unfinished

COMMAND = "gepa-loop loop --config mine.toml"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A loop that was ended in step 4 of its students' 24."""
    folder = tmp_path / "half"
    write_json(folder / "manifest.json", {"birth": "b", "identity": {"command": "loop"}})
    write_json(folder / "config.json", {"distill": {"steps": 24}})
    append_jsonl(folder / "events.jsonl", [{"event": "start", "typed": "gepa-loop loop"}, {"event": "round"}])
    append_jsonl(folder / "events.jsonl", [{"event": "start", "typed": COMMAND}, {"event": "round"}])
    for stage, number in (("loading", None), ("baseline", 0), ("loading", None), ("distill", 0)):
        row = {"stage": stage, "round": number, "candidate": None, "seconds": 1.0}
        append_jsonl(folder / "stages.jsonl", [row])
    append_jsonl(folder / "round_00/distill/a/metrics.jsonl", [{"step": n} for n in (1, 2, 3, 4)])
    return folder


def test_how_far_a_run_is(run: Path, tmp_path: Path) -> None:
    assert reached(run) == "round 0, distill, step 4 of 24"
    # A student that is whole has no step to be at.
    write_json(run / "round_00/distill/a/result.json", {})
    assert reached(run) == "round 0, distill"
    append_jsonl(
        run / "stages.jsonl", [{"stage": "loading", "round": None, "candidate": None, "seconds": 1.0}]
    )
    assert reached(run) == "round 0, distill"
    assert reached(tmp_path) == ""


def test_by_what_it_is_continued_is_what_was_typed_last(run: Path, tmp_path: Path) -> None:
    assert continuation(run) == COMMAND
    error = unfinished(run, "a student")
    assert str(error) == "run half is not finished: it reached round 0, distill, step 4 of 24; a student"
    assert error.hint == f"Continue it: {COMMAND}"
    with FileLock(run / ".lock"):
        assert unfinished(run).hint == "A process is at work on it: wait for its end."
    assert continuation(tmp_path) is None
    for typed in ({"typed": ""}, {}):
        append_jsonl(run / "events.jsonl", [{"event": "start", **typed}])
        assert continuation(run) is None and "Run its `loop` again" in unfinished(run).hint
