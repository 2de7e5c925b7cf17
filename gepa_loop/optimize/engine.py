"""The GEPA run: whole batches in one sampler call, and a journal from which a killed run is replayed.

GEPA itself keeps no file here. Its search is a function of the seed, the scores and the proposals; scores and
proposals are journalled as they come, so running it again over the journal makes the same decisions without
sampling or asking again, and goes on where the journal ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gepa
from dspy import Prediction
from dspy.teleprompt.gepa.gepa_utils import DspyAdapter, LoggerAdapter
from gepa.core.adapter import EvaluationBatch
from gepa.gepa_utils import find_dominator_programs

from gepa_loop.config import Config, check_budget, iteration_rollouts
from gepa_loop.errors import BudgetReached
from gepa_loop.optimize.adapter import COMPONENT, disable_caches, example, program, prompt_of, save_program
from gepa_loop.optimize.journal import Journal
from gepa_loop.optimize.proposer import Proposal, Proposer, excerpt, refusal
from gepa_loop.prompts import Candidate, normalise
from gepa_loop.rollouts import Rollouts, Row
from gepa_loop.runs import derive_seed, read_jsonl, write_jsonl, write_text
from gepa_loop.sampling.base import Sampling
from gepa_loop.task import Item

PURPOSE = "gepa"
"""Names the random numbers of GEPA's rollouts, which all candidates share."""


@dataclass(frozen=True)
class Front:
    """Prompts that no other dominates on `pareto`, the best mean first."""

    candidates: tuple[Candidate, ...]
    means: tuple[float, ...]
    """Mean scores on `pareto`; the winner's is optimistic, since it was chosen on it."""
    rollouts: int
    """Completions sampled."""
    usd: float
    stopped_by: str


@dataclass
class Spent:
    """What the search has used so far: the same after a replay as without one, so stops come at the same place."""

    rollouts: int = 0
    proposals: int = 0
    usd: float = 0.0
    seconds: float = 0.0


class BatchedAdapter(DspyAdapter):  # type: ignore[misc]
    """DSPy's GEPA adapter with two parts replaced: evaluation by one sampler call, proposals by a `Proposer`.

    Args:
        config: The run's configuration.
        rollouts: Where completions come from.
        proposer: Who writes new prompts.
        journal: What is paid for already.
        progress: Called with what is spent after each evaluation.
    """

    def __init__(
        self,
        config: Config,
        rollouts: Rollouts,
        proposer: Proposer,
        journal: Journal,
        progress: Callable[[Spent], None],
    ) -> None:
        self.settings = config.optimize
        self.sampling = Sampling(config.optimize.temperature, config.sampling.max_tokens)
        self.rollouts = rollouts
        self.proposer = proposer
        self.journal = journal
        self.progress = progress
        self.spent = Spent()
        self._used: set[tuple[str, str]] = set()
        self.refused: list[dict[str, Any]] = []
        self.known: set[str] = set()
        self.failure: Exception | None = None
        super().__init__(
            student_module=program(Candidate("unused")),
            metric_fn=lambda *_: 0.0,
            feedback_map={COMPONENT: _feedback},
        )

    def evaluate(
        self,
        batch: list[Any],
        candidate: dict[str, str],
        capture_traces: bool = False,
        num_threads: int | None = None,  # noqa: ARG002 (the signature is DSPy's)
    ) -> EvaluationBatch:
        """Score a candidate on a batch; items it has been scored on are read from the journal."""
        predict = self.build_program(candidate)
        prompt = prompt_of(predict)
        self.known.add(prompt.text)
        items = [entry.item for entry in batch]
        missing = list({i.id: i for i in items if (prompt.id, i.id) not in self.journal.scored}.values())
        if missing:
            start = time.perf_counter()
            rows = self.rollouts.rows(prompt.text, missing, self.settings.samples, self.sampling, PURPOSE)
            self.journal.add_rows(prompt.id, rows, time.perf_counter() - start)
        scored = [self._use(prompt.id, item.id) for item in items]
        self.progress(self.spent)
        scores = [sum(row.score for row in rows) / len(rows) for rows in scored]
        predictions = [Prediction(answer=_shown(rows).completion) for rows in scored]
        trajectories = None
        if capture_traces:
            trajectories = [
                {
                    "trace": [(predict, {"question": entry.item.question}, prediction)],
                    "example": entry.copy(row=_shown(rows)),
                    "prediction": prediction,
                    "score": score,
                }
                for entry, rows, prediction, score in zip(batch, scored, predictions, scores, strict=True)
            ]
        return EvaluationBatch(outputs=predictions, scores=scores, trajectories=trajectories)

    def _use(self, candidate: str, item: str) -> list[Row]:
        scored = self.journal.scored[candidate, item]
        if (candidate, item) not in self._used:
            self._used.add((candidate, item))
            self.spent.rollouts += len(scored.rows)
            self.spent.seconds += scored.seconds
        return scored.rows

    def batch_evaluate(
        self, items: Sequence[tuple[dict[str, str], list[Any]]], *, capture_traces: bool = True
    ) -> list[EvaluationBatch]:
        """`evaluate` of each pair, in order."""
        return [self.evaluate(batch, candidate, capture_traces) for candidate, batch in items]

    def make_reflective_dataset(
        self, candidate: dict[str, str], eval_batch: EvaluationBatch, components_to_update: list[str]
    ) -> dict[str, list[dict[str, Any]]]:
        """DSPy's records, with completions cut to an excerpt and the kind of failure named."""
        dataset: dict[str, list[dict[str, Any]]] = super().make_reflective_dataset(
            candidate, eval_batch, components_to_update
        )
        rows = [trajectory["example"].row for trajectory in eval_batch.trajectories]
        for record, row in zip(dataset[COMPONENT], rows, strict=True):
            record["Generated Outputs"] = {"answer": excerpt(row.completion)}
            record["Failure"] = failure_of(row)
        return dataset

    def propose_new_texts(
        self,
        candidate: dict[str, str],
        reflective_dataset: dict[str, list[dict[str, Any]]],
        components_to_update: list[str],  # noqa: ARG002 (the signature is DSPy's)
    ) -> dict[str, str]:
        """The next proposal, from the journal or from the proposer; {} when it is refused."""
        parent, number = candidate[COMPONENT], self.spent.proposals
        if number < len(self.journal.proposals):
            entry = self.journal.proposals[number]
        else:
            start = time.perf_counter()
            try:
                made = self.proposer.propose(parent, reflective_dataset[COMPONENT], number)
            except Exception as error:
                # GEPA logs what a proposer raises, goes on and ends as if all were well; the stopper raises it again.
                self.failure = error
                raise
            entry = self._entry(made, parent, time.perf_counter() - start)
            self.journal.add_proposal(entry)
        self.spent.proposals += 1
        self.spent.usd += entry["usd"]
        self.spent.seconds += entry["seconds"]
        text = entry["text"]
        self.known.add(text)
        if entry["refused"]:
            self.refused.append(entry)
            return {}
        return {COMPONENT: text}

    def _entry(self, made: Proposal, parent: str, seconds: float) -> dict[str, Any]:
        text = normalise(made.text)
        count = len(self.rollouts.renderer.tokenizer(text)["input_ids"])
        why = refusal(text, self.known, lambda _: count, self.settings.max_prompt_tokens)
        return {
            "id": Candidate(text).id,
            "text": text,
            "parent": Candidate(parent).id,
            "proposer": self.proposer.name,
            "how": made.how,
            "refused": why,
            "usd": made.usd,
            "seconds": seconds,
        }


def _shown(rows: Sequence[Row]) -> Row:
    """The sample that stands for an item in a reflection: its first failure, else its first."""
    return next((row for row in rows if row.score < 1.0), rows[0])


def failure_of(row: Row) -> str | None:
    """What went wrong: `cut`, `format`, `content`, or None for a full score."""
    if row.score >= 1.0:
        return None
    if row.finish_reason == "length":
        return "cut"
    return "format" if row.extracted is None else "content"


def _feedback(module_inputs: Any, **_: Any) -> Prediction:
    row = module_inputs.row
    return Prediction(score=row.score, feedback=row.feedback)


class _Budget:
    """GEPA's stop condition. It stops before an iteration that could overshoot, and raises what GEPA swallowed."""

    def __init__(self, config: Config, adapter: BatchedAdapter, iteration_rollouts: int) -> None:
        self.settings = config.optimize
        self.adapter = adapter
        self.iteration_rollouts = iteration_rollouts
        self.idle = 0
        self.before = 0
        self.reason = ""

    def __call__(self, state: Any) -> bool:  # noqa: ARG002 (the signature is GEPA's)
        if self.adapter.failure is not None:
            raise self.adapter.failure
        spent, settings = self.adapter.spent, self.settings
        self.idle = self.idle + 1 if spent.rollouts == self.before else 0
        self.before = spent.rollouts
        if spent.rollouts + self.iteration_rollouts > settings.max_rollouts:
            self.reason = f"rollouts: {spent.rollouts} of {settings.max_rollouts}"
        elif spent.usd >= settings.max_usd > 0:
            self.reason = f"usd: {spent.usd:.2f} of {settings.max_usd:.2f}"
        elif spent.seconds >= settings.max_minutes * 60:
            self.reason = f"minutes: {spent.seconds / 60:.1f} of {settings.max_minutes:g}"
            if not spent.proposals:
                raise BudgetReached(
                    f"optimize.max_minutes = {settings.max_minutes:g} was reached before the first proposal",
                    "Raise it with --set and start again with --fresh.",
                )
        elif self.idle >= IDLE_ITERATIONS:
            self.reason = f"nothing new in {IDLE_ITERATIONS} iterations"
        return bool(self.reason)


IDLE_ITERATIONS = 20
"""Iterations without a rollout after which a search ends: every minibatch is perfect, or every proposal refused."""


def optimize(
    config: Config,
    rollouts: Rollouts,
    proposer: Proposer,
    seed_prompt: Candidate,
    folder: Path,
    progress: Callable[[Spent], None],
    seed: int,
) -> Front:
    """Evolve prompts from `seed_prompt` with GEPA and write the front.

    Args:
        config: The run's configuration.
        rollouts: Where completions come from; its sampler holds the model that the prompts are for.
        proposer: Who writes new prompts.
        seed_prompt: Where the search starts.
        folder: Gets candidates.jsonl, front.jsonl, prompts/<id>.txt, programs/<id>.json and gepa/ (the journal).
        progress: Called with what is spent after each evaluation.
        seed: The search's own seed.

    Raises:
        ConfigError: `max_rollouts` allows no proposal.
        BudgetReached: `max_minutes` was reached before the first proposal.
        ReflectionError: The reflection model cannot be used.
    """
    if (folder / "front.jsonl").exists():
        return _read_front(folder)
    check_budget(config)
    disable_caches()
    journal = Journal(folder / "gepa")
    adapter = BatchedAdapter(config, rollouts, proposer, journal, progress)
    budget = _Budget(config, adapter, iteration_rollouts(config))
    result = gepa.optimize(
        seed_candidate={COMPONENT: seed_prompt.text},
        trainset=[example(item) for item in rollouts.task.splits["train"]],
        valset=[example(item) for item in rollouts.task.splits["pareto"]],
        adapter=adapter,
        reflection_minibatch_size=config.optimize.minibatch,
        stop_callbacks=[budget],
        logger=LoggerAdapter(logging.getLogger("gepa_loop.optimize")),
        seed=derive_seed(seed, "gepa") % 2**32,
    )
    _write_candidates(folder, result, adapter, rollouts.task.splits["pareto"])
    front = _front(result)[: config.optimize.max_front]
    for index in front:
        prompt = Candidate(result.candidates[index][COMPONENT])
        write_text(folder / "prompts" / f"{prompt.id}.txt", prompt.text)
        save_program(folder / "programs" / f"{prompt.id}.json", prompt)
    write_jsonl(
        folder / "front.jsonl",
        [
            {
                "id": Candidate(result.candidates[index][COMPONENT]).id,
                "text": result.candidates[index][COMPONENT],
                "pareto_mean": result.val_aggregate_scores[index],
                "rollouts": adapter.spent.rollouts,
                "usd": adapter.spent.usd,
                "stopped_by": budget.reason,
            }
            for index in front
        ],
    )
    return _read_front(folder)


def _front(result: Any) -> list[int]:
    """Candidates that no other dominates, the best mean first; of equal means the earlier."""
    scores = result.val_aggregate_scores
    kept = find_dominator_programs(result.per_val_instance_best_candidates, scores)
    return sorted(kept, key=lambda index: (-scores[index], index))


def _read_front(folder: Path) -> Front:
    rows = read_jsonl(folder / "front.jsonl")
    return Front(
        tuple(Candidate(row["text"]) for row in rows),
        tuple(row["pareto_mean"] for row in rows),
        rows[0]["rollouts"],
        rows[0]["usd"],
        rows[0]["stopped_by"],
    )


def _write_candidates(folder: Path, result: Any, adapter: BatchedAdapter, pareto: Sequence[Item]) -> None:
    """candidates.jsonl: every text that was proposed, accepted or not, with its per-item scores by sample."""
    accepted = {c[COMPONENT]: index for index, c in enumerate(result.candidates)}
    front = set(_front(result))
    made = {entry["text"]: entry for entry in reversed(adapter.journal.proposals) if not entry["refused"]}
    rows = []
    for text in [result.candidates[0][COMPONENT], *(e["text"] for e in adapter.journal.proposals)]:
        entry = made.pop(text, {})
        index = accepted.pop(text, None)
        if index is None and not entry:
            continue
        id_ = Candidate(text).id
        scores = {
            item: [r.score for r in s.rows] for (c, item), s in adapter.journal.scored.items() if c == id_
        }
        rows.append(
            {
                "id": id_,
                "text": text,
                "parents": [entry["parent"]] if entry else [],
                "proposer": entry.get("proposer", "seed"),
                "how": entry.get("how", "the seed prompt"),
                "status": "front" if index in front else "accepted" if index is not None else "rejected",
                "reason": None if index is not None else "no better than its parent on its minibatch",
                "pareto_mean": None if index is None else result.val_aggregate_scores[index],
                "pareto_scores": {i.id: scores[i.id] for i in pareto if i.id in scores},
                "train_scores": {i: s for i, s in scores.items() if i not in {p.id for p in pareto}},
            }
        )
    for entry in adapter.refused:
        rows.append(
            {
                "id": entry["id"],
                "text": entry["text"],
                "parents": [entry["parent"]],
                "proposer": entry["proposer"],
                "how": entry["how"],
                "status": "refused",
                "reason": entry["refused"],
                "pareto_mean": None,
                "pareto_scores": {},
                "train_scores": {},
            }
        )
    write_jsonl(folder / "candidates.jsonl", rows)
