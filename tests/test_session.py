"""What a session finds out before anything is spent."""

import json
from pathlib import Path

import pytest

from gepa_loop.command import DISTILL, EVALUATE, LOOP, OPTIMIZE, SWEEP, Command, Flags, Inputs
from gepa_loop.config.load import load_config
from gepa_loop.errors import ConfigError, TaskError
from gepa_loop.run.files import write_json
from gepa_loop.session import _checked_lab, _finished, open_session
from gepa_loop.show.caller import MUTE


def test_a_reflection_model_is_asked_only_where_something_is_left_to_search(tmp_path: Path) -> None:
    two, three = (load_config("smoke", [f"loop.rounds={count}"], env={}).loop for count in (2, 3))
    assert not _finished(LOOP, two, tmp_path) and not _finished(OPTIMIZE, two, tmp_path)
    write_json(tmp_path / "result.json", {"rounds": [{"ended": None}, {"ended": None}]})
    assert _finished(LOOP, two, tmp_path) and not _finished(LOOP, three, tmp_path)
    assert not _finished(OPTIMIZE, two, tmp_path)
    write_json(tmp_path / "optimize" / "result.json", {})
    assert _finished(OPTIMIZE, two, tmp_path)
    # `result.json` of another command says nothing of a search.
    assert _finished(DISTILL, two, tmp_path) and not _finished(SWEEP, two, tmp_path)


def test_what_trains_by_its_config_and_writes_no_questions_refuses_to_be_asked_for_them() -> None:
    flags = Flags("smoke", ["distill.questions=4"], dry_run=True)
    with (
        pytest.raises(ConfigError, match=r"distill.questions = 4: `new` writes no questions"),
        open_session(Command("new", trains=True), flags),
    ):
        pass
    config = load_config("smoke", ["distill.questions=4"], env={})
    # Cells have configs of their own, and what does not train asks for nothing.
    for command in (Command("new", trains=True, cells=True), OPTIMIZE, EVALUATE):
        _checked_lab(command, config, {}, Inputs(check=lambda lab: None), None, MUTE)


def test_only_what_makes_references_does_without_answers(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    file.write_text("".join(json.dumps({"question": f"What is {n} + {3 * n}?"}) + "\n" for n in range(100)))
    config = load_config("smoke", ["task.kind=jsonl", f"task.name={file}"], env={})
    assert (
        _checked_lab(DISTILL, config, {}, Inputs(check=lambda lab: None), None, MUTE).task.answers == "none"
    )
    for command in (OPTIMIZE, EVALUATE, LOOP, SWEEP):
        with pytest.raises(TaskError, match=f"has no answers: `{command.name}` has nothing to score"):
            _checked_lab(command, config, {}, Inputs(check=lambda lab: None), None, MUTE)
