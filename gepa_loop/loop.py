"""The loop: search prompts, distil each, score the students without a prompt, keep the best, go on.

Each round writes one directory and is a function of what the round before returned. Every stage is done when
its output file exists, so the same command continues a run wherever it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gepa_loop.lab import Lab
from gepa_loop.lora import Adapter, stack_adapters, write_adapter
from gepa_loop.outcome import details, summary
from gepa_loop.predict import Fit, Prediction, fit, predict
from gepa_loop.prompts import NO_PROMPT, Candidate
from gepa_loop.runs import Run, read_jsonl, read_record, write_json, write_record
from gepa_loop.select import Contender, Verdict, decide, difference, estimate, internalisation
from gepa_loop.stages import Observer, distil, scores, search


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
    predictions: tuple[Prediction, ...]
    """Of this round's students."""


def run_loop(lab: Lab, seed_prompt: Candidate, run: Run, observer: Observer) -> dict[str, Any]:
    """Run all rounds, score `test` once, and write result.json; returns its content."""
    if (run.path / "result.json").exists():
        return read_record(run.path / "result.json")
    outcomes: list[RoundOutcome] = []
    stack, adapter = None, None
    for number in range(lab.config.loop.rounds):
        run.event("round", round=number)
        earlier = fit([p for outcome in outcomes for p in outcome.predictions])
        outcome = run_round(lab, seed_prompt, run, observer, number, stack, adapter, earlier)
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
    kept = [result["prompt"], *([] if adapter is None else [result["adapter"]])]
    write_record(run.path / "result.json", result, *kept)
    run.event("done", status=result["status"])
    return read_record(run.path / "result.json")


def run_round(
    lab: Lab,
    seed_prompt: Candidate,
    run: Run,
    observer: Observer,
    number: int,
    stack: Adapter | None,
    stack_path: Path | None,
    earlier: Fit | None,
) -> RoundOutcome:
    """One round on top of the earlier rounds' adapters: baseline, search, distil, evaluate, decide.

    `earlier` says how predicted and actual students of earlier rounds fit.
    """
    config, folder = lab.config, run.path / f"round_{number:02d}"

    def scored(name: str, split: str, prompt: str, adapter: Adapter | None) -> dict[str, float]:
        return scores(lab, split, prompt, adapter, folder / f"{name}.jsonl", observer)

    # 1. Where we stand, without a prompt.
    observer.stage("baseline", round=number)
    base = scored("baseline/select", "select", NO_PROMPT, stack)
    held_out = scored("baseline/pareto", "pareto", NO_PROMPT, stack)

    # 2. Prompts that help this model.
    front = search(lab, seed_prompt, folder / "optimize", observer, number=number, stack=stack)
    run.event("front", round=number, ids=[c.id for c in front.candidates], stopped_by=front.stopped_by)
    if earlier is not None:
        observer.note(str(earlier))

    # 3. Each prompt's effect, moved into an adapter.
    contenders, students = [], {}
    for candidate in front.candidates:
        # The search has scored it.
        prompted = scored(f"evaluate/{candidate.id}_prompted", "select", candidate.text, stack)
        gap = difference(prompted, base, config.seed)
        if gap.mean <= config.loop.min_gap:
            why = f"no teacher gap: the prompt changes the score by {gap.mean:+.3f} on {len(base)} items"
            contenders.append(Contender(candidate.id, prompted, None, why))
            observer.note(f"{candidate.id} is skipped: {why}")
            continue
        target = folder / "distill" / candidate.id
        distilled = distil(lab, candidate, target, observer, number=number, stack=stack, before=held_out)
        students[candidate.id] = distilled.adapter
        observer.stage("student", round=number, candidate=candidate.id)
        whole = _stacked(stack, distilled.adapter)
        student = scored(f"evaluate/{candidate.id}", "select", NO_PROMPT, whole)
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
    measured = {row["id"]: row["objectives"] for row in front.rows}
    predictions = tuple(
        predict(c.id, base, c.prompted, c.student, measured[c.id], earlier) for c in contenders
    )
    said = summary(number, verdict, contenders, config.seed)
    write_json(
        folder / "decision.json", {**said, **details(verdict, base, predictions, earlier, config.seed)}
    )
    prompt = next(c for c in front.candidates if c.id == best)
    return RoundOutcome(verdict, stack, adapter_path, prompt, said, predictions)


def run_test(
    lab: Lab, run: Run, observer: Observer, prompt: Candidate, stack: Adapter | None
) -> dict[str, Any]:
    """Score `test` once: the base, the base with the prompt, and the student; the end of result.json."""
    seed = lab.config.seed
    count, first = lab.rollouts.renderer.system_tokens, lab.task.splits["test"][0]
    tokens: dict[str, float] = {"prompt": count(prompt.text, first), "bare": count(NO_PROMPT, first)}

    def scored(name: str, text: str, adapter: Adapter | None) -> dict[str, float]:
        observer.stage(f"test: {name}")
        path = run.path / "test" / f"{name}.jsonl"
        found = scores(lab, "test", text, adapter, path, observer)
        lengths = [row["tokens"] for row in read_jsonl(path)]
        tokens[name] = round(sum(lengths) / len(lengths), 1)
        return found

    base = scored("base", NO_PROMPT, None)
    prompted = scored("prompted", prompt.text, None)
    test: dict[str, Any] = {
        "base": estimate(base, seed).as_dict(),
        "prompted": estimate(prompted, seed).as_dict(),
        "student": None,
        "student_minus_base": None,
        "student_minus_prompted": None,
    }
    ratio = None
    if stack is not None:
        student = scored("student", NO_PROMPT, stack)
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
