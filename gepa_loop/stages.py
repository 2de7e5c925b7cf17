"""The stages as the commands run them: a search, a distillation, a paired comparison, each seen by an observer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gepa_loop.evaluate import evaluate
from gepa_loop.lab import Lab
from gepa_loop.lora import Adapter, read_adapter
from gepa_loop.prompts import NO_PROMPT, Candidate, read_prompt
from gepa_loop.runs import Run, derive_seed, write_json
from gepa_loop.select import Difference, Estimate, difference, estimate, item_scores

if TYPE_CHECKING:
    from gepa_loop.distill.trainer import Distilled
    from gepa_loop.optimize.engine import Front, Spent


class Observer(Protocol):
    """Watches a run; the terminal's live view is one."""

    def stage(self, name: str, *, round: int | None = None, candidate: str | None = None) -> None:
        """A stage begins."""
        ...

    def progress(self, done: int, total: int, **facts: Any) -> None:
        """The stage has done `done` of `total`; `facts` are named values worth showing."""
        ...

    def note(self, text: str) -> None:
        """A line worth keeping."""
        ...


def scores(
    lab: Lab, split: str, prompt: str, adapter: Adapter | None, path: Path, observer: Observer
) -> dict[str, float]:
    """Each item's score with a prompt and an adapter; the rows go to `path`."""
    return item_scores(evaluate(lab.config, lab.rollouts, split, prompt, adapter, path, observer.progress))


def search(
    lab: Lab, seed_prompt: Candidate, folder: Path, observer: Observer, *, number: int, stack: Adapter | None
) -> Front:
    """GEPA's search of round `number` for prompts that help the base with `stack`."""
    from gepa_loop.optimize.engine import optimize
    from gepa_loop.optimize.proposer import make_proposer

    settings = lab.config.optimize
    observer.stage("optimize", round=number)
    lab.rollouts.sampler.set_student(stack)
    seed = derive_seed(lab.config.seed, "optimize", number)
    has_key = bool(os.environ.get("ANTHROPIC_API_KEY"))
    proposer = make_proposer(settings.reflection, lab.task.splits["train"], seed, has_key)
    observer.note(f"reflection: {proposer.about}")

    def progress(spent: Spent) -> None:
        observer.progress(
            spent.rollouts, settings.max_rollouts, candidates=spent.proposals + 1, usd=spent.usd
        )

    return optimize(lab.config, lab.rollouts, proposer, seed_prompt, folder, progress, seed)


def distil(
    lab: Lab,
    teacher: Candidate,
    folder: Path,
    observer: Observer,
    *,
    number: int | None = None,
    stack: Adapter | None,
    before: float,
    label: str | None = None,
) -> Distilled:
    """Distil one prompt on top of `stack`; `before` is the held-out score of that without a prompt."""
    from gepa_loop.distill.checkpoint import steps_saved
    from gepa_loop.distill.trainer import distill

    settings = lab.config.distill
    observer.stage("distill", round=number, candidate=label or teacher.id)
    if lab.config.objective.type == "grpo":
        observer.note("objective grpo trains on the task reward alone; the prompt is not read")
    if begun := settings.steps if (folder / "result.json").exists() else steps_saved(folder / "checkpoints"):
        observer.note("finished earlier" if begun == settings.steps else f"continuing after step {begun}")
    observer.progress(begun, settings.steps)
    still = 0

    def progress(row: Mapping[str, Any]) -> None:
        nonlocal still
        still += row["grad_norm"] == 0
        observer.progress(
            row["step"], settings.steps, kl=row["reverse_kl"], held_out=row.get("held_out_score")
        )

    done = distill(lab, teacher, folder, stack=stack, before=before, progress=progress)
    if still:
        observer.note(
            f"{still} of {settings.steps} steps had no gradient: no trained token had an advantage or a divergence"
        )
    return done


def distil_alone(
    lab: Lab, teacher: Candidate, run: Run, observer: Observer, label: str | None = None
) -> Distilled:
    """The `distill` command: the held-out score without a prompt, then the distillation; `label` is shown."""
    label = label or teacher.id
    observer.stage("baseline", candidate=label)
    held_out = scores(lab, "pareto", NO_PROMPT, None, run.path / "baseline" / "pareto.jsonl", observer)
    folder = run.path / "distill" / teacher.id
    before = sum(held_out.values()) / len(held_out)
    return distil(lab, teacher, folder, observer, stack=None, before=before, label=label)


@dataclass(frozen=True)
class Subject:
    """A prompt and an adapter that are scored together; either may be missing."""

    candidate: Candidate | None
    adapter: Adapter | None
    label: str

    @property
    def id(self) -> str:
        prompt = "none" if self.candidate is None else self.candidate.id
        return f"{prompt}+{'base' if self.adapter is None else self.adapter.fingerprint}"


def subject(prompt: Path | None, adapter: Path | None) -> Subject:
    """Read the files of a subject.

    Raises:
        PromptError: The prompt cannot be read.
        ModelError: The adapter cannot be read.
    """
    label = f"{adapter or 'base'}, {prompt or 'no prompt'}"
    return Subject(
        None if prompt is None else read_prompt(prompt),
        None if adapter is None else read_adapter(adapter),
        label,
    )


def compare(
    lab: Lab, subjects: Sequence[Subject], split: str, run: Run, observer: Observer
) -> tuple[list[Estimate], Difference | None]:
    """Score subjects on a split, and the first against the second where there are two; writes result.json."""
    found = []
    for one in subjects:
        observer.stage("evaluate", candidate=one.label)
        text = NO_PROMPT if one.candidate is None else one.candidate.text
        path = run.path / "evaluate" / f"{one.id}.jsonl"
        found.append(scores(lab, split, text, one.adapter, path, observer))
    estimates = [estimate(s, lab.config.seed) for s in found]
    paired = difference(found[0], found[1], lab.config.seed) if len(found) == 2 else None
    write_json(
        run.path / "result.json",
        {
            "split": split,
            "subjects": [{"id": one.id, **e.as_dict()} for one, e in zip(subjects, estimates, strict=True)],
            "difference": None if paired is None else paired.as_dict(),
        },
    )
    return estimates, paired
