"""Score a (prompt, adapter) pair on a split: one JSONL row for each (item, sample)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

from gepa_loop.config.whole import Config
from gepa_loop.run.files import append_jsonl, disk_errors, read_jsonl, write_jsonl
from gepa_loop.run.marks import PART, damaged, named
from gepa_loop.sampling.base import Sampling, Waiting
from gepa_loop.scores.records import ScoreRow
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.task.items import Item


class Scoring:
    """The rows of every item of a split, which are asked for when it is made and read by `rows`: where a sampler works beside this process
    several are asked for before the first is read. Common random numbers make the rows comparable item by item.

    Args:
        config: The run's configuration.
        rollouts: Where completions come from.
        split: Name of the split.
        prompt: The prompt's text; empty for none.
        path: The finished file. While it is being made it is `<name>.part`, from which a killed run goes on;
            batches are always the same ones, so the rows are too.

    Raises:
        RunDirectoryError: A file of an earlier process has not the rows of these items and this adapter, or not as they
            were written.
    """

    def __init__(self, config: Config, rollouts: Rollouts, split: str, prompt: str, path: Path) -> None:
        items = rollouts.task.splits[split]
        adapter, samples = rollouts.adapter, config.evaluate.samples
        self._rollouts, self._path, self._wanted = rollouts, path, len(items) * samples
        self._student = student = None if adapter is None else adapter.fingerprint
        self._part = part = path.with_name(path.name + PART)
        self._asked: list[tuple[Sequence[Item], Waiting]] = []
        self._finished = path.exists()
        if self._finished:
            found = read_jsonl(path, ScoreRow, at_least=self._wanted)
            self._rows = _checked(path, found, items, samples, student)
            return
        sampling = Sampling(config.evaluate.temperature, config.sampling.max_tokens)
        rows = _checked(part, read_jsonl(part, ScoreRow), items, samples, student)
        batches = rollouts.parts(prompt, items, max(1, config.sampling.batch // samples), sampling.max_tokens)
        whole = sum(end * samples <= len(rows) for end in accumulate(map(len, batches)))
        done = samples * sum(map(len, batches[:whole]))
        if len(rows) != done:
            rows = rows[:done]
            write_jsonl(part, rows)
        self._rows = rows
        self._asked = [
            (batch, rollouts.begin(prompt, batch, samples, sampling, "evaluate")) for batch in batches[whole:]
        ]

    def rows(self, progress: Callable[[int, int], None]) -> list[ScoreRow]:
        """The rows of the file, which is finished afterwards; `progress` is called with (rows done, rows in all)."""
        progress(len(self._rows), self._wanted)
        if self._finished:
            return self._rows
        if self._path.exists():  # of the same subject, asked for twice
            return read_jsonl(self._path, ScoreRow, at_least=self._wanted)
        for batch, waiting in self._asked:
            scored = self._rollouts.scored(batch, waiting())
            new: list[ScoreRow] = [{**row.as_dict(), "student": self._student} for row in scored]
            append_jsonl(self._part, new)
            self._rows += new
            progress(len(self._rows), self._wanted)
        with disk_errors(self._path):
            os.replace(self._part, self._path)
        return self._rows


def evaluate(
    config: Config,
    rollouts: Rollouts,
    split: str,
    prompt: str,
    path: Path,
    progress: Callable[[int, int], None],
) -> list[ScoreRow]:
    """`Scoring`, asked for and read."""
    return Scoring(config, rollouts, split, prompt, path).rows(progress)


def _checked(
    path: Path, rows: list[ScoreRow], items: Sequence[Item], samples: int, student: str | None
) -> list[ScoreRow]:
    """The rows, which must be those of the first items in their order, and of this student."""
    if other := {row["student"] for row in rows} - {student}:
        raise damaged(
            path, f"its rows are of {named(other.pop())}, and it is {named(student)} that is scored"
        )
    expected = [(item.id, n) for item in items for n in range(samples)]
    found = [(row["item"], row["sample"]) for row in rows]
    if found != expected[: len(found)]:
        number = next(n for n, key in enumerate(found) if [key] != expected[n : n + 1])
        wanted = expected[number] if number < len(expected) else "none"
        raise damaged(
            path, f"row {number + 1} is of (item, sample) {found[number]}, and {wanted} is due there"
        )
    return rows
