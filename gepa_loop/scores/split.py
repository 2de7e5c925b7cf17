"""Score a (prompt, adapter) pair on a split: one JSONL row for each (item, sample)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

from gepa_loop.config.whole import Config
from gepa_loop.run.files import append_jsonl, disk_errors, read_jsonl, write_jsonl
from gepa_loop.run.marks import PART, damaged, named
from gepa_loop.sampling.base import Sampling
from gepa_loop.scores.records import ScoreRow
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.task.items import Item


def evaluate(
    config: Config,
    rollouts: Rollouts,
    split: str,
    prompt: str,
    path: Path,
    progress: Callable[[int, int], None],
) -> list[ScoreRow]:
    """Rows of every item of a split; common random numbers make them comparable item by item.

    Args:
        config: The run's configuration.
        rollouts: Where completions come from.
        split: Name of the split.
        prompt: The prompt's text; empty for none.
        path: The finished file. While it is being made it is `<name>.part`, from which a killed run goes on;
            batches are always the same ones, so the rows are too.
        progress: Called with (rows done, rows in all).

    Returns:
        The rows of the file.

    Raises:
        RunDirectoryError: A file of an earlier process has not the rows of these items and this adapter, or not as they
            were written.
    """
    items = rollouts.task.splits[split]
    adapter, samples = rollouts.adapter, config.evaluate.samples
    student = None if adapter is None else adapter.fingerprint
    if path.exists():
        found = read_jsonl(path, ScoreRow, at_least=len(items) * samples)
        progress(len(found), len(found))
        return _checked(path, found, items, samples, student)
    part = path.with_name(path.name + PART)
    sampling = Sampling(config.evaluate.temperature, config.sampling.max_tokens)
    rows = _checked(part, read_jsonl(part, ScoreRow), items, samples, student)
    batches = rollouts.parts(prompt, items, max(1, config.sampling.batch // samples), sampling.max_tokens)
    whole = sum(end * samples <= len(rows) for end in accumulate(map(len, batches)))
    done = samples * sum(map(len, batches[:whole]))
    if len(rows) != done:
        rows = rows[:done]
        write_jsonl(part, rows)
    progress(len(rows), len(items) * samples)
    for batch in batches[whole:]:
        scored = rollouts.rows(prompt, batch, samples, sampling, "evaluate")
        new: list[ScoreRow] = [{**row.as_dict(), "student": student} for row in scored]
        append_jsonl(part, new)
        rows += new
        progress(len(rows), len(items) * samples)
    with disk_errors(path):
        os.replace(part, path)
    return rows


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
