"""Environments of `verifiers` as tasks, with the real library: one of one turn, in a file beside the configuration."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gepa_loop.config.load import load_config
from gepa_loop.config.tables import TaskConfig
from gepa_loop.errors import ConfigError, EnvironmentFault, TaskError
from gepa_loop.start.reach import find_task
from gepa_loop.task.items import Task, load_task
from gepa_loop.task.sources import settle

pytest.importorskip("verifiers")

ENVIRONMENT = """
import asyncio
import verifiers.v1 as vf

__all__ = ["Sums"]


class Sum(vf.TaskData):
    answer: str


class SumTask(vf.Task[Sum, vf.State, vf.TaskConfig]):
    @vf.reward(weight=3.0)
    async def right(self, task, trace) -> float:
        await asyncio.sleep(0)
        assert trace.task.data is task or trace.task.data == task
        return float(trace.last_reply == task.answer)

    @vf.reward
    async def brief(self, trace) -> float:
        assert [message.role for message in trace.messages][-2:] == ["user", "assistant"]
        return 1.0 if len(trace.last_reply) < 4 else 0.5

    @vf.reward(weight=-1.0)
    async def rude(self, trace) -> float:
        return float("damn" in trace.last_reply)

    @vf.metric
    async def length(self, trace) -> float:
        return float(len(trace.last_reply))

    MORE


class SumsConfig(vf.TasksetConfig):
    count: int = 40
    said: str | None = "Give the sum alone."


class Sums(vf.Taskset[SumTask, SumsConfig]):
    INFINITE = ENDLESS

    def load(self):
        number = 0
        while ENDLESS or number < self.config.count:
            number += 1
            data = Sum(prompt=f"{number} + {number} =", answer=str(2 * number), system_prompt=self.config.said)
            yield SumTask(data, self.config.task)
"""
SIZES = {"train": 8, "pareto": 4, "race": 4, "select": 4, "test": 8}


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Writes an environment into the working directory; each test has a module of its own name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def write(name: str, more: str = "", endless: bool = False) -> None:
        text = ENVIRONMENT.replace("MORE", more).replace("ENDLESS", str(endless))
        (tmp_path / f"{name}.py").write_text(text)
        made.append(name)

    yield write
    for name in made:
        sys.modules.pop(name, None)


def load(name: str, **more: Any) -> Task:
    config = TaskConfig.model_validate({"kind": "verifiers", "name": name, "splits": SIZES, **more})
    return load_task(config, 0)


def test_items_and_scores(beside: Any) -> None:
    beside("sums_a")
    task = load("sums-a", options={"count": 30})
    assert task.distinct == 30 and task.extract == "whole" and task.answers == "given"
    item = task.splits["test"][0]
    number = int(item.question.split()[0])
    assert item.messages == (("system", "Give the sum alone."), ("user", f"{number} + {number} ="))
    assert item.answer == str(2 * number) and item.entry["answer"] == item.answer
    # Of weights 3, 1 and -1: the sum over the 4 of those above 0.
    for reply, score in (
        (item.answer, 1.0),
        (f"<think>it is 7</think>{item.answer}", 1.0),
        ("no", 0.25),
        ("nonsense", 0.125),
        ("damn", 0.0),
        ("", 0.25),
    ):
        assert task.score(item, reply).value == pytest.approx(score), reply
    both = task.score_all([(item, item.answer, False), (item, "no", False)])
    assert [one.value for one in both] == [1.0, 0.25]
    assert "Rewards: brief 1, right 0, rude 0." in both[1].feedback


def test_what_becomes_of_the_system_prompt(beside: Any) -> None:
    beside("sums_b")
    dropped = load("sums_b", fields={"system": "drop"}).splits["train"][0]
    assert [role for role, _ in dropped.messages] == ["user"]
    none = load("sums_b", options={"said": None}).splits["train"][0]
    assert none.messages[0][0] == "user"


def test_a_taskset_without_end_is_read_as_far_as_it_is_needed(beside: Any) -> None:
    beside("sums_c", endless=True)
    assert load("sums_c").drawn == 4 * sum(SIZES.values())
    config = load_config("smoke", ["task.kind=verifiers", "task.name=sums_c"], env={})
    shares = TaskConfig(kind="verifiers", name="sums_c", splits={**SIZES, "train": 0.2})
    with pytest.raises(TaskError, match=r"task.splits.train is a share, and sums_c has tasks without end"):
        settle(config.model_copy(update={"task": shares}))


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("sums_d", "NEEDS_CONTAINER = True", "its tasks need a container"),
        (
            "sums_e",
            "@vf.reward\n    async def boxed(self, trace, runtime) -> float:\n        return 1.0",
            "boxed needs a runtime",
        ),
        (
            "sums_f",
            "@classmethod\n    def toolsets(cls, config):\n        return [object()]",
            "its tasks have tools",
        ),
    ],
)
def test_what_a_reply_alone_cannot_be_scored_by(beside: Any, name: str, more: str, message: str) -> None:
    beside(name, more)
    with pytest.raises(TaskError, match=message):
        load(name)


def test_scores_that_are_none(beside: Any) -> None:
    beside("sums_g", "@vf.reward(weight=0.5)\n    async def much(self, trace) -> float:\n        return 9.0")
    task = load("sums_g")
    with pytest.raises(TaskError, match=r"the rewards of verifiers:\d+ are .*much 9.*of 1"):
        task.score(task.splits["train"][0], "no")
    beside(
        "sums_h", "@vf.reward\n    async def broken(self, trace) -> float:\n        raise KeyError('gone')"
    )
    broken = load("sums_h")
    with pytest.raises(EnvironmentFault, match=r"score on verifiers:\d+ failed: .*gone"):
        broken.score(broken.splits["train"][0], "no")


def test_environments_that_cannot_be_had(beside: Any, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"there is no file of nowhere"):
        load("owner/nowhere@1.0")
    # Of what is installed, only packages that need verifiers: a configuration may lie anywhere.
    for name in ("json", "antigravity", "pytest"):
        with pytest.raises(TaskError, match="there is no file of"):
            load(name)
    with pytest.raises(TaskError, match="not the name of an environment"):
        load("a b")
    (tmp_path / "empty_env.py").write_text("x = 1\n")
    with pytest.raises(TaskError, match=r"empty_env.*defines no `__all__`"):
        load("empty_env")
    beside("sums_i")
    with pytest.raises(TaskError, match=r"(?s)task.name = 'sums_i': the environment failed: .*nosuch"):
        load("sums_i", options={"nosuch": 1})
    with pytest.raises(ConfigError, match="an environment's rewards read the whole reply"):
        load_config("smoke", ["task.kind=verifiers", "task.name=x", "task.extract=tags"], env={})
    said = find_task(TaskConfig(kind="verifiers", name="sums_i"))
    assert said == [f"{tmp_path}/sums_i.py would be run"]


def test_it_is_scored_where_a_loop_runs_already(beside: Any) -> None:
    beside("sums_j")
    task = load("sums_j")
    item = task.splits["train"][0]

    async def within() -> float:
        return task.score(item, item.answer).value

    # In a thread: a browser of other tests has a loop in this one.
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(asyncio.run, within()).result() == 1.0
