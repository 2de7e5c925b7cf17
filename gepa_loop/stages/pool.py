"""Which prompts of a round have students: those that help, on the items on which the students race."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gepa_loop.config.recipe import reads_prompt
from gepa_loop.lab import Lab
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.scores.split import Scoring
from gepa_loop.scores.statistics import ItemScores, as_array, item_scores, mean, mean_difference
from gepa_loop.stages.observer import Observer
from gepa_loop.stages.score import scoring
from gepa_loop.task.prompts import NO_PROMPT, Candidate


@dataclass(frozen=True)
class Pool:
    """What a search has handed on, scored as `evaluate` says."""

    split: str
    """Where: `race`, or `pareto` where that has no items."""
    candidates: tuple[Candidate, ...]
    """Prompts that have a student, as the search has ranked them."""
    prompted: Mapping[str, ItemScores]
    """Prompt -> its own scores; of all that were handed on, or of none where the objective reads no prompt."""
    why: Mapping[str, str]
    """Prompt -> why it has no student, in words."""

    @property
    def best(self) -> str:
        """The prompt that scores best itself."""
        means = {id_: mean(as_array(own)) for id_, own in self.prompted.items()}
        return max(means, key=lambda id_: means[id_]) if means else self.candidates[0].id


def open_pool(
    lab: Lab, candidates: Sequence[Candidate], folder: Path, observer: Observer, stack: Adapter | None
) -> Pool:
    """Score prompts on the items of their students' race, and leave out those that do not help.

    Args:
        lab: That of the round.
        candidates: What its search handed on, best first.
        folder: Of the round; rows go to baseline/<split>.jsonl and race/prompts/<id>.jsonl.
        observer: Watches.
        stack: The earlier rounds' adapters.
    """
    config, number = lab.config, lab.rollouts.round
    split = "race" if lab.task.splits["race"] else "pareto"
    if not reads_prompt(config.distill, config.objective):
        first, *others = candidates
        reason = f"objective {config.objective.type} reads no prompt: its student would be that of {first.id}"
        return Pool(split, (first,), {}, {one.id: reason for one in others})

    def asked(prompt: str, name: str) -> Scoring:
        return scoring(lab, split, prompt, stack, folder / f"{name}.jsonl")

    bare = asked(NO_PROMPT, f"baseline/{split}")
    own = {one.id: asked(one.text, f"race/prompts/{one.id}") for one in candidates}
    observer.stage(f"baseline on {split}", round=number)
    base = item_scores(bare.rows(observer.progress))
    prompted, why = dict[str, ItemScores](), dict[str, str]()
    for candidate in candidates:
        observer.stage(f"prompt on {split}", round=number, candidate=candidate.id)
        prompted[candidate.id] = item_scores(own[candidate.id].rows(observer.progress))
        gap = mean_difference(prompted[candidate.id], base)
        if gap <= config.loop.min_gap:
            why[candidate.id] = (
                f"no teacher gap: the prompt changes the score by {gap:+z.3f} on {len(base)} items of {split}"
            )
            observer.note(f"{candidate.id} is skipped: {why[candidate.id]}")
    return Pool(split, tuple(one for one in candidates if one.id not in why), prompted, why)
