"""An iteration's proposals: from the journal, or from the proposer, asked for all of them at the same time.

GEPA hands all jobs of an iteration to a `ReflectionLM` with `reflect_many`. A reply is written down when it comes, in any order;
proposals are judged in the order of their numbers, so nothing depends on who answers first.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any

from gepa.proposer.reflective_mutation.reflection_lm import ReflectionProposal

from gepa_loop.errors import CallFailed
from gepa_loop.lm.parallel import at_once
from gepa_loop.search.adapter import COMPONENT
from gepa_loop.search.budget import Spent
from gepa_loop.search.failing import check_calls
from gepa_loop.search.feedback import Excerpt, reflective_record
from gepa_loop.search.journal import Proposed
from gepa_loop.search.propose.base import Example, Proposal, Proposer
from gepa_loop.search.propose.refusal import Rules
from gepa_loop.search.propose.reply import whole
from gepa_loop.search.scorer import Scorer
from gepa_loop.task.items import Item
from gepa_loop.task.prompts import Candidate, normalise

Job = tuple[dict[str, str], dict[str, list[dict[str, Any]]], list[str]]
"""GEPA's: the parent, its reflective dataset, the components to rewrite."""


@dataclass(frozen=True)
class Asked:
    """What a proposal is made from."""

    parent: Candidate
    minibatch: tuple[Item, ...]


class Reflector:
    """GEPA's `ReflectionLM` on a `Proposer`.

    Args:
        proposer: Who writes new prompts.
        scorer: Whose completions it reads.
        rules: What a proposal must be.
        seed_prompt: The first text that is known.
    """

    def __init__(self, proposer: Proposer, scorer: Scorer, rules: Rules, seed_prompt: str) -> None:
        self.asked: list[Asked] = []
        """What this search's proposals were made from, by number."""
        self.failure: Exception | None = None
        """What GEPA would swallow; raised again between two iterations."""
        self._proposer = proposer
        self._scorer = scorer
        self._journal = scorer.journal
        self._known = {seed_prompt}
        """Texts that are candidates or were refused."""
        self._excerpt = Excerpt(scorer.rollouts.renderer.tokenizer, scorer.settings.excerpt_tokens)
        self._rules = rules

    def reflect(self, *job: Any) -> tuple[ReflectionProposal, Reflector]:
        """`reflect_many` of one: what GEPA falls back on where that raises."""
        if self.failure is not None:
            raise self.failure
        return self.reflect_many([job])[0]

    def reflect_many(self, jobs: Sequence[Job]) -> list[tuple[ReflectionProposal, Reflector]]:
        """The next proposals, one for each job; without a text where it is refused or failed."""
        try:
            entries = self._next([_asked(job) for job in jobs])
        except Exception as error:
            # GEPA logs what a proposer raises, goes on and ends as if all were well.
            self.failure = error
            raise
        return [(ReflectionProposal(_texts(entry)), self) for entry in entries]

    def _next(self, asked: Sequence[Asked]) -> list[Proposed]:
        first = len(self.asked)
        numbered = dict(enumerate(asked, first))
        missing = {n: one for n, one in numbered.items() if n not in self._journal.proposals}
        if missing:
            self._ask(missing, set(numbered) - set(missing))
        entries = [self._judged(number) for number in numbered]
        for number in missing:
            check_calls(self._proposer.name, [self._journal.proposals[n] for n in range(number + 1)])
        for entry in entries:
            self._scorer.meter.add(Spent(proposals=1, usd=entry["usd"], seconds=entry["seconds"]))
        self.asked += asked
        return entries

    def _ask(self, missing: dict[int, Asked], there: set[int]) -> None:
        """Ask for proposals at the same time, and write each down when it comes.

        Args:
            missing: Number -> what it is made from.
            there: Numbers of the same iteration that are in the journal.
        """
        self._scorer.read([(one.parent, one.minibatch) for one in missing.values()])
        # What a proposer that asks nobody should not draw again; it is asked for one proposal after the other.
        drawn = self._known | {normalise(self._journal.proposals[number]["text"]) for number in there}
        # Read here: tokenizers are for one thread at a time.
        read = {number: self._examples(one) for number, one in missing.items()}
        calls = [partial(self._said, n, one.parent, read[n], drawn) for n, one in missing.items()]
        stop, begun, failure = Event(), time.perf_counter(), None
        # Those under way when one fails are paid, so they are waited for.
        for _, ended in at_once(calls, self._proposer.parallel, stop):
            if isinstance(ended, BaseException):
                failure = failure or ended
                stop.set()
                continue
            now = time.perf_counter()
            self._journal.add_proposal({**ended, "seconds": now - begun})
            drawn.add(normalise(ended["text"]))
            begun = now
        if failure is not None:
            raise failure

    def _examples(self, asked: Asked) -> list[Example]:
        rows = self._journal.rows
        return [
            reflective_record(item, rows[asked.parent.id, item.id], self._excerpt) for item in asked.minibatch
        ]

    def _said(self, number: int, parent: Candidate, examples: Sequence[Example], drawn: set[str]) -> Proposed:
        """What the proposer says, or why it says nothing, and what that cost."""
        name = self._proposer.name
        try:
            made = self._proposer.propose(parent.text, examples, number, drawn)
        except CallFailed as error:
            made = Proposal("", error.usd, f"asked {name}", failed=str(error))
        return {
            "number": number,
            "parent": parent.id,
            "proposer": name,
            "text": whole(made.text),
            "usd": made.usd,
            "how": whole(made.how),
            "cut": made.cut,
            "failed": None if made.failed is None else whole(made.failed),
            "reply": whole(made.reply),
            "input_tokens": made.input_tokens,
            "output_tokens": made.output_tokens,
            "seconds": 0.0,
        }

    def _judged(self, number: int) -> Proposed:
        """A proposal of the journal with its text as a candidate's and why it is refused, of which a decided one tells."""
        entry = self._journal.proposals[number]
        if "refused" not in entry:
            text = normalise(entry["text"])
            tokens = self._scorer.rollouts.renderer.prompt_tokens(text)
            refused = (
                None if entry["failed"] else self._rules.refusal(text, tokens, self._known, entry["cut"])
            )
            entry |= {"id": Candidate(text).id, "text": text, "tokens": tokens, "refused": refused}
        self._known.add(entry["text"])
        return entry


def _asked(job: Job) -> Asked:
    candidate, dataset, _ = job
    return Asked(Candidate(candidate[COMPONENT]), tuple(entry["item"] for entry in dataset[COMPONENT]))


def _texts(entry: Proposed) -> dict[str, str]:
    return {} if entry["refused"] or entry["failed"] else {COMPONENT: entry["text"]}
