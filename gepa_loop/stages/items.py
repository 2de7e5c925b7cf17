"""The items of `test` as a page shows them: what was asked and expected, and where student and prompted model disagree."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gepa_loop.lab import Lab
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.run.files import append_jsonl, disk_errors, read_jsonl
from gepa_loop.run.marks import PART
from gepa_loop.sampling.base import Completion, Sampling
from gepa_loop.scores.card import Replies
from gepa_loop.scores.statistics import item_scores
from gepa_loop.stages.observer import Observer
from gepa_loop.stages.records import ItemRow
from gepa_loop.task.items import Item
from gepa_loop.task.prompts import NO_PROMPT, Renderer

FILE = "items.jsonl"
READ = 200
"""Items whose replies are read token by token, those first that the student lost. Two forward passes of each, and the greedy reply once
more, whose tokens no file has."""
BATCH = 32
"""Items that are written at a time."""


@dataclass(frozen=True)
class Compared:
    """A student and what it is compared with."""

    prompt: str
    """The teacher's."""
    below: Adapter | None
    """The earlier rounds' adapter, which reads the prompt; None is the base alone."""
    student: Adapter
    """The whole student's."""
    prompted: Replies
    """Greedy ones of the prompted model on `test`."""
    own: Replies
    """The student's."""


def write_items(lab: Lab, compared: Compared | None, folder: Path, observer: Observer) -> list[ItemRow]:
    """Write items.jsonl into a run, unless it is there; a killed process goes on behind its last row.

    Args:
        lab: Of the run.
        compared: Whose replies are read; None where no student was tested.
        folder: The run's.
        observer: Sees the progress.

    Returns:
        The rows of the file.
    """
    path, part = folder / FILE, folder / f"{FILE}{PART}"
    items = list(lab.task.splits["test"])
    student = None if compared is None else compared.student.fingerprint
    if compared is not None:
        items = worst_first(items, compared.prompted, compared.own)
    done = _rows(path, items, student)
    if len(done) == len(items):
        return done
    rows = _rows(part, items, student)
    if not rows:
        part.unlink(missing_ok=True)
    if compared is not None and len(rows) < (read := min(READ, len(items))):
        observer.stage("test: items")
        observer.progress(len(rows), read)
        for new in _read(lab, compared, items[:read], len(rows)):
            append_jsonl(part, new)
            rows += new
            observer.progress(len(rows), read)
    rest = [_row(item, student) for item in items[len(rows) :]]
    append_jsonl(part, rest)
    with disk_errors(path):
        os.replace(part, path)
    return [*rows, *rest]


def worst_first(items: Sequence[Item], prompted: Replies, own: Replies) -> list[Item]:
    """Items by how far the student's score is behind the prompted model's, and then by its own; equal ones in their order."""
    theirs, mine = item_scores(prompted.rows), item_scores(own.rows)
    return sorted(items, key=lambda item: (mine[item.id] - theirs[item.id], mine[item.id]))


def _rows(path: Path, items: Sequence[Item], student: str | None) -> list[ItemRow]:
    """Rows of an earlier process; none where they are of another student: a loop that goes on has one."""
    rows = read_jsonl(path, ItemRow)
    ids = [item.id for item in items[: len(rows)]]
    same = [row["item"] for row in rows] == ids and {row["student"] for row in rows} <= {student}
    return rows if same else []


def _read(lab: Lab, compared: Compared, items: Sequence[Item], start: int) -> Iterator[list[ItemRow]]:
    from gepa_loop.training.disagreement import opened

    rollouts = lab.rollouts.by(compared.student)
    sampling = Sampling(0.0, lab.config.sampling.max_tokens)
    replies = {row["item"]: row["completion"] for row in compared.own.rows}
    rest = items[start:]
    completions = list[Completion]()
    for batch in rollouts.parts(NO_PROMPT, rest, lab.config.sampling.batch, sampling.max_tokens):
        completions += rollouts.completions(NO_PROMPT, batch, 1, sampling, "evaluate")
    rollouts.sampler.sleep()  # what it gives back counts as free
    with opened(lab, compared.prompt, compared.below, compared.student, items) as distance:
        for first in range(0, len(rest), BATCH):
            own, theirs = rest[first : first + BATCH], completions[first : first + BATCH]
            rows = []
            for item, completion, nats in zip(own, theirs, distance.read(own, theirs), strict=True):
                texts = pieces(rollouts.renderer, completion.token_ids)
                # Not so where an engine's sums depend on the batch around a reply, or a tokenizer's text on more than its neighbours.
                same = "".join(texts) == replies[item.id]
                rounded = [round(max(0.0, value), 4) for value in nats]
                rows.append(
                    _row(item, compared.student.fingerprint, texts if same else [], rounded if same else [])
                )
            yield rows


def _row(item: Item, student: str | None, texts: Sequence[str] = (), nats: Sequence[float] = ()) -> ItemRow:
    return {
        "item": item.id,
        "turns": [{"role": role, "content": content} for role, content in item.messages],
        "answer": item.answer,
        "student": student,
        "pieces": list(texts),
        "nats": list(nats),
    }


def pieces(renderer: Renderer, tokens: Sequence[int]) -> list[str]:
    """The text that each token adds to a reply; empty while a character of several tokens is not whole, and for a stop token.

    Each is decoded behind the one before it, as what a token means depends on whether it is the first.
    """
    found, before, whole = list[str](), 0, 0
    for end in range(1, len(tokens) + 1):
        known, now = renderer.reply(tokens[before:whole]), renderer.reply(tokens[before:end])
        if len(now) <= len(known) or (now.endswith("\ufffd") and end < len(tokens)):
            found.append("")
            continue
        found.append(now[len(known) :])
        before, whole = whole, end
    return found
