"""A finished run in a Python program's hands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import gepa_loop
from gepa_loop.errors import ConfigError, EnvironmentFault, PromptError, RunDirectoryError
from gepa_loop.sampling.base import Sampling
from gepa_loop.serving.finished import read_finished
from gepa_loop.serving.talk import open_talker


def test_what_a_run_is_and_what_it_found(distilled: gepa_loop.Run) -> None:
    assert (distilled.name, distilled.command) == ("d", "distill")
    assert distilled.prompt == "Answer with one number."
    assert distilled.adapter is not None and (distilled.adapter / "adapter_config.json").is_file()
    written = json.loads((distilled.path / "result.json").read_text())
    assert distilled.result["greedy"]["student"] == written["greedy"]["student"]
    assert distilled.path.is_absolute()


def test_the_student_answers_as_the_sampler_draws_and_stays_in_memory(
    distilled: gepa_loop.Run, tmp_path: Path
) -> None:
    shutil.copytree(distilled.path, tmp_path / "copy")
    run = gepa_loop.load(tmp_path / "copy")
    question = "What is the least common multiple of 4 and 6?"
    talker = open_talker(read_finished(str(distilled.path)))
    expected = talker.reply("student", [(("user", question),)], Sampling(1.0, 32), [5])[0].text
    first = run(question, seed=5, temperature=1, max_tokens=32)
    assert first == expected
    shutil.rmtree(tmp_path / "copy" / "distill")
    assert run.replies([question, question], seed=5, temperature=1, max_tokens=32) == [first, first]
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    assert isinstance(run([*chat, {"role": "user", "content": question}], max_tokens=4), str)
    with pytest.raises(gepa_loop.GepaLoopError, match="does not end with a user's turn"):
        run(chat)
    with pytest.raises(PromptError, match="context"):
        run("word " * 5_000)


def test_rows_are_those_of_the_files(distilled: gepa_loop.Run) -> None:
    rows = distilled.rows()
    lines = (distilled.path / "test" / "student_greedy.jsonl").read_text().splitlines()
    one = rows[rows.file == "test/student_greedy"]
    assert list(one.completion) == [json.loads(line)["completion"] for line in lines] and len(one) == 8
    assert {"baseline/pareto", "test/base", "test/prompted_greedy"} < set(rows.file)
    means = rows.groupby("file").score.mean()
    assert means["test/base_greedy"] == pytest.approx(distilled.result["greedy"]["base"]["mean"])


def test_without_pandas_it_is_said_how_to_get_it(
    distilled: gepa_loop.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(EnvironmentFault, match="data frame of pandas") as caught:
        distilled.rows()
    assert "pip install 'gepa-loop[pandas]'" in caught.value.hint


def test_runs_are_loaded_by_name_by_path_and_the_last_finished_one(
    distilled: gepa_loop.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(distilled.path.parent.parent)
    for name in ("d", "last", "runs/d", distilled.path):
        assert gepa_loop.load(name) == distilled
    with pytest.raises(ConfigError, match="x: no such run") as caught:
        gepa_loop.load("x")
    assert caught.value.hint == "Finished runs: d."
    shutil.copytree(distilled.path, tmp_path / "half")
    (tmp_path / "half" / "result.json").unlink()
    with pytest.raises(RunDirectoryError, match="run half is not finished"):
        gepa_loop.load(tmp_path / "half")
