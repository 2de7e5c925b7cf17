"""A finished run in a Python program's hands."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gepa_loop
from gepa_loop.errors import ConfigError, EnvironmentFault, Interrupted, PromptError, RunDirectoryError
from gepa_loop.run.seeds import derive_seed
from gepa_loop.sampling.base import Sampling
from gepa_loop.serving.finished import read_finished
from gepa_loop.serving.talk import Reply, Talker, Who, open_talker
from gepa_loop.task.records import Messages


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
    chats, seeds = [(("user", question),)] * 3, [derive_seed(5, place) for place in range(3)]
    expected = [reply.text for reply in talker.reply("student", chats, Sampling(1.0, 32), seeds)]
    first = run(question, seed=5, temperature=1, max_tokens=32)
    assert first == expected[0]
    shutil.rmtree(tmp_path / "copy" / "distill")
    # Whoever asks the same several times wants several samples.
    several = run.replies([question] * 3, seed=5, temperature=1, max_tokens=32)
    assert several == expected and len(set(several)) == 3
    assert len(set(run.replies([question] * 3, temperature=1, max_tokens=32))) == 3
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    assert isinstance(run([*chat, {"role": "user", "content": question}], max_tokens=4), str)
    with pytest.raises(gepa_loop.GepaLoopError, match="does not end with a user's turn"):
        run(chat)
    with pytest.raises(PromptError, match="context"):
        run("word " * 5_000)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"temperature": -1}, "temperature = -1: no number from 0 on"),
        ({"temperature": math.nan}, "temperature = nan"),
        ({"temperature": math.inf}, "temperature = inf"),
        ({"temperature": "1"}, "temperature = '1'"),
        ({"max_tokens": 0}, "max_tokens = 0: no whole number from 1 on"),
        ({"max_tokens": 2.5}, "max_tokens = 2.5"),
        ({"seed": -5}, "seed = -5: no whole number from 0 on"),
        ({"seed": 1.5}, "seed = 1.5"),
    ],
)
def test_what_replies_cannot_be_drawn_with_is_an_error(
    distilled: gepa_loop.Run, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        distilled.replies(["Hi"], **wrong)
    with pytest.raises(ConfigError, match=re.escape(said)):
        distilled("Hi", **wrong)


def test_replies_are_of_a_list_of_any_length_batch_by_batch(distilled: gepa_loop.Run) -> None:
    assert distilled.replies([]) == []
    with pytest.raises(ConfigError, match="questions = 'Hi': a text, not a list"):
        distilled.replies("Hi")
    rows = read_finished(str(distilled.path)).config.sampling.batch
    counted = gepa_loop.Run(distilled.path)
    sampler = Counting(open_talker(read_finished(str(distilled.path))))
    counted.__dict__["_talker"] = sampler
    questions = [f"Question {n}" for n in range(2 * rows + 1)]
    found = counted.replies(questions, seed=np.int64(0), temperature=np.float32(1), max_tokens=np.int64(4))
    assert sampler.sizes == [rows, rows, 1]
    assert found == distilled.replies(questions, seed=0, temperature=1.0, max_tokens=4)
    assert found[1] == distilled.replies(["x", questions[1]], seed=0, temperature=1.0, max_tokens=4)[1]


class Counting:
    """A talker, and how much it was asked at a time."""

    def __init__(self, talker: Talker) -> None:
        self.talker, self.sizes = talker, list[int]()

    def reply(self, who: Who, chats: Sequence[Messages], *more: Any) -> list[Reply]:
        self.sizes.append(len(chats))
        return self.talker.reply(who, chats, *more)


class Failing:
    """A talker that cannot answer."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def reply(self, *_: Any) -> list[Reply]:
        raise self.error


def test_ctrl_c_and_memory_that_ends_are_errors_of_ours(distilled: gepa_loop.Run) -> None:
    run = gepa_loop.Run(distilled.path)
    for error, kind, said in (
        (KeyboardInterrupt(), Interrupted, "the replies so far are lost"),
        (RuntimeError("CUDA out of memory. Tried 2 GiB"), EnvironmentFault, "out of memory"),
        (RuntimeError("another"), RuntimeError, "another"),
    ):
        run.__dict__["_talker"] = Failing(error)
        with pytest.raises(kind, match=said):
            run("Hi")


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
