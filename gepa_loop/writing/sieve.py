"""More questions of a task's kind, as text: what their writer is shown, what is read of its replies, and what is dropped."""

from __future__ import annotations

import itertools
import json
import string
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from gepa_loop.errors import PromptError, TaskError
from gepa_loop.task.items import SPLITS, Task
from gepa_loop.task.prompts import Renderer
from gepa_loop.task.records import Item, Messages, item_of

ID = "written:"
"""What ids of written questions begin with."""

AROUND = frozenset(string.punctuation)
"""Beside Unicode's punctuation: some of these are symbols to it."""

LONGER = 4
"""A written question has at most so many times the characters of the longest of `train`."""


@dataclass(frozen=True)
class Kind:
    """What a question of a task must be to be trained on."""

    renderer: Renderer
    prompt: str
    """The teacher's."""
    room: int
    """Tokens that prompt and question may take together."""
    before: Messages
    """The turns before the question, which all items of `train` share."""
    longest: int
    """Characters of the longest question of `train`."""
    lines: bool
    """Some question of `train` has several lines."""
    known: Mapping[str, str]
    """Each question of the task as `normal` has it -> its split."""

    def item(self, id: str, question: str) -> Item:
        """The item of a written question; it has no answer."""
        turns = [{"role": role, "content": content} for role, content in (*self.before, ("user", question))]
        return item_of(id, {"question": turns}, id)

    def refusal(self, question: str, written: Mapping[str, str]) -> str:
        """Why a question cannot be used, in words that can be counted; empty where it can.

        Args:
            question: The text.
            written: Those that are kept already, as `normal` has them -> anything.
        """
        key = normal(question)
        if not key:
            return "empty"
        if key in self.known:
            return f"a question of {self.known[key]}"
        if key in written:
            return "written before"
        if len(question) > LONGER * self.longest:
            return f"over {LONGER} times as long as the longest of train"
        if any(
            c == "\ufffd" or (unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t") for c in question
        ):
            return "broken characters"
        try:
            self.renderer.refuse_special_tokens([question], "")
        except PromptError:
            return "a special token inside"
        if len(self.renderer.tokens(self.prompt, self.item("", question))) > self.room:
            return "too long for the model's context"
        return ""


def kind_of(task: Task, renderer: Renderer, prompt: str, room: int) -> Kind:
    """What more questions of a task must be like.

    Args:
        task: Of the run.
        renderer: The model's.
        prompt: The teacher's.
        room: As `Kind` has it.

    Raises:
        TaskError: Items of `train` have different turns before their questions.
    """
    train = task.splits["train"]
    before = train[0].messages[:-1]
    other = next((item for item in train if item.messages[:-1] != before), None)
    if other is not None:
        raise TaskError(
            f"distill.questions: the turns before the question differ between items {train[0].id} and {other.id}, and a written "
            "question would follow none of them",
            "Questions can be written where all items begin with the same turns, or with none.",
        )
    # Those that judge come last: a question that is in two splits' words would be named as theirs.
    known = {
        normal(item.question): f"a later round's {split}"
        for part in task.later
        for split, items in part.items()
        for item in items
    }
    known |= {normal(item.question): split for split in SPLITS for item in task.splits[split]}
    questions = [item.question for item in train]
    return Kind(
        renderer,
        prompt,
        room,
        before,
        max(map(len, questions)),
        any("\n" in question.strip() for question in questions),
        known,
    )


def normal(question: str) -> str:
    """A question's text for comparison: without case, white space, marks that cannot be seen, what is another form of the same
    letter, and the punctuation of any script around it."""
    text = unicodedata.normalize("NFKC", question).casefold()
    text = " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split())
    return text.strip("".join(c for c in set(text) if c in AROUND or unicodedata.category(c)[0] in "PZ"))


def shown(items: Sequence[Item], seed: int, count: int) -> list[str]:
    """The questions of at most `count` items, drawn by a seed."""
    return [item.question.strip() for item in Random(seed).sample(items, min(count, len(items)))]


def as_list(questions: Sequence[str]) -> str:
    """A numbered list that ends where the next question begins."""
    return "".join(f"{n}. {text}\n" for n, text in enumerate(questions, 1)) + f"{len(questions) + 1}."


def read_list(text: str, first: int, *, lines: bool, ended: bool) -> list[str]:
    """The whole questions of a text that goes on with a list at number `first`.

    Args:
        text: What the model wrote.
        first: Number of its first question.
        lines: A question may have several lines; else it ends with its line, and the list where something else follows.
        ended: The text ends where the model ended it; else it was cut, and its last question with it.
    """
    found = []
    for number in itertools.count(first + 1):
        one, following, text = text.partition(f"\n{number}.")
        line, end, rest = one.partition("\n")
        left = bool(rest.strip()) and not lines
        if following or ended or (end and not lines):
            found.append((one if lines else line).strip())
        if left or not following:
            return found
    raise AssertionError("counting has no end")


def read_json(text: str) -> list[str]:
    """The texts of a reply that is a JSON list of them, or has one in each line; what is none is passed over."""
    start, end = text.find("["), text.rfind("]")
    whole = _texts([text[start : end + 1]]) if start >= 0 else []
    # A list that was cut is read like lines.
    return whole or _texts(line.strip().lstrip("[").rstrip(",") for line in text.splitlines())


def _texts(parts: Iterable[str]) -> list[str]:
    found: list[str] = []
    for part in parts:
        try:
            value = json.loads(part)
        except (ValueError, RecursionError):
            continue
        found += [
            one.strip() for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)
        ]
    return found
