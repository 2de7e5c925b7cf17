"""The loop: search prompts, race their students, score those that are left without a prompt, keep the best, go on.

Each round writes one directory and is a function of what the round before returned. The loop ends before its last round where one
has found nothing and the next would have nothing new to try. Every stage is done when
its output file exists, so the same command continues a run wherever it stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gepa_loop.config.recipe import reads_prompt
from gepa_loop.errors import RunDirectoryError
from gepa_loop.lab import Lab
from gepa_loop.model.lora.adapter import Adapter, stack_adapters
from gepa_loop.model.lora.files import write_adapter
from gepa_loop.run.directory import Run
from gepa_loop.run.files import read_json, read_record, write_json, write_record
from gepa_loop.scores.card import WAYS, Replies, Way, decides
from gepa_loop.scores.decision import Contender, Verdict, decide, level_of_round
from gepa_loop.scores.ending import Attempt, nothing_new
from gepa_loop.scores.ledger import begin_look
from gepa_loop.scores.outcome import details, gains, lengths, summary
from gepa_loop.scores.results import DecisionRecord, LoopRecord, RoundRecord, RoundTest, WholeTest
from gepa_loop.scores.split import Scoring
from gepa_loop.scores.statistics import internalisation, item_scores
from gepa_loop.stages.distillation import Below, end_candidate, finish_candidates, forgets
from gepa_loop.stages.items import Compared, write_items
from gepa_loop.stages.observer import Observer
from gepa_loop.stages.pool import open_pool
from gepa_loop.stages.race import race
from gepa_loop.stages.score import note_look, replying, scoring
from gepa_loop.stages.search import Purpose, search
from gepa_loop.task.prompts import NO_PROMPT, Candidate


@dataclass(frozen=True)
class Ground:
    """What a round stands on."""

    number: int = 0
    """The round's."""
    stack: Adapter | None = None
    """The earlier rounds' adapters, as one."""
    path: Path | None = None
    """Where that lies."""
    tried: frozenset[str] = frozenset()
    """Prompts that rounds without a winner have tried on it."""


@dataclass(frozen=True)
class RoundOutcome:
    """What a round hands to the next."""

    number: int
    verdict: Verdict
    below: Adapter | None
    """The adapters that its prompts were searched for and its students trained on: those of the rounds before, as one."""
    stack: Adapter | None
    """The same with the winner's on top."""
    adapter: Path | None
    """Where that stack lies."""
    best_prompt: Candidate
    """The winner's prompt; without a winner the one that prompts best."""
    summary: RoundRecord
    """This round's part of result.json."""
    tried: frozenset[str] = frozenset()
    """Prompts that have been tried on the model that the next round stands on, without a winner."""


def run_loop(lab: Lab, seed_prompt: Candidate, run: Run, observer: Observer) -> LoopRecord:
    """Run all rounds, score `test`, and write result.json; returns its content.

    A finished run with fewer rounds than are asked for is continued, where its last round has left something new to try: of `test`
    only what the further rounds made is scored.

    Raises:
        RunDirectoryError: The run has more rounds than are asked for.
    """
    done = rounds_done(run.path)
    if done > lab.config.loop.rounds:
        raise RunDirectoryError(
            f"{run.path} has {done} rounds, and loop.rounds is {lab.config.loop.rounds}",
            f"Ask for {done} or more to see or continue it, or choose another --run-name.",
        )
    if is_whole(run.path, lab.config.loop.rounds):
        return read_record(run.path / "result.json", LoopRecord)
    outcomes: list[RoundOutcome] = []
    ground = Ground()
    for number in range(lab.config.loop.rounds):
        run.event("round", round=number)
        outcome = run_round(lab.in_round(number), seed_prompt, run, observer, ground)
        observer.note(f"round {number}: {outcome.verdict.reason}")
        outcomes.append(outcome)
        ground = Ground(number + 1, outcome.stack, outcome.adapter, outcome.tried)
        if (ended := outcome.summary["ended"]) is not None:
            observer.note(f"no further round: {ended}")
            break
        if outcome.verdict.winner is None and number + 1 < lab.config.loop.rounds:
            observer.note(f"round {number + 1} has the same model, and other items and proposals to try")
    stack, adapter = ground.stack, ground.path
    last = next((o for o in reversed(outcomes) if o.verdict.winner), outcomes[-1])
    seen = run_test(lab, run, observer, outcomes)
    result: LoopRecord = {
        "status": "done" if stack else "null",
        "seed": lab.config.seed,
        "adapter": None if adapter is None else os.path.relpath(adapter, run.path),
        "prompt": f"round_{last.number:02d}/optimize/prompts/{last.best_prompt.id}.txt",
        "rounds": [{**outcome.summary, **seen.rounds[outcome.number]} for outcome in outcomes],
        **seen.whole,
    }
    kept = filter(None, (result["prompt"], result["adapter"]))
    write_record(run.path / "result.json", result, *kept)
    run.event("done", status=result["status"])
    return result


def rounds_done(path: Path) -> int:
    """Rounds of a finished run; 0 where it is not."""
    file = path / "result.json"
    return len(read_json(file, LoopRecord)["rounds"]) if file.exists() else 0


def is_whole(path: Path, rounds: int) -> bool:
    """Whether a run is finished and has so many rounds, or has ended with its last one."""
    if rounds_done(path) >= rounds:
        return True
    return (
        rounds_done(path) > 0
        and read_json(path / "result.json", LoopRecord)["rounds"][-1]["ended"] is not None
    )


def run_round(lab: Lab, seed_prompt: Candidate, run: Run, observer: Observer, ground: Ground) -> RoundOutcome:
    """One round on top of the earlier rounds' adapters: baseline, search, race, evaluate, decide.

    Args:
        lab: That of the round.
        seed_prompt: Where the search starts.
        run: The run.
        observer: Watches.
        ground: What the earlier rounds left.
    """
    number, stack = ground.number, ground.stack
    config, folder = lab.config, run.path / f"round_{number:02d}"

    def asked(name: str, split: str, prompt: str, adapter: Adapter | None) -> Scoring:
        return scoring(lab, split, prompt, adapter, folder / f"{name}.jsonl")

    # 1. Where we stand, without a prompt.
    bare = [asked(f"baseline/{split}", split, NO_PROMPT, stack) for split in ("select", "pareto")]
    observer.stage("baseline", round=number)
    base, held_out = (item_scores(one.rows(observer.progress)) for one in bare)

    # 2. Prompts that may help this model.
    purpose = Purpose("student", number, stack)
    front = search(lab, seed_prompt, folder / "optimize", observer, purpose)
    run.event("front", round=number, ids=[c.id for c in front.candidates], stopped_by=front.stopped_by)

    # 3. The effect of those that do, moved into an adapter each; who is behind at a rung is dropped.
    pool = open_pool(lab, front.candidates, folder, observer, stack)
    below = Below(stack, held_out)
    raced = race(lab, pool, folder, observer, below)
    why, students = {**pool.why, **raced.dropped}, dict[str, Adapter]()
    left = {folder / "distill" / one.id: one for one in front.candidates if one.id not in why}
    if left:
        several = f"{len(left)} students"
        observer.stage("distill", round=number, candidate=several if len(left) > 1 else next(iter(left)).name)
        finish_candidates(lab, left, observer, below)
    for candidate in front.candidates:
        if candidate.id in why:
            continue
        target = folder / "distill" / candidate.id
        observer.stage("distilled", round=number, candidate=candidate.id)
        distilled = end_candidate(lab, candidate, target, observer, below)
        students[candidate.id] = distilled.adapter
        if (reason := forgets(config.loop, distilled)) is not None:
            why[candidate.id] = reason
            observer.note(f"{candidate.id} cannot win: {reason}")

    # 4. Those that are left, on items that have chosen nothing; then the decision, and the stack with the winner on top.
    contenders, judged = [], dict[str, tuple[Scoring, Scoring]]()
    for candidate in front.candidates:
        if (id_ := candidate.id) not in why:
            own = asked(f"evaluate/{id_}", "select", NO_PROMPT, _stacked(stack, students[id_]))
            judged[id_] = own, asked(f"evaluate/{id_}_prompted", "select", candidate.text, stack)
    for candidate in front.candidates:
        prompted = student = None
        if candidate.id in judged:
            observer.stage("student", round=number, candidate=candidate.id)
            student, prompted = (item_scores(one.rows(observer.progress)) for one in judged[candidate.id])
        contenders.append(Contender(candidate.id, prompted, student, why.get(candidate.id)))
    level = level_of_round(config.loop.alpha, number)
    verdict = decide(base, contenders, level, config.seed)
    adapter_path = ground.path
    if verdict.winner is not None:
        stack = _stacked(stack, students[verdict.winner])
        adapter_path = folder / "distill" / verdict.winner / "adapter"
        if number > 0 and ground.path is not None:
            adapter_path = folder / "stack"
            write_adapter(adapter_path, stack, lab.base.origin)
    handed_on = frozenset(candidate.id for candidate in front.candidates)
    ended = None
    if verdict.winner is None:
        exhausted = front.stopped_by if front.exhausted else None
        reads = reads_prompt(config.distill, config.objective)
        ended = nothing_new(Attempt(reads, bool(pool.candidates), exhausted, handed_on, ground.tried))
    tried = frozenset() if verdict.winner else ground.tried | handed_on
    said = summary(number, verdict, contenders, ended, config.seed)
    more = details(verdict, base, config.seed)
    decision: DecisionRecord = {**said, "level": level, **more, "race": list(raced.rungs)}
    write_json(folder / "decision.json", decision)
    prompt = next(c for c in front.candidates if c.id == (verdict.winner or pool.best))
    return RoundOutcome(number, verdict, ground.stack, stack, adapter_path, prompt, said, tried)


class Tested(NamedTuple):
    """What `test` said."""

    whole: WholeTest
    """The end of result.json."""
    rounds: list[RoundTest]
    """Each round's part."""


def run_test(lab: Lab, run: Run, observer: Observer, outcomes: Sequence[RoundOutcome]) -> Tested:
    """Score `test` at the end of a run; what an earlier process scored is not scored again, nor counted in the ledger.

    The model without anything stands against the last student. Between them each round with a winner is measured on its
    own ground, the model as the round found it: without a prompt, with the round's prompt, and the round's student.
    `prompted` of the whole is the last such round's prompt on that ground; without a winner it is the best prompt of the
    last round. Where the objective reads no prompt (`grpo`), nothing of one can be internalised.

    Everything is scored greedily and sampled; `decides` says which of them `test`, the rounds and what is internalised are.
    """
    seed, reads = lab.config.seed, reads_prompt(lab.config.distill, lab.config.objective)
    count, first = lab.rollouts.renderer.system_tokens, lab.task.splits["test"][0]
    way = decides(lab.config.evaluate)

    ledger = begin_look(run, lab.task.splits["test"], f"after {len(outcomes)} rounds")

    won = [outcome for outcome in outcomes if outcome.verdict.winner]
    waiting: dict[str, Callable[[Observer], dict[Way, Replies]]] = {}

    def ask(name: str, text: str, adapter: Adapter | None) -> None:
        path = run.path / "test" / f"{name}.jsonl"
        note_look(ledger, name, path, observer)
        waiting[name] = replying(lab, "test", text, adapter, path)

    def scored(name: str) -> dict[Way, Replies]:
        observer.stage(f"test: {name.replace('_', ' ')}")
        return waiting[name](observer)

    ask("base", NO_PROMPT, None)
    for outcome in won or outcomes[-1:]:
        ask(f"round_{outcome.number:02d}_prompted", outcome.best_prompt.text, outcome.below)
        if outcome.verdict.winner:
            ask(f"round_{outcome.number:02d}_student", NO_PROMPT, outcome.stack)
    base = before = scored("base")
    rounds: list[RoundTest] = [{"test": None, "internalisation": None} for _ in outcomes]
    student: dict[Way, Replies] | None = None
    compared = None
    for outcome in won or outcomes[-1:]:
        name, prompt = f"round_{outcome.number:02d}", outcome.best_prompt.text
        prompted = scored(f"{name}_prompted")
        if outcome.verdict.winner:
            student = scored(f"{name}_student")
            mine, bare, asked = student[way], before[way], prompted[way]
            ratio = internalisation(mine.scores, bare.scores, asked.scores, seed) if reads else None
            rounds[outcome.number] = {
                "test": gains(bare, asked, mine, seed),
                "internalisation": None if ratio is None else ratio.as_dict(),
            }
            before = student
            assert outcome.stack is not None, "a round with a winner has a stack"
            own, theirs = student["greedy"], prompted["greedy"]
            compared = Compared(prompt, outcome.below, outcome.stack, theirs, own)
    write_items(lab, compared, run.path, observer)
    ratio_of_last = rounds[won[-1].number]["internalisation"] if won else None
    both = {w: gains(base[w], prompted[w], None if student is None else student[w], seed) for w in WAYS}
    test = both[way]
    whole: WholeTest = {
        "decides": way,
        "test": test,
        "greedy": both["greedy"],
        "sampled": both["sampled"],
        "tokens": lengths(count(prompt, first), count(NO_PROMPT, first), test),
        "internalisation": ratio_of_last,
    }
    return Tested(whole, rounds)


def _stacked(stack: Adapter | None, student: Adapter) -> Adapter:
    return student if stack is None else stack_adapters([stack, student])
