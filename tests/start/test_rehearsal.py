"""A task tried without a model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from gepa_loop.cli import run
from gepa_loop.config.load import load_config
from gepa_loop.errors import ConfigError, TaskError
from gepa_loop.start.rehearsal import Rehearsal, mean_worths, named_config, rehearse

TASK = """
import gepa_loop

class Desks(gepa_loop.Task):
    def __init__(self, flaw="", count=20):
        self.flaw, self.count, self.asked = flaw, count, 0

    def items(self):
        return [gepa_loop.Item.of(f"Ticket {n // 2 if self.flaw == 'twice' else n}", f"desk {n % 5}") for n in range(self.count)]

    async def score(self, item, reply):
        self.asked += 1
        if self.flaw == "raises" and not reply:
            return {}["desk"]
        if self.flaw == "range":
            return 1.5
        if self.flaw == "same":
            return 0.5
        if self.flaw == "mute":
            return 1 if reply == item.answer else 0.25 * (not reply)
        if self.flaw == "moody":
            return (reply == item.answer) * (1 if self.asked <= 21 else 0.75)
        return gepa_loop.Score(1 if reply == item.answer else 0.25 * bool(reply), "Wrong desk." * (reply != item.answer))
"""

LINE = TASK[: TASK.index("return {}[")].count("\n") + 1


@pytest.fixture
def desks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("sys.path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "desks.py").write_text(TASK)
    return "desks.py:Desks"


def _seen(name: str, *sets: str) -> Rehearsal:
    config = named_config(name, None, sets)
    return rehearse(config.task, config.seed)


def _states(seen: Rehearsal) -> dict[str, str]:
    """The worst state of each thing that was looked at."""
    order = ("ok", "note", "fault")
    found: dict[str, str] = {}
    for one in seen.findings:
        found[one.about] = max(found.get(one.about, "ok"), one.state, key=order.index)
    return found


def test_what_each_reply_is_worth_and_nothing_is_wrong(desks: str) -> None:
    seen = _seen(desks)
    assert mean_worths(seen.worths) == {
        "its own answer": 1,
        "an empty reply": 0,
        "another item's answer": 0.25,
    }
    assert len(seen.worths) == 3 * 7 and len({one.item for one in seen.worths}) == 7  # every third of 20
    assert _states(seen) == {"items": "ok", "scores": "ok", "repeated": "ok", "time": "ok"}
    assert seen.findings[0].sentence == "20 items, 20 distinct questions; 20 have an answer"
    assert "from 0.00 to 1.00, 3 different" in seen.findings[1].sentence


@pytest.mark.parametrize(
    ("flaw", "about", "state", "said"),
    [
        ("raises", "scores", "fault", f"KeyError: 'desk'\n  desks.py, line {LINE}: return {{}}[\"desk\"]"),
        ("range", "scores", "fault", "score gave 1.5 for python:1"),
        ("same", "scores", "fault", "its own answer 0.50, an empty reply 0.50, another item's answer 0.50"),
        ("moody", "repeated", "fault", "own answer to python:1 1.00, then 0.75"),
        ("mute", "scores", "note", "an empty reply 0.25"),
        ("twice", "items", "note", "20 items, 10 distinct questions"),
    ],
)
def test_what_is_wrong_is_said(desks: str, flaw: str, about: str, state: str, said: str) -> None:
    seen = _seen(desks, f"task.options.flaw={flaw}")
    assert _states(seen)[about] == state
    assert any(said in one.sentence for one in seen.findings if one.about == about), seen.findings
    assert seen.faults == (state == "fault")
    # A look saves nothing that a run could go on with.
    assert not any("saved" in one.hint for one in seen.findings)


def test_files_and_made_items_are_tried_too_and_who_is_not_asked(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text("".join(json.dumps({"question": f"Q{n}", "answer": n}) + "\n" for n in range(9)))
    seen = _seen(str(file))
    assert len(seen.task.items) == 9 and mean_worths(seen.worths)["its own answer"] == 1
    smoke = load_config("smoke", env={})
    assert rehearse(smoke.task, 0).faults == 0
    file.write_text("".join(json.dumps({"question": f"Q{n}"}) + "\n" for n in range(9)))
    bare = _seen(str(file))
    assert bare.worths == () and "no item has an answer" in bare.findings[-1].sentence
    judge = ["task.scorer=model", "task.judge.model=x/y", "task.judge.rubric=Be kind."]
    assert "a judge scores" in _seen(str(file), *judge).findings[-1].sentence
    with pytest.raises(ConfigError, match=r"neither file\.py:Name nor a file of"):
        named_config("notes.md", None, ())
    file.write_text("")
    with pytest.raises(TaskError, match=r"no record|there are no items"):
        _seen(str(file))


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("t.tsv", "question\tanswer\nQ\t1\n", "csv"),
        ("t.ndjson", '{"question": "Q", "answer": 1}\n', "jsonl"),
        ("t.json", '{"question": "Q", "answer": 1}\n{"question": "R", "answer": 2}\n', "jsonl"),
        ("t.json", '[{"question": "Q", "answer": 1}]', "json"),
    ],
)
def test_files_are_known_as_init_knows_them(tmp_path: Path, name: str, content: str, kind: str) -> None:
    (tmp_path / name).write_text(content)
    config = named_config(str(tmp_path / name), None, ())
    assert config.task.kind == kind
    assert rehearse(config.task, 0).task.items[0].question == "Q"


def test_the_command_ends_with_the_next_one(desks: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["task", "check", desks]) == 0
    shown = capsys.readouterr().out
    assert "python:1  Ticket 0" in shown and "its own answer         desk 0" in shown
    assert shown.endswith(f"next: gepa-loop check --set task.kind=python --set task.name={desks}\n")
    assert run(["task", "check", desks, "--set", "task.options.flaw=raises"]) == 2
    shown = capsys.readouterr().out
    assert f"desks.py, line {LINE}" in shown
    assert shown.endswith(f"next: gepa-loop task check {desks} --set task.options.flaw=raises\n")
    assert run(["task", "check", "desks.py:Desk"]) == 2
    assert "has no function 'Desk'" in capsys.readouterr().err
