"""DSPy's GEPA adapter on our sampler: whole batches in one call, nothing sampled or asked twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from dspy import Prediction
from dspy.teleprompt.gepa.gepa_utils import DspyAdapter
from gepa.core.adapter import EvaluationBatch

from gepa_loop.config.search import OptimizeConfig
from gepa_loop.config.whole import Config, set_aside
from gepa_loop.errors import CallFailed, PromptError, ProviderError
from gepa_loop.optimize.adapter import COMPONENT, program, prompt_of
from gepa_loop.optimize.budget import Spent
from gepa_loop.optimize.feedback import Excerpt, reflective_record
from gepa_loop.optimize.frontier import Measured
from gepa_loop.optimize.journal import Journal, Proposed
from gepa_loop.optimize.propose.base import Example, Proposal, Proposer
from gepa_loop.optimize.propose.refusal import CUT, UNREAD, CopyGuard, Rules
from gepa_loop.optimize.propose.reply import shown, whole
from gepa_loop.sampling.base import Sampling
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.task.items import SPLITS, Item
from gepa_loop.task.prompts import Candidate, normalise

PURPOSE = "gepa"
"""Names the random numbers of GEPA's rollouts, which all candidates share."""

WINDOW = 20
"""Calls of the reflection model of which more than 5 % may not fail, over restarts."""

USELESS = 5
"""Replies in a row without a whole instruction that end a search."""


@dataclass(frozen=True)
class Aids:
    """What a search has beside the model that its prompts are for."""

    proposer: Proposer
    """Who writes new prompts."""
    progress: Callable[[Spent], None] = lambda _: None
    """Called with what is spent after each evaluation."""
    quote_usd: float = 0.0
    """US dollars that a proposal may cost; the search ends where that could pass `max_usd`."""


class BatchedAdapter(DspyAdapter):  # type: ignore[misc]
    """DSPy's GEPA adapter with two parts replaced: evaluation by one sampler call, proposals by a `Proposer`.

    Args:
        config: The run's configuration.
        rollouts: Where completions come from.
        aids: Who writes prompts and watches.
        journal: What is paid for already.
        seed_prompt: What proposals may quote, whatever it holds.
    """

    def __init__(
        self,
        config: Config,
        rollouts: Rollouts,
        aids: Aids,
        journal: Journal,
        seed_prompt: str = "",
    ) -> None:
        settings = self.settings = config.optimize
        self.sampling = Sampling(settings.temperature, config.sampling.max_tokens)
        self.items_per_call = max(1, config.sampling.batch // settings.samples)
        self.rollouts = rollouts
        self.aids = aids
        self.journal = journal
        self.spent = Spent()
        self.known: set[str] = set()
        self.failure: Exception | None = None
        """What GEPA would swallow; raised again between two iterations."""
        self.excerpt = Excerpt(rollouts.renderer.tokenizer, settings.excerpt_tokens)
        shown = rollouts.task.splits["train"][: set_aside(settings, config.task.splits)]
        self.rules = _rules(settings, shown, self.sampling.max_tokens, rollouts, seed_prompt)
        self._pareto = {item.id for item in rollouts.task.splits["pareto"]}
        self._used: set[tuple[str, str]] = set()
        # DSPy's adapter builds programs here; what it would score them with is never called.
        super().__init__(
            student_module=program(Candidate("unused")), metric_fn=lambda *_: 0.0, feedback_map={}
        )

    def evaluate(
        self,
        batch: list[Any],
        candidate: dict[str, str],
        capture_traces: bool = False,
        num_threads: int | None = None,  # noqa: ARG002 (the signature is DSPy's)
    ) -> EvaluationBatch:
        """Score a candidate on a batch; what the journal knows is not sampled again."""
        prompt = prompt_of(self.build_program(candidate))
        self.known.add(prompt.text)
        items = [entry.item for entry in batch]
        # Completions are read only where a new proposal may be asked for.
        asks = capture_traces and self.spent.proposals >= len(self.journal.proposals)
        known = self.journal.rows if asks else self.journal.scores
        self.sample(prompt, [item for item in items if (prompt.id, item.id) not in known])
        for item in items:
            self._count(prompt.id, item.id)
        self.aids.progress(self.spent)
        scores = [_mean(self.journal.scores[prompt.id, item.id]) for item in items]
        outputs = [Prediction(answer=self._answer(prompt.id, item.id)) for item in items]
        objectives = None
        if self._pareto.issuperset(item.id for item in items):
            measured = self.measured(prompt, items)
            objectives = [measured.objectives(item.id) for item in items]
        trajectories = [{"item": item} for item in items] if capture_traces else None
        return EvaluationBatch(
            outputs=outputs, scores=scores, trajectories=trajectories, objective_scores=objectives
        )

    def sample(self, prompt: Candidate, items: Sequence[Item]) -> None:
        """Sample and score items, a part at a time, so that little is lost when the process dies."""
        missing = list({item.id: item for item in items}.values())
        for part in self.rollouts.parts(prompt.text, missing, self.items_per_call, self.sampling.max_tokens):
            begun = time.perf_counter()
            rows = self.rollouts.rows(prompt.text, part, self.settings.samples, self.sampling, PURPOSE)
            self.journal.add_rows(prompt.id, rows, time.perf_counter() - begun)

    def batch_evaluate(
        self, items: Sequence[tuple[dict[str, str], list[Any]]], *, capture_traces: bool = True
    ) -> list[EvaluationBatch]:
        """`evaluate` of each pair, in order."""
        return [self.evaluate(batch, candidate, capture_traces) for candidate, batch in items]

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: EvaluationBatch, components_to_update: list[str]
    ) -> dict[str, list[Example]]:
        """What the reflection reads: DSPy's records with our feedback. Empty where the proposal is known already."""
        if self.spent.proposals < len(self.journal.proposals):
            return {component: [] for component in components_to_update}
        id_ = Candidate(candidate[COMPONENT]).id
        # GEPA fills an epoch's last minibatch with copies.
        items = dict.fromkeys(trajectory["item"] for trajectory in eval_batch.trajectories)
        try:
            records = [
                reflective_record(item, self.journal.rows[id_, item.id], self.excerpt) for item in items
            ]
        except Exception as error:
            self.failure = error
            raise
        return dict.fromkeys(components_to_update, records)

    def propose_new_texts(
        self,
        candidate: dict[str, str],
        reflective_dataset: dict[str, list[Example]],
        components_to_update: list[str],  # noqa: ARG002 (the signature is DSPy's)
    ) -> dict[str, str]:
        """The next proposal, from the journal or from the proposer; {} when it is refused."""
        number = self.spent.proposals
        if self.failure is not None:
            raise self.failure  # GEPA asks once more after an exception
        asks = number == len(self.journal.proposals)
        try:
            if asks:
                said = self._ask(candidate[COMPONENT], reflective_dataset[COMPONENT], number)
                self.journal.add_proposal(said)
            entry = self._judged(number)
            if asks:
                self._end_where_calls_fail()
        except Exception as error:
            # GEPA logs what a proposer raises, goes on and ends as if all were well.
            self.failure = error
            raise
        self.spent.proposals += 1
        self.spent.usd += entry["usd"]
        self.spent.seconds += entry["seconds"]
        self.known.add(entry["text"])
        return {} if entry["refused"] or entry["failed"] else {COMPONENT: entry["text"]}

    def measured(self, prompt: Candidate, items: Sequence[Item]) -> Measured:
        """What is known of a prompt on items that it has been scored on."""
        return Measured(
            {item.id: _mean(self.journal.scores[prompt.id, item.id]) for item in items},
            {item.id: self.journal.tokens[prompt.id, item.id] for item in items},
            self.rollouts.renderer.prompt_tokens(prompt.text),
        )

    def _ask(self, parent: str, examples: Sequence[Example], number: int) -> Proposed:
        """What the proposer says, or why it says nothing, and what that cost."""
        begun = time.perf_counter()
        try:
            made = self.aids.proposer.propose(parent, examples, number, self.known)
        except CallFailed as error:
            made = Proposal("", error.usd, f"asked {self.aids.proposer.name}", failed=str(error))
        return {
            "number": number,
            "parent": Candidate(parent).id,
            "proposer": self.aids.proposer.name,
            "text": whole(made.text),
            "usd": made.usd,
            "how": whole(made.how),
            "cut": made.cut,
            "failed": None if made.failed is None else whole(made.failed),
            "reply": whole(made.reply),
            "input_tokens": made.input_tokens,
            "output_tokens": made.output_tokens,
            "seconds": time.perf_counter() - begun,
        }

    def _judged(self, number: int) -> Proposed:
        """A proposal of the journal with its text as a candidate's and why it is refused, of which a decided one tells."""
        entry = self.journal.proposals[number]
        if "refused" not in entry:
            text = normalise(entry["text"])
            tokens = self.rollouts.renderer.prompt_tokens(text)
            refused = None if entry["failed"] else self.rules.refusal(text, tokens, self.known, entry["cut"])
            entry |= {"id": Candidate(text).id, "text": text, "tokens": tokens, "refused": refused}
        return entry

    def _end_where_calls_fail(self) -> None:
        """Raise where the last call is one failure too many; calls of an earlier process count like this one's."""
        proposals = self.journal.proposals
        calls = [entry["failed"] for entry in proposals[-WINDOW:]]
        failures = [cause for cause in calls if cause]
        # Not after a call that went well: a search that is continued begins with the failures that ended it in its window.
        if calls[-1] and len(failures) > 0.05 * WINDOW:
            raise ProviderError(
                f"{len(failures)} of the last {len(calls)} calls of {self.aids.proposer.name} failed; "
                f"the first: {failures[0]}",
                "What was finished is saved; run the same command again to continue.",
            )
        in_a_row = list(takewhile(useless, reversed(proposals)))[::-1]
        if len(in_a_row) >= USELESS:
            raise no_instruction(self.aids.proposer.name, in_a_row)

    def _count(self, candidate: str, item: str) -> None:
        """An item of a candidate is paid once."""
        if (candidate, item) not in self._used:
            self._used.add((candidate, item))
            self.spent.rollouts += len(self.journal.scores[candidate, item])
            self.spent.seconds += self.journal.seconds.get((candidate, item), 0.0)

    def _answer(self, candidate: str, item: str) -> str:
        rows = self.journal.rows.get((candidate, item))
        return rows[0].completion if rows else ""


def _rules(
    settings: OptimizeConfig, shown: Sequence[Item], max_tokens: int, rollouts: Rollouts, seed_prompt: str
) -> Rules:
    """What a proposal must keep to; worked examples show the items `shown`, which it may quote."""
    splits, renderer = rollouts.task.splits, rollouts.renderer
    items = [item for name in SPLITS for item in splits[name] if item not in shown]
    longest = max(items, key=lambda item: sum(len(content) for _, content in item.messages))

    def fits(text: str) -> str | None:
        try:
            renderer.check(text, [longest], max_tokens, "unusable")
        except PromptError as error:
            return str(error)
        return None

    return Rules(
        settings.max_prompt_tokens,
        CopyGuard(items, settings.max_copied, (seed_prompt, *(item.question for item in shown))),
        fits,
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def useless(entry: Proposed) -> bool:
    """Whether a proposal's reply held no whole instruction, or there was none."""
    return bool(entry["failed"]) or str(entry["refused"]).startswith((CUT, UNREAD))


def no_instruction(model: str, entries: Sequence[Proposed]) -> ProviderError:
    """The error of a model whose replies hold no instruction."""
    first = entries[0]
    return ProviderError(
        f"{len(entries)} replies of {model} in a row held no whole instruction; "
        f"the first ({first['failed'] or first['refused']}): {shown(first['reply'])}",
        "Choose another model with optimize.reflection.model, or raise optimize.reflection.max_tokens if replies are cut. "
        "The replies are in optimize/candidates.jsonl and optimize/gepa/proposals.jsonl.",
    )
