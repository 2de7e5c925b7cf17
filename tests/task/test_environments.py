"""Environments of `verifiers` as tasks, with the real library: one of one turn, in a file beside the configuration."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from gepa_loop.command import EVALUATE, Flags, Inputs
from gepa_loop.config.load import load_config
from gepa_loop.config.tables import TaskConfig
from gepa_loop.errors import ConfigError, EnvironmentFault, TaskError
from gepa_loop.session import open_session
from gepa_loop.start.reach import find_task
from gepa_loop.start.rehearsal import mean_worths, rehearse
from gepa_loop.task.items import Task, load_task
from gepa_loop.task.made import code_mark
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


def test_rounds_of_a_taskset_without_end_have_tasks_and_can_be_added(beside: Any) -> None:
    beside("sums_k", endless=True)
    sizes = {**SIZES, "select": 40, "race": 20}  # 80, of which each further round takes 60
    config = TaskConfig.model_validate({"kind": "verifiers", "name": "sums_k", "splits": sizes})
    one, two, many = (load_task(config, 0, rounds) for rounds in (1, 2, 9))
    assert (one.drawn, two.drawn, many.drawn) == (4 * 80, 4 * 80, 2 * (80 + 8 * 60))
    assert one.fingerprint == two.fingerprint and one.splits == two.splits
    assert all(len(part["select"]) == 40 and len(part["race"]) == 20 for part in many.later)


def test_rewards_may_keep_a_connection_and_few_are_asked_at_a_time(beside: Any) -> None:
    beside(
        "sums_l",
        """server = None
    under_way = most = 0

    @vf.reward
    async def asked(self, trace) -> float:
        kind = type(self)
        kind.under_way += 1
        kind.most = max(kind.most, kind.under_way)
        if kind.server is None:
            kind.server = asyncio.get_running_loop()
        assert kind.server is asyncio.get_running_loop(), "attached to a different loop"
        await asyncio.sleep(0.001)
        kind.under_way -= 1
        return 1.0""",
    )
    task = load("sums_l")
    item = task.splits["train"][0]
    for _ in range(2):
        assert [one.value for one in task.score_all([(item, item.answer, False)] * 30)] == [1.0] * 30
    assert sys.modules["sums_l"].SumTask.most == 8


def test_the_version_of_verifiers_and_an_edited_file_make_another_run(
    beside: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside("sums_m")
    sets = ["task.kind=verifiers", "task.name=sums_m", *(f"task.splits.{k}={v}" for k, v in SIZES.items())]
    with open_session(EVALUATE, Flags("smoke", sets, "r"), Inputs({})) as session:
        identity = session.lab.identity()
    assert identity["version.verifiers"] == version("verifiers")
    assert "version.verifiers" not in replace(session.lab, config=load_config("smoke", [], env={})).identity()
    config = load_config("smoke", sets, env={}).task
    before = code_mark(config)
    (tmp_path / "sums_m.py").write_text((tmp_path / "sums_m.py").read_text() + "\n")
    assert code_mark(config) != before


def test_all_files_of_an_installed_environment_are_in_its_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site-packages"
    package, about = site / "sums_env", site / "sums_env-1.dist-info"
    (package / "inner").mkdir(parents=True)
    about.mkdir()
    (about / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: sums-env\nVersion: 1\nRequires-Dist: verifiers\n"
    )
    (about / "top_level.txt").write_text("sums_env\n")
    (about / "RECORD").write_text("sums_env/__init__.py,,\n")
    for file in ("__init__.py", "rewards.py", "inner/words.py"):
        (package / file).write_text("x = 1\n")
    monkeypatch.syspath_prepend(str(site))
    config = TaskConfig(kind="verifiers", name="sums-env", splits=SIZES)
    marks = [code_mark(config)]
    for file in ("__init__.py", "rewards.py", "inner/words.py"):
        (package / file).write_text("x = 2\n")
        marks.append(code_mark(config))
    assert len(set(marks)) == 4


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


def test_the_taskset_of_the_page_is_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (
        (ROOT / "docs" / "reference" / "tasks.md")
        .read_text("utf-8")
        .partition("## An environment of verifiers")[2]
    )
    code, toml = (page.partition(f"```{kind}\n")[2].partition("```")[0] for kind in ("python", "toml"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums.py").write_text(code, "utf-8")
    (tmp_path / "own.toml").write_text(toml, "utf-8")
    seen = rehearse(load_config("own.toml").task, 0)
    assert mean_worths(seen.worths) == {"its own answer": 1, "an empty reply": 0, "another item's answer": 0}
    assert len(seen.task.items) == 500
