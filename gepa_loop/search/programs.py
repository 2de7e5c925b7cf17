"""DSPy's GEPA adapter on our sampler: whole batches of several candidates in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dspy import Prediction
from dspy.teleprompt.gepa.gepa_utils import DspyAdapter
from gepa.core.adapter import EvaluationBatch

from gepa_loop.search.adapter import program, prompt_of
from gepa_loop.search.budget import Spent
from gepa_loop.search.propose.base import Proposer
from gepa_loop.search.scorer import Scorer
from gepa_loop.task.items import Item
from gepa_loop.task.prompts import Candidate


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
    """DSPy's GEPA adapter, with evaluation replaced by a `Scorer`.

    GEPA hands it the parents of an iteration together, then the children, then the accepted ones. Proposals are not its
    business: where an adapter makes them, GEPA asks for one after the other.

    Args:
        scorer: Has candidates answer items.
        aids: Who watches.
    """

    propose_new_texts = None

    def __init__(self, scorer: Scorer, aids: Aids) -> None:
        self.scorer = scorer
        self.aids = aids
        self._pareto = {item.id for item in scorer.rollouts.task.splits["pareto"]}
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
        return self.batch_evaluate([(candidate, batch)], capture_traces=capture_traces)[0]

    def batch_evaluate(
        self, items: Sequence[tuple[dict[str, str], list[Any]]], *, capture_traces: bool = True
    ) -> list[EvaluationBatch]:
        """Score each candidate on its batch, all together."""
        wanted = [
            (prompt_of(self.build_program(candidate)), [entry.item for entry in batch])
            for candidate, batch in items
        ]
        self.scorer.score(wanted)
        self.aids.progress(self.scorer.meter.spent)
        return [self._evaluation(prompt, asked, capture_traces) for prompt, asked in wanted]

    def make_reflective_dataset(
        self,
        candidate: dict[str, str],  # noqa: ARG002 (the signature is DSPy's)
        eval_batch: EvaluationBatch,
        components_to_update: list[str],
    ) -> dict[str, list[Any]]:
        """The items of a minibatch, each once: what is said of them is made where it is known whether anybody reads it."""
        # GEPA fills an epoch's last minibatch with copies.
        items = dict.fromkeys(trajectory["item"] for trajectory in eval_batch.trajectories)
        return {component: [{"item": item} for item in items] for component in components_to_update}

    def _evaluation(self, prompt: Candidate, items: Sequence[Item], capture_traces: bool) -> EvaluationBatch:
        objectives = None
        if self._pareto.issuperset(item.id for item in items):
            measured = self.scorer.measured(prompt, items)
            objectives = [measured.objectives(item.id) for item in items]
        return EvaluationBatch(
            outputs=[Prediction(answer=self._answer(prompt.id, item.id)) for item in items],
            scores=[self.scorer.mean(prompt, item) for item in items],
            trajectories=[{"item": item} for item in items] if capture_traces else None,
            objective_scores=objectives,
        )

    def _answer(self, candidate: str, item: str) -> str:
        rows = self.scorer.journal.rows.get((candidate, item))
        return rows[0].completion if rows else ""
