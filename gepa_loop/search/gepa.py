"""The GEPA run: its decisions made under noise, every one written down, and a search that can be continued.

GEPA keeps no file here and nothing is pickled. Its search is a function of the seed, the scores and the proposals,
which the journal holds; running it again over the journal makes the same decisions without sampling or asking again,
and goes on where the journal ends.
"""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gepa
from dspy.teleprompt.gepa.gepa_utils import LoggerAdapter
from gepa.gepa_utils import select_program_candidate_from_pareto_front
from gepa.strategies.batch_sampler import EpochShuffledBatchSampler
from gepa.strategies.proposal_sampling import IndependentSampling, ProposalTask

from gepa_loop.config.data import SplitSizes
from gepa_loop.config.search import OptimizeConfig
from gepa_loop.config.whole import Config, check_budget, set_aside
from gepa_loop.run.seeds import derive_seed
from gepa_loop.scores.rollouts import Rollouts
from gepa_loop.search.acceptance import shortfall
from gepa_loop.search.adapter import COMPONENT, disable_caches, example
from gepa_loop.search.budget import Progress, Spent, Stop, affordable, reason_to_stop
from gepa_loop.search.decisions import Decisions, Outcome, outcome_of
from gepa_loop.search.failing import no_instruction, useless
from gepa_loop.search.frontier import Measured, best_at
from gepa_loop.search.journal import Journal
from gepa_loop.search.programs import Aids, BatchedAdapter
from gepa_loop.search.propose.refusal import rules_of
from gepa_loop.search.records import CandidateRow
from gepa_loop.search.reflect import Reflector
from gepa_loop.search.scorer import Scorer
from gepa_loop.task.prompts import Candidate


@dataclass(frozen=True)
class Found:
    """Where a search ended."""

    rows: tuple[CandidateRow, ...]
    """Rows of candidates.jsonl of all that were accepted, in order: the seed is the first."""
    stop: Stop
    spent: Spent
    refused: int
    """Proposals that were refused or failed."""


class Minibatches(EpochShuffledBatchSampler):  # type: ignore[misc]
    """GEPA's minibatches, epoch by epoch, for several proposals an iteration.

    GEPA's own (0.1.4) begins each iteration one minibatch further, however many the one before took, so that iterations of
    eight would share seven of theirs.
    """

    def __init__(self, size: int, seed: int) -> None:
        super().__init__(size, random.Random(seed))
        self._drawn = 0

    def next_minibatch_ids(self, loader: Any, state: Any) -> list[Any]:  # noqa: ARG002 (the signature is GEPA's)
        """The next minibatch; the one after an epoch's last is of a new shuffle."""
        # All that GEPA reads of its state here is the number of iterations before, each of one minibatch.
        ids: list[Any] = super().next_minibatch_ids(loader, SimpleNamespace(i=self._drawn))
        self._drawn += 1
        return ids


class _Search:
    """GEPA's decisions: who are parents, who is accepted, and when to stop, where each iteration is written down."""

    def __init__(self, config: Config, scorer: Scorer, reflector: Reflector, seed: int, quote: float) -> None:
        self.settings, self.splits = config.optimize, config.task.splits
        self.scorer = scorer
        self.reflector = reflector
        self.decisions = Decisions(scorer, quote)
        self.pareto = scorer.rollouts.task.splits["pareto"]
        self.random = random.Random(derive_seed(seed, "parents"))
        self.progress = Progress()
        self.stop: Stop | None = None
        self._before: Spent | None = None
        """What was spent when the iteration began; None before the seed is scored."""
        self._shortfalls: dict[str, str | None] = {}
        """Text of a child that was compared with its parent -> why it is no better; None where it is."""

    def sample_tasks(self, state: Any, selector: Any, minibatches: Any, trainset: Any) -> list[ProposalTask]:
        """A parent and a minibatch for each of the next proposals, drawn as GEPA draws one; as many as the budgets can pay."""
        count = affordable(self.settings, self.splits, self.scorer.meter.spent, self._dearest())
        tasks: list[ProposalTask] = IndependentSampling(count).sample_tasks(
            state, selector, minibatches, trainset
        )
        return tasks

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
        text = proposal.candidate[COMPONENT]
        tokens = self.scorer.rollouts.renderer.prompt_tokens
        scores = zip(proposal.subsample_scores_after, proposal.subsample_scores_before, strict=True)
        # GEPA fills an epoch's last minibatch with copies, which would count as further items.
        by_item = dict(zip(proposal.subsample_indices, scores, strict=True))
        child, before = zip(*by_item.values(), strict=True)
        found = shortfall(self.settings, child, before, tokens(text) - tokens(parent))
        self._shortfalls[text] = found
        return found is None

    def reject_reason(self, proposal: Any, state: Any) -> str:  # noqa: ARG002 (the signature is GEPA's)
        """For GEPA's log."""
        return str(self._shortfalls[proposal.candidate[COMPONENT]])

    def __call__(self, state: Any) -> bool:
        """Between two iterations: write down what was decided, and whether to stop."""
        if self.reflector.failure is not None:
            raise self.reflector.failure
        before = self._before or Spent()
        self.decisions.write(self._outcomes(state), before)
        best = max(one.mean for one in self._pool(state))
        spent = self._before = self.scorer.meter.spent
        self.progress = self.progress.after(spent.rollouts > before.rollouts, best)
        self.stop = reason_to_stop(self.settings, self.splits, spent, self.progress, self._dearest())
        return self.stop is not None

    def _outcomes(self, state: Any) -> list[Outcome]:
        """What became of this iteration's proposals; of the seed in the first place."""
        if self._before is None:
            return [Outcome(Candidate(state.program_candidates[0][COMPONENT]))]
        proposals = self.scorer.journal.proposals
        numbers = range(self._before.proposals, self.scorer.meter.spent.proposals)
        return [
            outcome_of(self.reflector.asked[n], proposals[n], self._shortfalls.get(proposals[n]["text"]))
            for n in numbers
        ]

    def _dearest(self) -> float:
        """US dollars that a proposal may cost: as was found before, or what the dearest so far has cost.

        The journal may hold later ones than this search has come to, and a replay must stop where it did.
        """
        proposals = self.scorer.journal.proposals
        paid = (proposals[n]["usd"] for n in range(self.scorer.meter.spent.proposals))
        return max([self.decisions.quote, *paid])

    def _pool(self, state: Any) -> list[Measured]:
        return [self.scorer.measured(Candidate(c[COMPONENT]), self.pareto) for c in state.program_candidates]


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
    scorer = Scorer(config, rollouts, journal)
    shown = rollouts.task.splits["train"][: set_aside(settings, splits)]
    rules = rules_of(settings, rollouts, scorer.sampling.max_tokens, shown, seed_prompt.text)
    reflector = Reflector(aids.proposer, scorer, rules, seed_prompt.text)
    search = _Search(config, scorer, reflector, seed, aids.quote_usd)
    gepas = derive_seed(seed, "gepa") % 2**32
    # What is decided is written down by the stopper: an exception of a callback is logged and lost (gepa 0.1.4). And not its
    # `cache_evaluation`, which knows items by their places, so that those of train and val are taken for each other.
    gepa.optimize(
        seed_candidate={COMPONENT: seed_prompt.text},
        trainset=trainset(settings, splits, rollouts),
        valset=[example(item) for item in rollouts.task.splits["pareto"]],
        adapter=BatchedAdapter(scorer, aids),
        reflection_strategy=reflector,
        candidate_selection_strategy=search,
        sampling_strategy=search,
        batch_sampler=Minibatches(settings.minibatch, gepas),
        acceptance_criterion=search,
        frontier_type=settings.frontier_type,
        stop_callbacks=[search],
        logger=LoggerAdapter(logging.getLogger("gepa_loop.search")),
        track_best_outputs=False,
        seed=gepas,
    )
    made = [journal.proposals[number] for number in range(scorer.meter.spent.proposals)]
    if made and all(map(useless, made)):
        raise no_instruction(aids.proposer.name, made)
    assert search.stop is not None, "nothing else ends a search"
    return Found(
        tuple(row for row in journal.decided if row["status"] == "accepted"),
        search.stop,
        scorer.meter.spent,
        sum(row["status"] in ("refused", "failed") for row in journal.decided),
    )


def trainset(settings: OptimizeConfig, splits: SplitSizes, rollouts: Rollouts) -> list[Any]:
    """The items of `train` that minibatches are drawn from: all but those set aside for worked examples."""
    items = rollouts.task.splits["train"]
    return [example(item) for item in items[set_aside(settings, splits) :]]
