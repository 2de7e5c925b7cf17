"""A task tried without a model: its items, and what a few replies are worth that need none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gepa_loop.config.load import load_config
from gepa_loop.config.tables import TaskConfig
from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError, EnvironmentFault, GepaLoopError
from gepa_loop.start.findings import Finding
from gepa_loop.start.survey import SUFFIXES, file_kind
from gepa_loop.task.answers import reply_with
from gepa_loop.task.items import Item, Scored, Task, load_undealt

TRIED = 8
"""Items whose replies are scored, evenly over all."""

What = Literal["its own answer", "an empty reply", "another item's answer"]


@dataclass(frozen=True)
class Worth:
    """A reply, and what it is worth."""

    item: str
    """The item's id."""
    what: What
    reply: str
    score: Scored


@dataclass(frozen=True)
class Rehearsal:
    """What was seen of a task."""

    task: Task
    worths: tuple[Worth, ...]
    """Empty where nothing could be scored."""
    findings: tuple[Finding, ...]

    @property
    def faults(self) -> int:
        return sum(one.state == "fault" for one in self.findings)


def named_config(name: str | None, source: str | None, sets: Sequence[str]) -> Config:
    """The configuration whose task is tried.

    Args:
        name: `file.py:Name`, `package.module:Name`, or a JSONL, JSON, CSV or Parquet file; None is the config's own task.
        source: As for `load_config`; where a task is named and no source, there is nothing below `sets`.
        sets: So, too.

    Raises:
        ConfigError: It is neither, or the configuration cannot be used.
    """
    if name is None:
        return load_config(source, sets)
    kind = "python" if ":" in name else file_kind(Path(name))
    if kind is None:
        raise ConfigError(
            f"{name}: neither file.py:Name nor a file of {', '.join(SUFFIXES)}",
            "Other tasks are named by --config or --set task.kind=... --set task.name=...",
        )
    if source is None:
        return load_config({"task": {"kind": kind, "name": name}}, sets)
    return load_config(source, [f"task.kind={kind}", f"task.name={name}", *sets])


def rehearse(config: TaskConfig, seed: int) -> Rehearsal:
    """Look at a task's items, and score replies that need no model; a score that raises is a finding.

    Raises:
        TaskError: There are no items, or they cannot be had.
        EnvironmentFault: A dataset cannot be had.
    """
    task = load_undealt(config, seed)
    found = [*_of_items(task)]
    if task.judge is not None:
        about = "a judge scores, which is asked by `gepa-loop check`"
        return Rehearsal(task, (), (*found, Finding("scores", "note", about)))
    if task.answers == "none":
        about = "no item has an answer, and nothing else scores: only `distill` can do with that"
        return Rehearsal(task, (), (*found, Finding("scores", "note", about)))
    try:
        worths, again, seconds = _scored(task)
    except GepaLoopError as error:
        # What a function of the user's raised says how a run goes on, and here is none.
        hint = "" if isinstance(error, EnvironmentFault) else error.hint
        return Rehearsal(task, (), (*found, Finding("scores", "fault", str(error), hint, 2)))
    found += [*_of_scores(worths), _of_repetition(worths, again), _of_time(len(worths), *seconds)]
    return Rehearsal(task, tuple(worths), tuple(found))


def _of_items(task: Task) -> Iterator[Finding]:
    count, answered = len(task.items), sum(bool(item.answer) for item in task.items)
    said = f"{count:,} items, {task.distinct:,} distinct questions; {answered:,} have an answer"
    yield Finding("items", "ok" if count <= task.distinct else "note", said)
    yield from (Finding("items", "note", warning) for warning in task.warnings())


def _replies(task: Task) -> Iterator[tuple[Item, What, str]]:
    items = task.items[:: -(-len(task.items) // TRIED)]
    for item in items:
        if item.answer:
            yield item, "its own answer", reply_with(task.extract, item.answer)
        yield item, "an empty reply", ""
        if other := next((one.answer for one in items if one.answer not in ("", item.answer)), None):
            yield item, "another item's answer", reply_with(task.extract, other)


def _scored(task: Task) -> tuple[list[Worth], list[Scored], tuple[float, float]]:
    """Each reply's score, the same again, and the seconds that these took one after another and together."""
    asked = list(_replies(task))
    replies = [(item, reply, False) for item, _, reply in asked]
    first, apart = _timed(lambda: [score for one in replies for score in task.score_all([one])])
    again, together = _timed(lambda: task.score_all(replies))
    worths = [
        Worth(item.id, what, reply, score) for (item, what, reply), score in zip(asked, first, strict=True)
    ]
    return worths, again, (apart, together)


def _timed(work: Callable[[], list[Scored]]) -> tuple[list[Scored], float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def _of_scores(worths: Sequence[Worth]) -> Iterator[Finding]:
    means = mean_worths(worths)
    own, rest = means.get("its own answer"), {k: v for k, v in means.items() if k != "its own answer"}
    values = [one.score.value for one in worths]
    said = (
        f"from {min(values):.2f} to {max(values):.2f}, {len(set(values))} different; on average "
        + ", ".join(f"{what} {mean:.2f}" for what, mean in means.items())
    )
    if own is None:
        yield Finding("scores", "ok" if len(set(values)) > 1 else "note", said)
    elif own <= max(rest.values()):
        why = "An item's own answer is to be worth more than no reply and than another item's."
        yield Finding("scores", "fault", said, why, 2)
    elif means["an empty reply"] > 0:
        yield Finding(
            "scores",
            "note",
            said,
            "A reply that says nothing is worth something: a student may learn to say nothing.",
        )
    else:
        yield Finding("scores", "ok", said)


def mean_worths(worths: Sequence[Worth]) -> dict[What, float]:
    """The mean score of each kind of reply."""
    kinds = dict.fromkeys(one.what for one in worths)
    values = {kind: [one.score.value for one in worths if one.what == kind] for kind in kinds}
    return {kind: sum(some) / len(some) for kind, some in values.items()}


def _of_repetition(worths: Sequence[Worth], again: Sequence[Scored]) -> Finding:
    other = [(one, score) for one, score in zip(worths, again, strict=True) if one.score.value != score.value]
    if not other:
        return Finding("repeated", "ok", f"{len(worths)} replies have the same scores when asked again")
    one, score = other[0]
    return Finding(
        "repeated",
        "fault",
        f"{len(other)} of {len(worths)} replies have other scores when asked again: {one.what} to {one.item} "
        f"{one.score.value:.2f}, then {score.value:.2f}",
        "A killed run goes on to the same result only where a reply's score is always the same: seed what is random, or keep what was said.",
        2,
    )


def _of_time(count: int, apart: float, together: float) -> Finding:
    return Finding(
        "time", "ok", f"{count} replies took {apart:.2f} s one after another, and {together:.2f} s together"
    )
