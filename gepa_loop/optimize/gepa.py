"""The GEPA run: its decisions made under noise, every one written down, and a search that can be continued.

GEPA keeps no file here and nothing is pickled. Its search is a function of the seed, the scores and the proposals,
which the journal holds; running it again over the journal makes the same decisions without sampling or asking again,
and goes on where the journal ends.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import gepa
from dspy.teleprompt.gepa.gepa_utils import LoggerAdapter
from gepa.gepa_utils import select_program_candidate_from_pareto_front

from gepa_loop.config.search import OptimizeConfig
from gepa_loop.config.tables import SplitSizes
from gepa_loop.config.whole import Config, check_budget, set_aside
from gepa_loop.errors import RunDirectoryError
from gepa_loop.optimize.acceptance import shortfall
from gepa_loop.optimize.adapter import COMPONENT, disable_caches, example
from gepa_loop.optimize.budget import Progress, Spent, reason_to_stop
from gepa_loop.optimize.frontier import Measured, best_at, undominated
from gepa_loop.optimize.journal import Journal, Proposed
from gepa_loop.optimize.programs import Aids, BatchedAdapter, no_instruction, useless
from gepa_loop.optimize.records import CandidateRow, Status
from gepa_loop.run.seeds import derive_seed
from gepa_loop.scores.records import ObjectivesRecord
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.task.items import Item
from gepa_loop.task.prompts import Candidate


@dataclass(frozen=True)
class Found:
    """Where a search ended."""

    rows: tuple[CandidateRow, ...]
    """Rows of candidates.jsonl of the finalists: the seed, then the best of the front on `pareto`, best first; `max_front`
    at most."""
    stopped_by: str
    spent: Spent
    refused: int
    """Proposals that were refused or failed."""


class _Search:
    """GEPA's three decisions (who is a parent, who is accepted, when to stop), and the record of each iteration."""

    def __init__(
        self, settings: OptimizeConfig, splits: SplitSizes, adapter: BatchedAdapter, seed: int, quote: float
    ) -> None:
        self.settings = settings
        self.splits = splits
        decided = adapter.journal.decided
        # The first process's: at another price a replay would stop where the record goes on.
        self.quote = decided[0]["quote_usd"] if decided else quote
        self.adapter = adapter
        self.train = [entry.item for entry in trainset(settings, splits, adapter.rollouts)]
        self.pareto = adapter.rollouts.task.splits["pareto"]
        self.random = random.Random(derive_seed(seed, "parents"))
        self.progress = Progress()
        self.stopped_by = ""
        self._before = Spent()
        self._accepted = 0
        self._minibatch: list[Item] = []
        self._shortfall: str | None = None

    def select_candidate_idx(self, state: Any) -> int:
        """The parent: a candidate of the front by posterior means, the likelier the more keys it leads."""
        pool = self._pool(state)
        fronts = best_at(self.settings.frontier_type, pool, self.settings.samples)
        chosen: int = select_program_candidate_from_pareto_front(
            fronts, [one.mean for one in pool], self.random
        )
        return chosen

    def should_accept(self, proposal: Any, state: Any) -> bool:
        """Whether a child is better than its parent on its minibatch, by `optimize.accept`."""
        parent = state.program_candidates[proposal.parent_program_ids[0]][COMPONENT]
        tokens = self.adapter.rollouts.renderer.prompt_tokens
        more = tokens(proposal.candidate[COMPONENT]) - tokens(parent)
        scores = zip(proposal.subsample_scores_after, proposal.subsample_scores_before, strict=True)
        # GEPA fills an epoch's last minibatch with copies, which would count as further items.
        by_item = dict(zip(proposal.subsample_indices, scores, strict=True))
        self._minibatch = [self.train[n] for n in by_item]
        child, before = zip(*by_item.values(), strict=True)
        self._shortfall = shortfall(self.settings, child, before, more)
        return self._shortfall is None

    def reject_reason(self, *_: Any) -> str:
        """For GEPA's log."""
        return str(self._shortfall)

    def __call__(self, state: Any) -> bool:
        """Between two iterations: write down what was decided, and whether to stop."""
        if self.adapter.failure is not None:
            raise self.adapter.failure
        accepted = len(state.program_candidates)
        if accepted > self._accepted:
            self._record(state.program_candidates[-1][COMPONENT])
        elif self.adapter.spent.proposals > self._before.proposals:
            self._record(None)
        best = max(one.mean for one in self._pool(state))
        spent = self.adapter.spent
        self.progress = self.progress.after(spent.rollouts > self._before.rollouts, best)
        self._accepted, self._before = accepted, Spent(**asdict(spent))
        journal = self.adapter.journal
        # Of the proposals that this search has come to; the journal may hold later ones, and a replay must stop where it did.
        dearest = max([self.quote, *(entry["usd"] for entry in journal.proposals[: spent.proposals])])
        self.stopped_by = reason_to_stop(self.settings, self.splits, spent, self.progress, dearest) or ""
        return bool(self.stopped_by)

    def _pool(self, state: Any) -> list[Measured]:
        return [self.adapter.measured(Candidate(c[COMPONENT]), self.pareto) for c in state.program_candidates]

    def _record(self, accepted: str | None) -> None:
        """Write one row of candidates.jsonl: the seed, or this iteration's proposal and what became of it."""
        adapter, journal = self.adapter, self.adapter.journal
        number = adapter.spent.proposals
        entry = journal.proposals[number - 1] if number else None
        text = accepted if entry is None else entry["text"]
        assert text is not None, "the seed is accepted first of all"
        prompt = Candidate(text)
        status, reason = self._fate(entry, accepted)
        minibatch = self._minibatch if entry and status in ("accepted", "rejected") else []
        if number < len(journal.decided):
            parents = [] if entry is None else [entry["parent"]]
            self._continue_from(journal.decided[number], prompt, status, parents, minibatch)
            return
        spent, before, scores = adapter.spent.as_dict(), self._before, journal.scores
        measured = adapter.measured(prompt, self.pareto) if status == "accepted" else None
        row: CandidateRow = {
            "number": number,
            "id": prompt.id,
            "text": prompt.text,
            "tokens": adapter.rollouts.renderer.prompt_tokens(prompt.text),
            "parents": [] if entry is None else [entry["parent"]],
            "proposer": "seed" if entry is None else entry["proposer"],
            "how": "the seed prompt" if entry is None else entry["how"],
            "reply": "" if entry is None else entry["reply"],
            "status": status,
            "reason": reason,
            "parent_scores": {}
            if entry is None
            else {i.id: scores[entry["parent"], i.id] for i in minibatch},
            "train_scores": {i.id: scores[prompt.id, i.id] for i in minibatch},
            "pareto_scores": {} if measured is None else {i.id: scores[prompt.id, i.id] for i in self.pareto},
            "pareto_tokens": {} if measured is None else dict(measured.completion_tokens),
            "pareto_mean": None if measured is None else measured.mean,
            "objectives": None if measured is None else _objectives(measured),
            "cost": {
                "rollouts": spent["rollouts"] - before.rollouts,
                "usd": entry["usd"] if entry else 0,
                "input_tokens": entry["input_tokens"] if entry else 0,
                "output_tokens": entry["output_tokens"] if entry else 0,
                "seconds": spent["seconds"] - before.seconds,
            },
            "spent": spent,
            "quote_usd": self.quote,
        }
        journal.decide(row)

    def _fate(self, entry: Proposed | None, accepted: str | None) -> tuple[Status, str | None]:
        """What became of a proposal, or of the seed, and why it is not accepted."""
        if entry is None or accepted is not None:
            return "accepted", None
        if entry["failed"]:
            return "failed", entry["failed"]
        if entry["refused"]:
            return "refused", entry["refused"]
        return "rejected", self._shortfall

    def _continue_from(
        self,
        row: CandidateRow,
        prompt: Candidate,
        status: Status,
        parents: Sequence[str],
        minibatch: Sequence[Item],
    ) -> None:
        """A row that an earlier process wrote: the same decision, and its time is what that process needed."""
        written = row["id"], row["status"], row["parents"], set(row["train_scores"])
        if written != (prompt.id, status, list(parents), {item.id for item in minibatch}):
            raise RunDirectoryError(
                f"{self.adapter.journal.candidates}: number {row['number']} is {row['id']} ({row['status']}), "
                f"and the search makes {prompt.id} ({status}) of it, or of other items",
                "The file was changed, or gepa/ beside it is gone and completions came out otherwise. "
                "Start again with --fresh.",
            )
        self.adapter.spent.seconds = row["spent"]["seconds"]


def _objectives(measured: Measured) -> ObjectivesRecord:
    tokens = measured.completion_tokens
    return {
        "score": measured.mean,
        "prompt_tokens": measured.prompt_tokens,
        "completion_tokens": sum(tokens.values()) / len(tokens),
    }


def optimize(
    config: Config,
    rollouts: Rollouts,
    aids: Aids,
    seed_prompt: Candidate,
    folder: Path,
    seed: int,
) -> Found:
    """Evolve prompts from `seed_prompt` with GEPA, until a cap is reached.

    Args:
        config: The run's configuration.
        rollouts: Where completions come from, by the model that the prompts are for.
        aids: Who writes prompts and watches.
        seed_prompt: Where the search starts.
        folder: Gets candidates.jsonl and gepa/ (what is not decided yet), and is continued from them.
        seed: The search's own seed.

    Raises:
        ConfigError: `max_rollouts` allows no proposal.
        BudgetReached: `max_minutes` was reached before the first proposal.
        ProviderError: The reflection model cannot be used, failed too often, or none of its replies held an instruction.
        RunDirectoryError: candidates.jsonl is not of this search.
    """
    settings, splits = config.optimize, config.task.splits
    check_budget(settings, splits)
    disable_caches()
    journal = Journal(folder)
    adapter = BatchedAdapter(config, rollouts, aids, journal, seed_prompt.text)
    search = _Search(settings, splits, adapter, seed, aids.quote_usd)
    # What is decided is written down by the stopper: an exception of a callback is logged and lost (gepa 0.1.4). And not its
    # `cache_evaluation`, which knows items by their places, so that those of train and val are taken for each other.
    gepa.optimize(
        seed_candidate={COMPONENT: seed_prompt.text},
        trainset=trainset(settings, splits, rollouts),
        valset=[example(item) for item in rollouts.task.splits["pareto"]],
        adapter=adapter,
        candidate_selection_strategy=search,
        acceptance_criterion=search,
        frontier_type=settings.frontier_type,
        reflection_minibatch_size=settings.minibatch,
        stop_callbacks=[search],
        logger=LoggerAdapter(logging.getLogger("gepa_loop.optimize")),
        track_best_outputs=False,
        seed=derive_seed(seed, "gepa") % 2**32,
    )
    if journal.proposals and all(map(useless, journal.proposals)):
        raise no_instruction(aids.proposer.name, journal.proposals)
    accepted = [row for row in journal.decided if row["status"] == "accepted"]
    pool = [adapter.measured(Candidate(row["text"]), search.pareto) for row in accepted]
    front = undominated(settings.frontier_type, pool, settings.samples)
    best = max(range(len(pool)), key=lambda n: (pool[n].mean, -n))
    chosen = [n for n in dict.fromkeys((best, *front)) if n > 0][: settings.max_front - 1]
    return Found(
        tuple(accepted[n] for n in (0, *chosen)),
        search.stopped_by,
        adapter.spent,
        sum(row["status"] in ("refused", "failed") for row in journal.decided),
    )


def trainset(settings: OptimizeConfig, splits: SplitSizes, rollouts: Rollouts) -> list[Any]:
    """The items of `train` that minibatches are drawn from: all but those set aside for worked examples."""
    items = rollouts.task.splits["train"]
    return [example(item) for item in items[set_aside(settings, splits) :]]
