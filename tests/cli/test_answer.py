"""What commands say with --json: one object, as its record has it, alone on standard output."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from processes import let_in, nobody
from pydantic import TypeAdapter
from recorded import strict

from gepa_loop.cli import app, run
from gepa_loop.cli.answer import check_target
from gepa_loop.cli.records import begun, made, read
from gepa_loop.errors import ConfigError
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
    _check(found, made.DistilledAnswer, "distill")
    assert Path(found["path"]) == place / "runs" / "d"
    assert (Path(found["path"]) / found["adapter"] / "adapter_config.json").is_file()
    # Quietly: the same object and the end, not how it came about.
    code, again, person = say("distill", *SMOKE, "--prompt", "p.txt", "--run-name", "d", "--quiet")
    assert {**again, "looks": None} == {**found, "looks": None}
    assert (
        person.startswith("\ntest, 8 items") and "next:" not in person and "model random:tiny" not in person
    )

    _, found, _ = say("optimize", *SMOKE, "--run-name", "o", "--quiet")
    _check(found, made.OptimizedAnswer, "optimize")
    assert (Path(found["path"]) / found["prompt"]).is_file()

    code, found, person = say("loop", *SMOKE, "--run-name", "l", "--quiet", "--require-gain")
    _check(found, made.LoopedAnswer, "loop")
    assert code == 5 and "no significant gain" in person and found["missing_gain"] in person

    holds = ["--fail-if", "prompted < 2", "--fail-if", "prompted > 1"]
    code, found, _ = say("evaluate", *SMOKE, "--prompt", "p.txt", "--run-name", "e", *holds)
    _check(found, made.EvaluatedAnswer, "evaluate")
    assert code == 5 and [one["holds"] for one in found["conditions"]] == [True, False]

    sweep = ["sweep", *SMOKE, "--prompt", "p.txt", "--grid", "distill.lr=1e-3,1e-2", "--run-name", "s"]
    _, found, _ = say(*sweep, "--quiet")
    _check(found, made.SweptAnswer, "sweep")
    assert len(found["result"]["cells"]) == 2


def test_commands_that_begin(say: Say) -> None:
    code, found, person = say("check", *SMOKE, "--items", "2")
    _check(found, begun.CheckedAnswer, "check")
    assert code == 0 and len(found["items"]) == 2 and "2 items of train" in person
    assert "asking the model without and with the prompt" in person
    # The line to copy has what is suggested, in the place of what was said of the same key.
    *_, last = say(
        "check", "--config", "smoke", "--set", "model.name=random:tiny", "--set", "task.extract=whole"
    )
    following = "gepa-loop check --config smoke --set task.extract=whole --set model.name=NAME"
    assert last.endswith(f"with what is suggested, next: {following}\n")
    code, found, person = say("doctor", *SMOKE)
    _check(found, begun.DoctorAnswer, "doctor")
    assert (code, found["faults"]) == (0, 0) and "no fault was found" in person
    _, found, person = say("doctor", "--set", "model.name=random:tiny")
    assert found["config"] == "demo" and "config demo: the preset, as there is no gepa-loop.toml" in person
    code, found, _ = say("doctor", "--config", "smoke", "--set", "task.name=lmc", "--set", "x.y=1")
    _check(found, begun.DoctorAnswer, "doctor")
    assert code == 2 and found["faults"] == 2
    code, found, person = say("task", "check", "t.jsonl")
    _check(found, begun.TaskAnswer, "task check")
    assert (code, found["items"], found["means"]["its own answer"]) == (0, 12, 1) and "jsonl:1" in person


def test_commands_that_look(say: Say, place: Path) -> None:
    assert run(["optimize", *SMOKE, "--run-name", "o", "--quiet"]) == 0
    code, found, person = say("runs")
    _check(found, read.RunsAnswer, "runs")
    assert code == 0 and "o" in {one["run"] for one in found["runs"]} and "optimize" in person
    _, same, _ = say("runs", "list")
    assert [one["run"] for one in same["runs"]] == [one["run"] for one in found["runs"]]
    _, found, _ = say("config", "explain")
    _check(found, read.ExplainedAnswer, "config explain")
    _, one, _ = say("config", "explain", "distill.lr")
    assert [key["name"] for key in one["keys"]] == ["distill.lr"] and one["keys"][0] in found["keys"]
    _, found, _ = say("config", "presets")
    _check(found, read.PresetsAnswer, "config presets")
    assert "smoke" in found["presets"] and "objectives" in found["grids"]
    _, found, _ = say("prompts", "list", "o")
    _check(found, read.SearchAnswer, "prompts list")
    ids = [one["id"] for one in found["candidates"]]
    _, found, person = say("prompts", "show", "o", ids[-1], "--text")
    _check(found, read.PromptAnswer, "prompts show")
    assert found["candidate"]["text"] in person and found["lineage"][-1] == ids[-1]
    _, found, _ = say("prompts", "diff", "o", "seed", ids[-1])
    _check(found, read.PromptDiffAnswer, "prompts diff")
    assert found["old"]["id"] == ids[0] and ids[-1] == found["new"]["id"]
    assert bool(found["diff"]) == (found["old"]["text"] != found["new"]["text"])


def test_export_and_a_file_in_place_of_standard_output(
    say: Say, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["distill", *SMOKE, "--prompt", "p.txt", "--run-name", "d", "--quiet"]) == 0
    code, found, person = say("export", "d", "--to", "student")
    _check(found, read.ExportedAnswer, "export")
    assert code == 0 and found["to"] == str(place / "student") and "wrote student" in person
    capfd.readouterr()
    assert run(["config", "presets", "--json", "out/p.json"]) == 0
    shown = capfd.readouterr()
    assert "presets (--config)" in shown.out and shown.err == ""
    _check(json.loads((place / "out" / "p.json").read_text()), read.PresetsAnswer, "config presets")


def test_an_error_leaves_standard_output_empty(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    assert run(["prompts", "list", "nothing", "--json", "-"]) == 2
    shown = capfd.readouterr()
    assert shown.out == "" and "nothing: no such run" in shown.err


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_done(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("Answer with one number.\n")
    (tmp_path / "file").write_text("kept")
    os.mkfifo(tmp_path / "pipe")  # no device of this machine: what is broken would put a file in its place
    before = sorted(tmp_path.iterdir())
    distill = ["distill", *SMOKE, "--prompt", "p.txt", "--run-name", "never"]
    for words in (distill, ["loop", *SMOKE, "--run-name", "never"], ["init", "--data", "none.csv"], ["runs"]):
        for target, said in (
            (str(tmp_path), "it is a folder"),
            (".", "it is a folder"),
            ("pipe", "it is a pipe or a device"),
            ("file/a.json", "file is no folder"),
        ):
            capfd.readouterr()
            assert run([*words, "--json", target]) == 2, (words, target)
            shown = " ".join(capfd.readouterr().err.split())
            assert shown.startswith(f"error: --json {target}: ") and said in shown
            assert sorted(tmp_path.iterdir()) == before
    assert run(["config", "presets", "--json", "file"]) == 0
    assert json.loads((tmp_path / "file").read_text())["command"] == "config presets"


def test_a_folder_for_the_file_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o555)
    let_in(tmp_path)
    with nobody(), pytest.raises(ConfigError, match="closed cannot be written"):
        check_target(str(tmp_path / "closed" / "new" / "a.json"))
    assert check_target(str(tmp_path / "new" / "deeper" / "a.json")) and not (tmp_path / "new").exists()
    assert check_target("-") == "-" and check_target(None) is None


def test_what_would_run(say: Say, place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GEPA_LOOP_CACHE", str(tmp_path))  # where no run has said how long a step takes
    code, found, person = say("plan", *SMOKE, "--quiet")
    assert found["dry_run"] == "loop" and "in all" in person and "next:" not in person
    assert found["plan"]["step"] is None and found["plan"]["seconds"] is None
    code, found, person = say("plan", *SMOKE, "--prompt", "p.txt", "--measure", "--gpu-usd-hour", "2")
    _check(found, made.DryAnswer, "plan")
    assert code == 0 and found["dry_run"] == "distill" and "in all" in person and "next: gepa-loop" in person
    plan = found["plan"]
    assert plan["seconds"] == pytest.approx(sum(stage["seconds"] for stage in plan["stages"]))
    training = next(stage for stage in plan["stages"] if stage["stage"] == "training")
    # Two steps of 8 rollouts of at most 8 tokens.
    assert (training["rollouts"], training["tokens"]) == (16, 128)
    assert plan["step"]["source"] == "3 steps of `plan --measure`" and plan["memory_gib"]["1 student"] > 0
    assert plan["worth"]["saved"] > 0 and plan["worth"]["price"] > 0
    _, found, _ = say("loop", *SMOKE, "--dry-run", "--run-name", "would")
    _check(found, made.DryAnswer, "loop")
    assert found["path"] == str(place / "runs" / "would") and not Path(found["path"]).exists()
    assert any(line.startswith("model random:tiny") for line in found["facts"])
    _, found, _ = say("evaluate", *SMOKE, "--prompt", "p.txt", "--dry-run")
    assert found["plan"] is None and found["dry_run"] == "evaluate"
    sweep = ["sweep", *SMOKE, "--prompt", "p.txt", "--grid", "distill.lr=1e-3,1e-2", "--dry-run"]
    _, found, _ = say(*sweep)
    assert found["plan"]["stages"] == [] and sum(line.startswith("cell ") for line in found["facts"]) == 2


def test_what_a_run_is_used_for(say: Say, place: Path) -> None:
    assert run(["distill", *SMOKE, "--prompt", "p.txt", "--run-name", "u", "--quiet"]) == 0
    _, found, person = say("chat", "u", "2 and 2?", "--compare", "--temperature", "0", "--max-tokens", "4")
    _check(found, read.ChatAnswer, "chat")
    assert [one["who"] for one in found["replies"]] == ["bare", "prompted", "student"]
    assert all(one["question"] == "2 and 2?" and one["tokens"] <= 4 for one in found["replies"])
    assert found["replies"][0]["prompt_tokens"] < found["replies"][1]["prompt_tokens"]
    assert "tokens read" in person
    page = place / "runs" / "u" / "report.html"
    page.unlink()
    _, found, _ = say("report", "u")
    _check(found, read.ReportAnswer, "report")
    assert Path(found["page"]) == page and page.is_file()
    _, found, person = say("runs", "remove", "u", "--yes")
    _check(found, read.RemovedAnswer, "runs remove")
    assert found["runs"] == ["u"] and "deleted u" in person and not page.parent.exists()


def test_cells_of_a_sweep(say: Say) -> None:
    grid = ["sweep", *SMOKE, "--prompt", "p.txt", "--grid", "distill.lr=1e-3,1e-2", "--run-name", "c"]
    assert run([*grid, "--quiet"]) == 0
    _, found, person = say("runs", "cells", "c")
    _check(found, read.CellsAnswer, "runs cells")
    assert [(one["state"], one["steps"]) for one in found["cells"]] == [("done", 2)] * 2
    assert all("2" in one["held_out"] for one in found["cells"]) and "2 students" in person


def test_a_config_that_is_made_and_one_that_is_shown(say: Say, place: Path) -> None:
    code, found, person = say("init", "--data", "t.jsonl", "--to", "made.toml", "--yes")
    _check(found, begun.InitAnswer, "init")
    assert code == 0 and Path(found["path"]) == place / "made.toml" and found["records"] == 12
    assert [one["name"] for one in found["fields"]] == ["question", "answer"]
    assert sum(found["splits"].values()) <= 12 and "wrote made.toml" in person
    assert run(["config", "show", "--config", "made.toml"]) == 0
    _, found, person = say("config", "show", "--config", "smoke", "--set", "seed=7")
    _check(found, read.ConfigAnswer, "config show")
    assert found["config"]["seed"] == 7 and found["config"]["model"]["name"] == "random:tiny" and not person


def test_every_command_but_servers_can_say_it_to_a_program() -> None:
    def commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from commands(command, f"{before}{name} ")
            else:
                yield f"{before}{name}", command

    every = dict(commands(typer.main.get_command(app)))
    without = {
        name for name, command in every.items() if not any("--json" in param.opts for param in command.params)
    }
    assert len(every) > 20 and without == {"serve", "view"}


LOUD = """
import gepa_loop


class Loud(gepa_loop.Task):
    def items(self):
        print("made")
        return [gepa_loop.Item.of(f"What is {n}?", str(n)) for n in range(40)]

    def score(self, item, reply):
        print("debug", item.id)
        return reply == item.answer
"""


def test_what_a_users_code_prints_is_no_part_of_the_object(say: Say, place: Path) -> None:
    (place / "loud.py").write_text(LOUD)
    code, found, person = say("task", "check", "loud.py:Loud")
    _check(found, begun.TaskAnswer, "task check")
    assert code == 0 and "made" in person and "debug" in person
