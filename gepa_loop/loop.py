"""The loop: search prompts, distil each, score the students without a prompt, keep the best, go on.

Each round writes one directory and is a function of what the round before returned. Every stage is done when
its output file exists, so the same command continues a run wherever it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gepa_loop.config import Config
from gepa_loop.evaluate import evaluate
from gepa_loop.lab import Lab
from gepa_loop.lora import Adapter, read_adapter, stack_adapters, write_adapter
from gepa_loop.prompts import NO_PROMPT, Candidate, read_prompt
from gepa_loop.runs import Run, derive_seed, read_json, write_json
from gepa_loop.select import (
    Contender,
    Difference,
    Estimate,
    Verdict,
    decide,
    difference,
    estimate,
    internalisation,
    item_scores,
)

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


@dataclass(frozen=True)
class RoundOutcome:
    """What a round hands to the next."""

    verdict: Verdict
    stack: Adapter | None
    """Adapters of all rounds so far, as one."""
    adapter: Path | None
    """Where that stack lies."""
    best_prompt: Candidate
    """The winner's prompt; without a winner the one that prompts best."""
    summary: Mapping[str, Any]
    """This round's part of result.json."""


def run_loop(lab: Lab, seed_prompt: Candidate, run: Run, observer: Observer) -> dict[str, Any]:
    """Run all rounds, score `test` once, and write result.json; returns its content."""
    if (run.path / "result.json").exists():
        return read_json(run.path / "result.json")
    outcomes: list[RoundOutcome] = []
    stack, adapter = None, None
    for number in range(lab.config.loop.rounds):
        run.event("round", round=number)
        outcome = run_round(lab, seed_prompt, run, observer, number, stack, adapter)
        observer.note(f"round {number}: {outcome.verdict.reason}")
        outcomes.append(outcome)
        stack, adapter = outcome.stack, outcome.adapter
    last = next((o for o in reversed(outcomes) if o.verdict.winner), outcomes[-1])
    test = run_test(lab, run, observer, last.best_prompt, stack)
    result = {
        "status": "done" if stack else "null",
        "seed": lab.config.seed,
        "adapter": None if adapter is None else os.path.relpath(adapter, run.path),
        "prompt": f"round_{last.summary['round']:02d}/optimize/prompts/{last.best_prompt.id}.txt",
        "rounds": [outcome.summary for outcome in outcomes],
        **test,
    }
    write_json(run.path / "result.json", result)
    run.event("done", status=result["status"])
    return read_json(run.path / "result.json")


def run_round(
    lab: Lab,
    seed_prompt: Candidate,
    run: Run,
    observer: Observer,
    number: int,
    stack: Adapter | None,
    stack_path: Path | None,
) -> RoundOutcome:
    """One round on top of the earlier rounds' adapters: baseline, search, distil, evaluate, decide."""
    from gepa_loop.distill.trainer import distill

    config, rollouts = lab.config, lab.rollouts
    folder = run.path / f"round_{number:02d}"

    def scores(name: str, split: str, prompt: str, adapter: Adapter | None) -> dict[str, float]:
        rows = evaluate(config, rollouts, split, prompt, adapter, folder / f"{name}.jsonl", observer.progress)
        return item_scores(rows)

    # 1. Where we stand, without a prompt.
    observer.stage("baseline", round=number)
    base = scores("baseline/select", "select", NO_PROMPT, stack)
    held_out = scores("baseline/pareto", "pareto", NO_PROMPT, stack)
    before = sum(held_out.values()) / len(held_out)

    # 2. Prompts that help this model.
    front = search(lab, seed_prompt, folder / "optimize", observer, number=number, stack=stack)
    run.event("front", round=number, ids=[c.id for c in front.candidates], stopped_by=front.stopped_by)

    # 3. Each prompt's effect, moved into an adapter.
    contenders, students = [], {}
    for candidate in front.candidates:
        observer.stage("prompted", round=number, candidate=candidate.id)
        prompted = scores(f"evaluate/{candidate.id}_prompted", "select", candidate.text, stack)
        gap = difference(prompted, base)
        if gap.mean <= config.loop.min_gap:
            why = f"no teacher gap: the prompt changes the score by {gap.mean:+.3f} on {len(base)} items"
            contenders.append(Contender(candidate.id, prompted, None, why))
            observer.note(f"{candidate.id} is skipped: {why}")
            continue
        observer.stage("distill", round=number, candidate=candidate.id)
        distilled = distill(
            config,
            lab.base,
            rollouts,
            candidate,
            folder / "distill" / candidate.id,
            stack=stack,
            before=before,
            progress=_training_progress(config, observer),
        )
        students[candidate.id] = distilled.adapter
        observer.stage("student", round=number, candidate=candidate.id)
        whole = _stacked(stack, distilled.adapter)
        student = scores(f"evaluate/{candidate.id}", "select", NO_PROMPT, whole)
        contenders.append(Contender(candidate.id, prompted, student, None))

    # 4. The decision, and the stack with the winner on top.
    verdict = decide(base, contenders, config.loop.alpha, config.seed)
    best = max(contenders, key=lambda c: (c.id == verdict.winner, sum(c.prompted.values()), c.id)).id
    adapter_path = stack_path
    if verdict.winner is not None:
        stack = _stacked(stack, students[verdict.winner])
        adapter_path = folder / "distill" / verdict.winner / "adapter"
        if number > 0 and stack_path is not None:
            adapter_path = folder / "stack"
            write_adapter(adapter_path, stack, lab.base.name)
    summary = _summary(number, verdict, contenders)
    write_json(folder / "decision.json", {**summary, **_details(verdict, base)})
    prompt = next(c for c in front.candidates if c.id == best)
    return RoundOutcome(verdict, stack, adapter_path, prompt, summary)


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


def distil_alone(lab: Lab, teacher: Candidate, run: Run, observer: Observer) -> Distilled:
    """The `distill` command: the held-out score without a prompt, then the distillation."""
    from gepa_loop.distill.trainer import distill

    observer.stage("baseline")
    rows = evaluate(
        lab.config,
        lab.rollouts,
        "pareto",
        NO_PROMPT,
        None,
        run.path / "baseline" / "pareto.jsonl",
        observer.progress,
    )
    held_out = item_scores(rows)
    observer.stage("distill", candidate=teacher.id)
    return distill(
        lab.config,
        lab.base,
        lab.rollouts,
        teacher,
        run.path / "distill" / teacher.id,
        stack=None,
        before=sum(held_out.values()) / len(held_out),
        progress=_training_progress(lab.config, observer),
    )


def _training_progress(config: Config, observer: Observer) -> Callable[[Mapping[str, Any]], None]:
    def progress(row: Mapping[str, Any]) -> None:
        observer.progress(
            row["step"], config.distill.steps, kl=row["reverse_kl"], held_out=row.get("held_out_score")
        )

    return progress


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
    scores = []
    for one in subjects:
        observer.stage("evaluate", candidate=one.label)
        text = NO_PROMPT if one.candidate is None else one.candidate.text
        path = run.path / "evaluate" / f"{one.id}.jsonl"
        rows = evaluate(lab.config, lab.rollouts, split, text, one.adapter, path, observer.progress)
        scores.append(item_scores(rows))
    estimates = [estimate(s, lab.config.seed) for s in scores]
    paired = difference(scores[0], scores[1], lab.config.seed) if len(scores) == 2 else None
    write_json(
        run.path / "result.json",
        {
            "split": split,
            "subjects": [{"id": one.id, **e.as_dict()} for one, e in zip(subjects, estimates, strict=True)],
            "difference": None if paired is None else paired.as_dict(),
        },
    )
    return estimates, paired


def run_test(
    lab: Lab, run: Run, observer: Observer, prompt: Candidate, stack: Adapter | None
) -> dict[str, Any]:
    """Score `test` once: the base, the base with the prompt, and the student; the end of result.json."""
    seed = lab.config.seed
    render, first = lab.rollouts.renderer.tokens, lab.task.splits["test"][0]
    tokens: dict[str, float] = {"prompt": len(render(prompt.text, first)) - len(render(NO_PROMPT, first))}

    def scores(name: str, text: str, adapter: Adapter | None) -> dict[str, float]:
        observer.stage(f"test: {name}")
        path = run.path / "test" / f"{name}.jsonl"
        rows = evaluate(lab.config, lab.rollouts, "test", text, adapter, path, observer.progress)
        tokens[name] = round(sum(row["tokens"] for row in rows) / len(rows), 1)
        return item_scores(rows)

    base = scores("base", NO_PROMPT, None)
    prompted = scores("prompted", prompt.text, None)
    test: dict[str, Any] = {
        "base": estimate(base, seed).as_dict(),
        "prompted": estimate(prompted, seed).as_dict(),
        "student": None,
        "student_minus_base": None,
        "student_minus_prompted": None,
    }
    ratio = None
    if stack is not None:
        student = scores("student", NO_PROMPT, stack)
        test["student"] = estimate(student, seed).as_dict()
        test["student_minus_base"] = difference(student, base, seed).as_dict()
        test["student_minus_prompted"] = difference(student, prompted, seed).as_dict()
        ratio = internalisation(student, base, prompted, seed)
    return {
        "test": test,
        "tokens": tokens,
        "internalisation": None if ratio is None else {"mean": ratio.mean, "ci": list(ratio.ci)},
    }


def _stacked(stack: Adapter | None, student: Adapter) -> Adapter:
    return student if stack is None else stack_adapters([stack, student])


def _summary(number: int, verdict: Verdict, contenders: Sequence[Contender]) -> dict[str, Any]:
    return {
        "round": number,
        "winner": verdict.winner,
        "reason": verdict.reason,
        "candidates": [
            {
                "id": c.id,
                "prompted": estimate(c.prompted).as_dict(),
                "student": None if c.student is None else estimate(c.student).as_dict(),
                "skipped": c.skipped,
            }
            for c in contenders
        ],
    }


def _details(verdict: Verdict, base: Mapping[str, float]) -> dict[str, Any]:
    return {
        "base": estimate(base).as_dict(),
        "ranking": list(verdict.ranking),
        "differences": {id_: diff.as_dict() for id_, diff in verdict.differences.items()},
        "adjusted_p": dict(verdict.adjusted_p),
        "oracle": verdict.oracle,
    }


def missing_gain(config: Config, result: Mapping[str, Any]) -> str | None:
    """Why a finished run shows no significant gain on `test`, or None when it does."""
    gain = result["test"]["student_minus_base"]
    if gain is None:
        return "no student was significantly better than the base on select"
    if gain["mean"] <= 0 or gain["p"] >= config.loop.alpha:
        return f"student - base = {gain['mean']:+.3f}, p = {gain['p']:.3f} on test"
    return None
