"""Runs followed by a tracker: what it has is what the files say, once, whatever ended the processes between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import chdir
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ladder
import pytest
from observers import Silent, Watch
from places import HELPERS
from processes import killed_when
from trackers import DIES, FAILS, book, numbered, read, steps

from gepa_loop.cli import run as gepa_loop
from gepa_loop.config.load import load_config
from gepa_loop.config.track import TrackConfig
from gepa_loop.errors import EnvironmentFault
from gepa_loop.lab import without_limits
from gepa_loop.run.files import append_jsonl, read_json, read_jsonl, write_json, write_jsonl
from gepa_loop.tracking.choose import check_tracker
from gepa_loop.tracking.facts import files, points
from gepa_loop.tracking.follow import followed
from gepa_loop.tracking.outbox import open_outbox

LOOP = [*ladder.COMMAND, "--track", "trackers:notebook", "--run-name", "r"]
SMOKE = ["distill", "--config", "smoke", "--prompt", "p.txt", "--run-name", "r", "--set", "distill.steps=5"]
STUDENT = "360d795e"
TRACKED = [*SMOKE, "--track", "trackers:notebook"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(str(HELPERS))
    (tmp_path / "p.txt").write_text("Answer with one number.")
    with chdir(tmp_path):
        yield tmp_path


def said(run: Path) -> list[tuple[str, int, dict[str, Any]]]:
    """What the files of a run say."""
    return sorted((p.series, p.step, dict(p.values)) for f in files(run) for p in points(run, f))


def tracked(run: Path) -> list[tuple[str, int, dict[str, Any]]]:
    return sorted((row["series"], row["step"], row["values"]) for row in read(book(run), "point"))


def test_a_loop_is_tracked_as_its_files_say(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gepa_loop(LOOP) == 0
    run = here / "runs" / "r"
    (opened,) = read(book(run), "open")
    assert opened["begun"] and opened["config"]["task.name"] == "ladder:make"
    assert f"tracked: {book(run)}" in capsys.readouterr().out
    assert tracked(run) == said(run)
    (winner,) = {row["id"] for row in read_json(run / "result.json")["rounds"][0]["candidates"]} & {
        read_json(run / "result.json")["rounds"][0]["winner"]
    }
    assert {"events", "decision", "round_00/optimize", f"round_00/{winner}"} <= set(steps(book(run)))
    # Step by step as they came, not all at the end.
    order = [row["series"] for row in read(book(run), "point")]
    assert order.index("decision") > order.index(f"round_00/{winner}") > order.index("round_00/optimize")
    assert [row["number"] for row in read(book(run), "point")] == list(range(len(order)))
    (summary,) = read(book(run), "summary")
    result = read_json(run / "result.json")
    assert summary["values"]["test/student/mean"] == result["test"]["student"]["mean"]
    assert summary["values"]["rounds/0/winner"] == winner and "files" not in summary["values"]
    (page,) = read(book(run), "artifact")
    assert page["name"] == "report.html" and page["text"] == (run / "report.html").read_text()
    assert [row["ending"] for row in read(book(run), "close")] == ["done"]
    # A finished run that is shown again has nothing new to say.
    before = len(order)
    assert gepa_loop(LOOP) == 0
    assert len(read(book(run), "point")) == before and len(read(book(run), "summary")) == 1
    assert not read(book(run), "open")[1]["begun"]


def once_each(found: dict[str, list[int]]) -> bool:
    return all(own == sorted(set(own)) and own == list(range(own[0], own[-1] + 1)) for own in found.values())


@pytest.mark.parametrize(("tracker", "kills"), [("trackers:notebook", (1, 4)), ("trackers:mute", (3,))])
def test_kill_9_and_the_same_command_go_on_in_the_same_tracked_run(
    here: Path, tracker: str, kills: tuple[int, ...]
) -> None:
    argv = [*SMOKE, "--track", tracker]
    notes = book(here / "runs" / "r")
    # Killed as soon as the tracker has a step: before that is written down.
    for wanted in kills:
        killed_when(lambda n=wanted: n in steps(notes).get(STUDENT, ()), here, *argv)
    assert gepa_loop(argv) == 0
    assert len({row["run"] for row in read(notes, "open")}) == 1
    assert [row["begun"] for row in read(notes, "open")] == [True, *(False for _ in kills)]
    sent = read(notes, "point")
    if tracker == "trackers:mute":
        # One that cannot say what it has may be sent a point again, with the number that it had, which it does not take again.
        sent = numbered(notes)
        assert [row["number"] for row in sent] == list(range(len(sent)))
    kept = sorted((row["series"], row["step"]) for row in sent)
    assert kept == [(series, step) for series, step, _ in said(here / "runs" / "r")]
    mine = [row for row in sent if row["series"] == STUDENT]
    assert [row["step"] for row in mine] == [1, 2, 3, 4, 5]
    rows = read_jsonl(here / "runs" / "r" / "distill" / STUDENT / "metrics.jsonl", dict[str, Any])
    assert [row["values"]["loss"] for row in mine] == pytest.approx([row["loss"] for row in rows], rel=1e-4)


def test_what_was_sent_and_not_written_down_is_not_sent_twice(here: Path) -> None:
    """A process that is killed between the two; and one whose tracker lost what it was sent."""
    assert gepa_loop(TRACKED) == 0
    run = here / "runs" / "r"
    file = run / "track" / "trackers-notebook.json"
    record = read_json(file, dict[str, Any])
    write_json(file, {**record, "sent": {**record["sent"], STUDENT: 2}})
    assert gepa_loop(TRACKED) == 0
    assert steps(book(run))[STUDENT] == [1, 2, 3, 4, 5]
    assert read_json(file, dict[str, Any])["sent"][STUDENT] == 5
    lost = [row for row in book(run).read_text().splitlines() if json.loads(row).get("step") not in (4, 5)]
    book(run).write_text("\n".join(lost) + "\n")
    assert gepa_loop(TRACKED) == 0
    assert steps(book(run))[STUDENT] == [1, 2, 3, 4, 5]


def test_what_comes_again_has_the_number_that_it_had(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process ends while a tracker takes the second and third step; the next one has an event to tell besides."""
    (run := here / "r").mkdir()
    settings = TrackConfig(kind="trackers:mute")
    rows = [{"step": n, "loss": n / 8, "halved": False} for n in (1, 2, 3)]
    metrics = run / "distill" / STUDENT / "metrics.jsonl"
    write_jsonl(metrics, rows[:1])
    monkeypatch.setenv(DIES, "1")
    first = open_outbox(settings, {}, run)
    first.send()
    append_jsonl(metrics, rows[1:])
    with pytest.raises(KeyboardInterrupt):
        first.send()
    monkeypatch.delenv(DIES)
    append_jsonl(run / "events.jsonl", [{"event": "start"}])
    with followed(settings, {}, run, Silent()):
        pass
    assert [(row["number"], row["series"], row["step"]) for row in read(book(run), "point")] == [
        (0, STUDENT, 1),
        (1, STUDENT, 2),  # and here the first process ended
        (1, STUDENT, 2),
        (2, STUDENT, 3),
        (3, "events", 0),
    ]
    assert read_json(run / "track" / "trackers-mute.json", dict[str, Any])["pending"] == []


@pytest.mark.parametrize("kind", ["trackers:notebook", "trackers:mute"])
def test_a_call_that_failed_is_made_again_as_it_was(
    here: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run := here / "r").mkdir()
    rows = [{"step": n, "loss": n / 8, "halved": False} for n in (1, 2)]
    monkeypatch.setenv(FAILS, "0")
    with followed(TrackConfig(kind=kind), {}, run, Silent()) as observer:
        write_jsonl(run / "distill" / STUDENT / "metrics.jsonl", rows)
        observer.note("two steps")
        append_jsonl(run / "events.jsonl", [{"event": "start"}])
    assert [(row["number"], row["series"]) for row in read(book(run), "point")] == [
        (0, STUDENT),
        (1, STUDENT),
        (2, "events"),
    ]


def test_a_number_is_not_given_again_where_the_tracker_says_what_it_has(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run := here / "r").mkdir()
    settings = TrackConfig(kind="trackers:notebook")
    write_jsonl(run / "distill" / STUDENT / "metrics.jsonl", [{"step": n, "halved": False} for n in (1, 2)])
    monkeypatch.setenv(DIES, "0")
    with pytest.raises(KeyboardInterrupt):
        open_outbox(settings, {}, run).send()
    monkeypatch.delenv(DIES)
    append_jsonl(run / "events.jsonl", [{"event": "start"}])
    with followed(settings, {}, run, Silent()):
        pass
    points = read(book(run), "point")
    assert [(row["number"], row["series"], row["step"]) for row in points] == [
        (0, STUDENT, 1),
        (1, STUDENT, 2),
        (2, "events", 0),
    ]


def test_a_tracker_that_fails_in_the_middle_is_brought_up_to_date_at_the_end(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FAILS, "2")
    assert gepa_loop(TRACKED) == 0
    run = here / "runs" / "r"
    assert capsys.readouterr().out.count("warning: the tracker failed: ConnectionError: the notebook") == 1
    assert tracked(run) == said(run) and once_each(steps(book(run)))
    assert len(read(book(run), "summary")) == 1


def test_what_could_not_be_sent_at_all_the_next_process_sends(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(FAILS, "all")
    assert gepa_loop(TRACKED) == 0
    run = here / "runs" / "r"
    assert capsys.readouterr().out.count("warning: the tracker failed") == 1 and not tracked(run)
    monkeypatch.delenv(FAILS)
    assert gepa_loop(TRACKED) == 0
    assert tracked(run) == said(run) and len(read(book(run), "summary")) == 1


def test_a_tracker_is_no_part_of_a_run(here: Path) -> None:
    plain, other = (load_config("smoke", sets, env={}) for sets in ((), ("track.kind=a:b",)))
    assert without_limits(plain.model_dump(mode="json")) == without_limits(other.model_dump(mode="json"))
    assert gepa_loop(SMOKE) == 0
    assert gepa_loop(TRACKED) == 0  # the same run, tracked from its beginning
    assert steps(book(here / "runs" / "r"))[STUDENT] == [1, 2, 3, 4, 5]
    # Another project is another tracked run.
    assert gepa_loop([*TRACKED, "--set", "track.project=other", "--set", "track.name=mine"]) == 0
    assert [row["run"] for row in read(book(here / "runs" / "r"), "open")] == ["gepa-loop/r", "other/mine"]


def test_a_tracker_that_cannot_be_had_is_said_before_anything_is_spent(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, code, message in (
        ("wandbb", 2, "'wandbb' is neither package.module:function nor one of trackio, wandb"),
        ("trackers:none", 2, "track.kind = 'trackers:none': trackers has no function 'none'"),
        ("nowhere:make", 2, "track.kind = 'nowhere:make': there is no file of nowhere"),
        ("trackers:broken", 2, "what it returns has no held, log, summary, artifact, close, id, where"),
    ):
        assert gepa_loop([*SMOKE, "--track", kind]) == code, kind
        assert message in " ".join(capsys.readouterr().err.split())
        assert not list((here / "runs").glob("r/baseline"))
    missing = [kind for kind in ("trackio", "mlflow") if find_spec(kind) is None]
    for kind in missing:
        assert gepa_loop([*SMOKE, "--track", kind]) == 3
        assert f"pip install 'gepa-loop[track-{kind}]'" in capsys.readouterr().err
        with pytest.raises(EnvironmentFault, match=f"{kind} is not installed"):
            check_tracker(TrackConfig(kind=kind))


@pytest.mark.parametrize(("error", "ending"), [(KeyboardInterrupt, "stopped"), (RuntimeError, "failed")])
def test_how_a_process_ended(here: Path, error: type[BaseException], ending: str) -> None:
    (run := here / "r").mkdir()
    with pytest.raises(error), followed(TrackConfig(kind="trackers:notebook"), {}, run, Silent()):
        raise error
    assert [row["ending"] for row in read(book(run), "close")] == [ending]


def test_no_secret_is_sent(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "tok-0123456789")
    (run := here / "r").mkdir()
    config = {"task": {"options": {"api_key": "key-0123456789", "who": "tok-0123456789"}}}
    with followed(TrackConfig(kind="trackers:notebook"), config, run, Silent()):
        (run / "report.html").write_text("key-0123456789 and tok-0123456789 of https://me:pw@host/")
    text = book(run).read_text()
    assert "0123456789" not in text and "me:pw" not in text and "***" in text


def test_a_file_that_was_damaged_ends_no_run(here: Path) -> None:
    (run := here / "r").mkdir()
    watching = Watch()
    with followed(TrackConfig(kind="trackers:notebook"), {}, run, watching) as observer:
        (run / "events.jsonl").write_text('{"event": "start"}\n')
        observer.note("something")
    assert (
        [note for note in watching.notes if note.startswith("warning")]
        == [note for note in watching.notes if "events.jsonl: row 1: it has no check" in note]
        != []
    )
    assert not tracked(run)
