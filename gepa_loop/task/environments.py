"""Environments of `verifiers` as tasks: those of one turn, whose rewards read the reply.

A taskset gives the items; a task's own rewards, which may be coroutines, give the score: the sum of each reward times its weight, over
the sum of the weights above 0, and 0 where penalties (weights below 0) make less of it.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import packages_distributions, requires
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gepa_loop.config.tables import TaskConfig
from gepa_loop.errors import EnvironmentFault, TaskError
from gepa_loop.outside.awaiting import at_once
from gepa_loop.outside.modules import foreign, module_file
from gepa_loop.task.dealing import FRESH, RACE, SPLITS
from gepa_loop.task.own import PARALLEL
from gepa_loop.task.readings import Reading
from gepa_loop.task.records import MOST, Record, short

if TYPE_CHECKING:
    import verifiers.v1 as vf

BUILT_IN = "verifiers.v1.tasksets"
SPARE, ROUNDS_SPARE = 4, 2
"""Tasks that are read of a taskset without end, for each item of one round, and for each of all rounds where that is more. Up to there
rounds can be added to a run: with more tasks their shuffle is another."""


@dataclass(frozen=True)
class Environment:
    """A taskset, read."""

    where: str
    """The key and value that name it."""
    tasks: Mapping[str, vf.Task[Any, Any, Any]]
    """Item -> its task."""

    def records(self) -> Iterator[Record]:
        """Each task's data, and its turns as the question: its system prompt, where it has one, and its prompt."""
        for number, (id, task) in enumerate(self.tasks.items()):
            data = task.data.model_dump(mode="json", exclude_defaults=True)
            yield id, f"{self.where}, task {number}", {**data, "question": _turns(task.data, self.where)}

    def score(self, readings: Sequence[Reading]) -> list[tuple[float, str]]:
        """What the environment says of replies, without their thoughts; `PARALLEL` are waited for at a time.

        Raises:
            EnvironmentFault: One of its rewards raised.
            TaskError: The score is no number from 0 to 1.
        """
        return at_once([partial(self._score, one) for one in readings], PARALLEL)

    async def _score(self, one: Reading) -> tuple[float, str]:
        task = self.tasks[one.item.id]
        trace = _trace(task, one.read or "")
        saved = "What was finished is saved; run the same command again to continue."
        with foreign(EnvironmentFault, f"{self.where}: score on {one.item.id}", saved):
            await task.score(trace)
        rewards = {name: reward for name, reward in trace.rewards.items() if reward is not None}
        whole = sum(reward.weight for reward in rewards.values() if reward.weight > 0)
        score = sum(reward.value for reward in rewards.values()) / whole if whole > 0 else 0.0
        told = ", ".join(f"{name} {reward.score:g}" for name, reward in rewards.items())
        if not score <= 1 + 1e-9:
            raise TaskError(
                f"{self.where}: the rewards of {one.item.id} are {short(told)}, which is {score:g} of 1",
                "Rewards from 0 to 1 are read; their sum is divided by that of the weights above 0.",
            )
        return min(max(score, 0.0), 1.0), f"Rewards: {short(told)}." if len(rewards) > 1 else ""


def open_environment(config: TaskConfig, rounds: int = 1) -> Environment:
    """Read the tasks of an environment: all, or of those without end as many as `rounds` rounds may take.

    Raises:
        TaskError: There is none of this name, its options are refused, or it needs more than one turn and its reply.
        EnvironmentFault: `verifiers` is not installed.
    """
    where = f"task.name = {config.name!r}"
    environment_file(config)
    try:
        from verifiers.v1 import SingleAgentEnv, environment_class, load_taskset, taskset_config_type
    except ImportError as error:
        raise _missing(error) from error
    with foreign(TaskError, f"{where}: the environment"):
        taskset = load_taskset(taskset_config_type(config.name)(id=config.name, **config.options))
        if environment_class(config.name) is not SingleAgentEnv:
            raise TaskError(
                f"{where}: it brings an environment class of its own, and only single turns are read"
            )
        # Of one without end what the splits may take, with room for repeats.
        read = taskset if taskset.bounded else islice(taskset, _read(config, rounds))
        tasks = {f"verifiers:{number}": task for number, task in enumerate(_at_most(read, where))}
        for task in islice(tasks.values(), 1):
            _refuse_more(task, where)
    return Environment(where, tasks)


def _at_most(tasks: Iterable[Any], where: str) -> Iterator[Any]:
    for number, task in enumerate(tasks):
        if number == MOST:
            raise TaskError(f"{where}: more than {MOST:,} tasks", "Bound it by an option.")
        yield task


def _read(config: TaskConfig, rounds: int) -> int:
    """How many tasks are read where there is no end of them."""
    sizes = config.splits
    if sizes.shares:
        raise TaskError(
            f"task.splits.{next(iter(sizes.shares))} is a share, and {config.name} has tasks without end",
            "Give a number.",
        )
    asked = {split: RACE if (size := getattr(sizes, split)) is None else size for split in SPLITS}
    once, again = sum(asked.values()), sum(asked[split] for split in FRESH)
    return max(SPARE * once, ROUNDS_SPARE * (once + (rounds - 1) * again))


def _refuse_more(task: vf.Task[Any, Any, Any], where: str) -> None:
    """Refuse what a reply alone cannot be scored by."""
    rewards = task.hooks("reward")
    in_box = [reward.__name__ for reward in rewards if _needs_runtime(reward)]
    why = {
        "its tasks need a container": task.NEEDS_CONTAINER,
        "its tasks have tools": bool(type(task).toolsets(task.config)),
        "judges of its own are asked; name one in task.judge": bool(task.plugged_judges()),
        f"{', '.join(in_box)} needs a runtime": bool(in_box),
        "its tasks have no rewards": not rewards,
    }
    for what, holds in why.items():
        if holds:
            raise TaskError(
                f"{where}: {what}", "Environments of one turn are read, whose rewards read the reply."
            )


def _needs_runtime(reward: Any) -> bool:
    known = inspect.signature(reward).parameters.get("runtime")
    return known is not None and known.default is inspect.Parameter.empty


def _turns(data: vf.TaskData, where: str) -> list[dict[str, str]]:
    if data.prompt is None:
        raise TaskError(
            f"{where}: task {data.idx} has no prompt: there the user is played, and single turns are read"
        )
    turns = [] if data.system_prompt is None else [{"role": "system", "content": data.system_prompt}]
    if isinstance(data.prompt, str):
        return [*turns, {"role": "user", "content": data.prompt}]
    for message in data.prompt:
        if not isinstance(message.content, str):
            raise TaskError(f"{where}: task {data.idx} shows more than text")
        turns.append({"role": message.role, "content": message.content})
    return turns


def _trace(task: vf.Task[Any, Any, Any], reply: str) -> vf.Trace[Any, Any, Any]:
    """What happened, as a reward reads it: the turns of the task, and the model's."""
    from verifiers.v1 import (
        AgentConfig,
        AgentInfo,
        AssistantMessage,
        MessageNode,
        SystemMessage,
        Trace,
        TraceTask,
        UserMessage,
    )

    kinds = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
    said = [kinds[turn["role"]](content=turn["content"]) for turn in _turns(task.data, "")]
    nodes = [MessageNode(parent=n - 1 if n else None, message=message) for n, message in enumerate(said)]
    nodes.append(MessageNode(parent=len(said) - 1, message=AssistantMessage(content=reply), sampled=True))
    about = TraceTask(type=type(task).__name__, data=task.data, key=task.key, hash=task.hash)
    return Trace(task=about, agent=AgentInfo(config=AgentConfig()), nodes=nodes, is_completed=True, ok=True)


def environment_file(config: TaskConfig) -> Path:
    """The file that reading an environment runs; nothing is run.

    Raises:
        TaskError: There is no such package or file: one beside the configuration, or an installed one that needs `verifiers`.
        EnvironmentFault: `verifiers` is not installed.
    """
    if importlib.util.find_spec("verifiers") is None:
        raise _missing("no module of this name")
    name = config.name.rsplit("/", 1)[-1].partition("@")[0].replace("-", "_").lower()
    if not name.isidentifier():
        raise TaskError(f"task.name = {config.name!r}: not the name of an environment")
    known = importlib.util.find_spec(f"{BUILT_IN}.{name}")
    if known is None:
        for package in packages_distributions().get(name, ()):
            if any(one.lower().startswith("verifiers") for one in requires(package) or ()):
                known = importlib.util.find_spec(name)
    if known is not None and known.origin is not None:
        return Path(known.origin)
    return module_file(name, f"task.name = {config.name!r}")


def _missing(error: object) -> EnvironmentFault:
    return EnvironmentFault(
        f"environments are read by `verifiers`, which is not installed: {error}",
        "pip install 'gepa-loop[verifiers]'.",
    )
