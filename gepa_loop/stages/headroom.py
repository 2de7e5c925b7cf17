"""Whether a prompt does anything that a student could keep: said before anything is trained."""

from __future__ import annotations

from statistics import fmean

from gepa_loop.lab import Lab
from gepa_loop.run.directory import Run
from gepa_loop.scores.numbers import decimal, gain_text, p_sentence
from gepa_loop.scores.statistics import ItemScores, difference, item_scores
from gepa_loop.stages.counts import has_headroom
from gepa_loop.stages.observer import Observer
from gepa_loop.stages.score import scores
from gepa_loop.task.prompts import Candidate


def note_headroom(lab: Lab, candidate: Candidate, bare: ItemScores, run: Run, observer: Observer) -> None:
    """Score the prompted model on `pareto` and say what the prompt does there; warn where that may be nothing.

    Args:
        lab: Of the run.
        candidate: The prompt.
        bare: What the model has on `pareto` without it.
        run: Its directory; rows go to baseline/pareto_prompted.jsonl.
        observer: Is told.
    """
    if lab.task.answers != "given" or not has_headroom(lab.config):
        return
    observer.stage("baseline with the prompt", candidate=candidate.id)
    path = run.path / "baseline" / "pareto_prompted.jsonl"
    prompted = item_scores(scores(lab, "pareto", candidate.text, None, path, observer))
    gain = difference(prompted, bare, lab.config.seed)
    told = (
        f"{decimal(fmean(bare.values()))} without a prompt on the {len(bare)} items of pareto, "
        f"{decimal(fmean(prompted.values()))} with it: {gain_text(gain.as_dict())}, {p_sentence(gain.p)}"
    )
    if gain.ci[0] > 0:
        observer.note(told)
        return
    observer.note(
        f"warning: {told}. The prompt may do nothing for this model, and a student keeps no more than its prompt gives. "
        "`gepa-loop check` shows replies; a larger model follows prompts better (model.name)"
    )
