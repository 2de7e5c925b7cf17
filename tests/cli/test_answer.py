"""What commands say with --json: one object, as its record has it, alone on standard output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from recorded import strict

from gepa_loop.cli import records, run
from gepa_loop.run.files import SCHEMA_VERSION

SMALL = ["--set", "distill.steps=2", "--set", "distill.check_every=2", "--set", "task.splits.test=8"]
SMOKE = ["--config", "smoke", *SMALL]

Say = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = tmp_path_factory.mktemp("answers")
    (cwd / "p.txt").write_text("Answer with one number.\n")
    rows = [{"question": f"Q{n}", "answer": n} for n in range(12)]
    (cwd / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return cwd


@pytest.fixture
def say(place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Say:
    """Runs a command with `--json -`; its exit code, the object, and what a person reads."""
    monkeypatch.chdir(place)

    def command(*words: str) -> tuple[int, dict[str, Any], str]:
        capfd.readouterr()
        code = run([*words, "--json", "-"])
        said = capfd.readouterr()
        return code, json.loads(said.out), said.err

    return command


def _check(answer: dict[str, Any], kind: type[Any], command: str) -> None:
    """Every key of the record is there, no other one is, each of its type and explained."""
    TypeAdapter(strict(kind)).validate_python(answer, strict=True)
    assert (answer["schema_version"], answer["command"]) == (SCHEMA_VERSION, command)


def test_commands_that_make_a_run(say: Say, place: Path) -> None:
    code, found, person = say("distill", *SMOKE, "--prompt", "p.txt", "--run-name", "d")
    assert code == 0 and "student - base" in person and "next: gepa-loop chat d" in person
    _check(found, records.DistilledAnswer, "distill")
    assert Path(found["path"]) == place / "runs" / "d"
    assert (Path(found["path"]) / found["adapter"] / "adapter_config.json").is_file()
    # Quietly: the same object and the end, not how it came about.
    code, again, person = say("distill", *SMOKE, "--prompt", "p.txt", "--run-name", "d", "--quiet")
    assert {**again, "looks": None} == {**found, "looks": None}
    assert (
        person.startswith("\ntest, 8 items") and "next:" not in person and "model random:tiny" not in person
    )

    _, found, _ = say("optimize", *SMOKE, "--run-name", "o", "--quiet")
    _check(found, records.OptimizedAnswer, "optimize")
    assert (Path(found["path"]) / found["prompt"]).is_file()

    code, found, person = say("loop", *SMOKE, "--run-name", "l", "--quiet", "--require-gain")
    _check(found, records.LoopedAnswer, "loop")
    assert code == 5 and "no significant gain" in person and found["missing_gain"] in person

    holds = ["--fail-if", "prompted < 2", "--fail-if", "prompted > 1"]
    code, found, _ = say("evaluate", *SMOKE, "--prompt", "p.txt", "--run-name", "e", *holds)
    _check(found, records.EvaluatedAnswer, "evaluate")
    assert code == 5 and [one["holds"] for one in found["conditions"]] == [True, False]

    sweep = ["sweep", *SMOKE, "--prompt", "p.txt", "--grid", "distill.lr=1e-3,1e-2", "--run-name", "s"]
    _, found, _ = say(*sweep, "--quiet")
    _check(found, records.SweptAnswer, "sweep")
    assert len(found["result"]["cells"]) == 2


def test_commands_that_begin(say: Say) -> None:
    code, found, person = say("check", *SMOKE, "--items", "2")
    _check(found, records.CheckedAnswer, "check")
    assert code == 0 and len(found["items"]) == 2 and "2 items of train" in person
    code, found, person = say("doctor", *SMOKE)
    _check(found, records.DoctorAnswer, "doctor")
    assert (code, found["faults"]) == (0, 0) and "no fault was found" in person
    code, found, _ = say("doctor", "--config", "smoke", "--set", "task.name=lmc", "--set", "x.y=1")
    _check(found, records.DoctorAnswer, "doctor")
    assert code == 2 and found["faults"] == 2
    code, found, person = say("task", "check", "t.jsonl")
    _check(found, records.TaskAnswer, "task check")
    assert (code, found["items"], found["means"]["its own answer"]) == (0, 12, 1) and "jsonl:1" in person


def test_commands_that_look(say: Say, place: Path) -> None:
    assert run(["optimize", *SMOKE, "--run-name", "o", "--quiet"]) == 0
    code, found, person = say("runs")
    _check(found, records.RunsAnswer, "runs")
    assert code == 0 and "o" in {one["run"] for one in found["runs"]} and "optimize" in person
    _, same, _ = say("runs", "list")
    assert [one["run"] for one in same["runs"]] == [one["run"] for one in found["runs"]]
    _, found, _ = say("config", "explain")
    _check(found, records.ExplainedAnswer, "config explain")
    _, one, _ = say("config", "explain", "distill.lr")
    assert [key["name"] for key in one["keys"]] == ["distill.lr"] and one["keys"][0] in found["keys"]
    _, found, _ = say("config", "presets")
    _check(found, records.PresetsAnswer, "config presets")
    assert "smoke" in found["presets"] and "objectives" in found["grids"]
    _, found, _ = say("prompts", "list", "o")
    _check(found, records.SearchAnswer, "prompts list")
    ids = [one["id"] for one in found["candidates"]]
    _, found, person = say("prompts", "show", "o", ids[-1], "--text")
    _check(found, records.PromptAnswer, "prompts show")
    assert found["candidate"]["text"] in person and found["lineage"][-1] == ids[-1]
    _, found, _ = say("prompts", "diff", "o", "seed", ids[-1])
    _check(found, records.PromptDiffAnswer, "prompts diff")
    assert found["old"]["id"] == ids[0] and ids[-1] == found["new"]["id"]
    assert bool(found["diff"]) == (found["old"]["text"] != found["new"]["text"])


def test_export_and_a_file_in_place_of_standard_output(
    say: Say, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["distill", *SMOKE, "--prompt", "p.txt", "--run-name", "d", "--quiet"]) == 0
    code, found, person = say("export", "d", "--to", "student")
    _check(found, records.ExportedAnswer, "export")
    assert code == 0 and found["to"] == str(place / "student") and "wrote student" in person
    capfd.readouterr()
    assert run(["config", "presets", "--json", "out/p.json"]) == 0
    shown = capfd.readouterr()
    assert "presets (--config)" in shown.out and shown.err == ""
    _check(json.loads((place / "out" / "p.json").read_text()), records.PresetsAnswer, "config presets")


def test_an_error_leaves_standard_output_empty(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert run(["prompts", "list", "nothing", "--json", "-"]) == 2
    shown = capfd.readouterr()
    assert shown.out == "" and "nothing: no such run" in shown.err
