"""Runs by name, and finished ones as values."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from gepa_loop.errors import ConfigError, RunDirectoryError
from gepa_loop.run.files import write_json
from gepa_loop.run.find import all_runs, run_folder
from gepa_loop.serving.finished import has_student, read_finished, student_at


def test_a_run_by_name_by_path_and_the_last_one(
    place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(place)
    assert run_folder("d") == Path("runs/d") and run_folder(str(place / "runs" / "d")) == place / "runs" / "d"
    monkeypatch.chdir(tmp_path)
    for n, name in enumerate(("b", "a", "c")):
        write_json(tmp_path / "runs" / name / "manifest.json", {})
        os.utime(tmp_path / "runs" / name / "manifest.json", (n, n))
    assert [path.name for path in all_runs()] == ["c", "a", "b"]
    assert run_folder("last").name == "c"
    assert run_folder("last", lambda path: path.name != "c").name == "a"
    write_json(tmp_path / "runs" / "last" / "manifest.json", {})
    assert run_folder("last") == Path("runs/last")
    with pytest.raises(ConfigError, match="x: no such run") as caught:
        run_folder("x", lambda path: path.name == "b", "Good ones")
    assert caught.value.hint == "Good ones: b."


def test_a_finished_distillation(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    for name in ("d", "last"):
        found = read_finished(name)
        assert (found.command, found.prompt.text, found.name) == ("distill", "Answer with one number.", "d")
        assert (found.adapter / "adapter_config.json").is_file()
        assert found.config.lora.rank == 3 and found.result["answers"] == "given"
        assert found.day == json.loads((place / "runs/d/manifest.json").read_text())["identity"]["model.date"]


def test_a_student_is_named_by_its_folder_or_by_its_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    (adapter,) = Path("runs/d/distill").glob("*/adapter")
    for name in ("d", "runs/d", place / "runs" / "d", "last"):
        assert student_at(name).resolve() == adapter.resolve()
    # What is an adapter stays one, and what is neither is told by whoever reads it.
    assert student_at(adapter) == adapter and student_at("nowhere") == Path("nowhere")
    (place / "d").mkdir()
    (place / "d" / "adapter_config.json").write_text("{}")
    assert student_at("d") == Path("d")
    shutil.rmtree(place / "d")


def test_runs_without_a_student(place: Path, tmp_path: Path) -> None:
    def copied(name: str) -> Path:
        shutil.copytree(place / "runs" / "d", tmp_path / name)
        return tmp_path / name

    half = copied("half")
    (half / "result.json").unlink()
    with pytest.raises(RunDirectoryError, match="run half is not finished"):
        read_finished(str(half))
    other = copied("other")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest.pop("check")
    manifest["identity"]["command"] = "optimize"
    write_json(other / "manifest.json", manifest)
    for read in (read_finished, student_at):
        with pytest.raises(ConfigError, match="run other is one of `optimize`, which makes no student"):
            read(str(other))
    lost = copied("lost")
    manifest["identity"]["command"] = "loop"
    write_json(lost / "manifest.json", manifest)
    write_json(lost / "result.json", {"adapter": None, "prompt": "p"})
    with pytest.raises(RunDirectoryError, match="no round has a winner"):
        read_finished(str(lost))
    edited = copied("edited")
    (prompt,) = (edited / "prompts").iterdir()
    prompt.write_text("Answer with another number.\n")
    with pytest.raises(RunDirectoryError, match="it is not as it was written"):
        read_finished(str(edited))
    old = copied("old")
    config = json.loads((old / "config.json").read_text())
    config.pop("check")
    write_json(old / "config.json", {**config, "distill": {**config["distill"], "gone": 1}})
    with pytest.raises(RunDirectoryError, match="written by another version"):
        read_finished(str(old))
    assert has_student(old) and not has_student(half)
    (lost / "result.json").write_text("{torn")
    assert not has_student(lost)
