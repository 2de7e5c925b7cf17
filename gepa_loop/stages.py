"""The stages as the commands run them: a search, a distillation, a paired comparison, each seen by an observer."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from gepa_loop.config import Config, set_aside
from gepa_loop.errors import ConfigError
from gepa_loop.evaluate import evaluate
from gepa_loop.lab import Lab
from gepa_loop.ledger import Ledger, begin_look
from gepa_loop.lora import Adapter, read_adapter
from gepa_loop.prompts import NO_PROMPT, Candidate, read_prompt
from gepa_loop.recipe import reads_prompt
from gepa_loop.runs import Run, derive_seed, read_jsonl, write_json
from gepa_loop.scorecard import WAYS, Replies, Way, decides, ways
from gepa_loop.select import best_prompt, difference, estimate, item_scores, level_of_round

if TYPE_CHECKING:
    from gepa_loop.distill.trainer import Distilled
    from gepa_loop.optimize.engine import Found
    from gepa_loop.optimize.front import Front
    from gepa_loop.optimize.proposer import Proposer
    from gepa_loop.optimize.stops import Spent


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


def replies(
    lab: Lab, split: str, prompt: str, adapter: Adapter | None, path: Path, observer: Observer
) -> dict[Way, Replies]:
    """A subject's rows, greedily and sampled; those sampled go to `path`, the others to `<name>_greedy.jsonl` beside it."""
    found: dict[Way, Replies] = {}
    for way, settings in ways(lab.config.evaluate).items():
        config = lab.config.model_copy(update={"evaluate": settings})
        file = path if way == "sampled" else path.with_name(f"{path.stem}_greedy{path.suffix}")
        rows = evaluate(config, lab.rollouts, split, prompt, adapter, file, observer.progress)
        found[way] = Replies(rows)
    return found


def note_look(ledger: Ledger, subject: str, path: Path, observer: Observer) -> None:
    """Write into the ledger that somebody's rows of `test` are made, unless they are there already."""
    if not path.exists() and (why := ledger.add(subject)) is not None:
        observer.note(f"this look at test is not in the ledger: {why}")


def search(
    lab: Lab, seed_prompt: Candidate, folder: Path, observer: Observer, *, number: int, stack: Adapter | None
) -> Front:
    """GEPA's search of round `number` for prompts that help the base with `stack`, and its front, scored afresh.

    `lab` is that of the round.

    The finalists' rows on `select` go to `evaluate/<id>_prompted.jsonl` beside `folder`.
    """
    from gepa_loop.distill.probe import open_probe
    from gepa_loop.optimize.engine import optimize
    from gepa_loop.optimize.front import read_front
    from gepa_loop.optimize.plan import dearest_proposal

    if (folder / "result.json").exists():
        return read_front(folder, None if stack is None else stack.fingerprint)
    settings = lab.config.optimize
    observer.stage("optimize", round=number)
    proposer = open_proposer(lab, number)
    observer.note(f"reflection: {proposer.about}")
    quote = dearest_proposal(lab.config, lab.rollouts, proposer, seed_prompt)
    if quote is not None and quote.usd is None:
        observer.note(f"litellm knows no price of {proposer.name}: optimize.max_usd cannot be kept")
    lab.rollouts.sampler.set_student(stack)
    measure = open_probe(lab, stack)

    def probe(prompt: str) -> Mapping[str, float]:
        return asdict(measure(prompt))

    def progress(spent: Spent) -> None:
        observer.progress(
            spent.rollouts, settings.max_rollouts, candidates=spent.proposals + 1, usd=spent.usd
        )

    found = optimize(
        lab.config,
        lab.rollouts,
        proposer,
        seed_prompt,
        folder,
        progress,
        derive_seed(lab.config.seed, "optimize", number),
        probe if settings.probe_rollouts else None,
        0.0 if quote is None else quote.usd or 0.0,
    )
    observer.note(f"stopped by {found.stopped_by}")
    return _judge(lab, found, folder, observer, number, stack)


def _judge(
    lab: Lab, found: Found, folder: Path, observer: Observer, number: int, stack: Adapter | None
) -> Front:
    """Score the finalists on `select`, compare them with the seed, and write the front."""
    from gepa_loop.optimize.front import choose, write_front

    config, rows, by_item = lab.config, {}, {}
    for row in found.rows:
        observer.stage("front", round=number, candidate=row["id"])
        path = folder.parent / "evaluate" / f"{row['id']}_prompted.jsonl"
        by_item[row["id"]] = scores(lab, "select", row["text"], stack, path, observer)
        rows[row["id"]] = read_jsonl(path)
    first, *others = by_item
    level = level_of_round(config.loop.alpha, number)
    verdict = best_prompt(by_item[first], {id_: by_item[id_] for id_ in others}, level, config.seed)
    front = [
        {
            **row,
            "select": estimate(by_item[row["id"]], config.seed).as_dict(),
            "against_seed": d.as_dict() if (d := verdict.differences.get(row["id"])) else None,
            "adjusted_p": verdict.adjusted_p.get(row["id"]),
        }
        for row in choose(config.optimize, found, rows, config.evaluate.samples, verdict.winner)
    ]
    below = None if stack is None else stack.fingerprint
    return write_front(folder, found, front, verdict.winner, verdict.reason, below)


def check_search(lab: Lab, seed_prompt: Candidate) -> None:
    """Find out, before anything is written or sampled, whether proposals can be asked for and paid.

    Raises:
        ProviderError: The key, the model or the network is missing or refused.
        ConfigError: `optimize.max_usd` is less than one proposal may cost.
    """
    from gepa_loop.optimize.plan import dearest_proposal

    text, settings = seed_prompt.text, lab.config.optimize
    if (tokens := lab.rollouts.renderer.prompt_tokens(text)) > settings.max_prompt_tokens:
        raise ConfigError(
            f"optimize.seed_prompt has {tokens} tokens, optimize.max_prompt_tokens is {settings.max_prompt_tokens}: "
            "hardly a proposal made from it could be accepted",
            f"Raise optimize.max_prompt_tokens to more than {tokens}, or shorten the seed prompt.",
        )
    proposer = open_proposer(lab, 0)
    proposer.check()
    dearest_proposal(lab.config, lab.rollouts, proposer, seed_prompt)


def open_proposer(lab: Lab, number: int) -> Proposer:
    """Who writes the prompts of round `number`."""
    from gepa_loop.optimize.proposer import make_proposer

    settings = lab.config.optimize
    return make_proposer(
        settings.reflection,
        proposer_name(lab.config),
        # A worked example shows an answer, which a task with a judge may lack.
        tuple(item for item in lab.task.splits["train"][: set_aside(lab.config)] if item.answer),
        settings.max_prompt_tokens,
        derive_seed(lab.config.seed, "optimize", number),
    )


def proposer_name(config: Config) -> str:
    """The reflection model, or `offline`; `auto` is resolved by whether ANTHROPIC_API_KEY is set."""
    settings = config.optimize.reflection
    if settings.model != "auto":
        return settings.model
    return settings.auto_model if os.environ.get("ANTHROPIC_API_KEY", "").strip() else "offline"


def distil(
    lab: Lab,
    teacher: Candidate,
    folder: Path,
    observer: Observer,
    *,
    number: int | None = None,
    stack: Adapter | None,
    before: Mapping[str, float],
    label: str | None = None,
) -> Distilled:
    """Distil one prompt on top of `stack`; `before` holds its held-out scores without a prompt.

    Items and random numbers are those of the lab's round; `number` and `label` are shown.
    """
    from gepa_loop.distill.checkpoint import steps_saved
    from gepa_loop.distill.trainer import distill

    settings = lab.config.distill
    observer.stage("distill", round=number, candidate=label or teacher.id)
    if not reads_prompt(settings, lab.config.objective):
        observer.note(
            f"objective {lab.config.objective.type} trains on the task reward alone; the prompt is not read"
        )
    if begun := settings.steps if (folder / "result.json").exists() else steps_saved(folder / "checkpoints"):
        observer.note("finished earlier" if begun == settings.steps else f"continuing after step {begun}")
    observer.progress(begun, settings.steps)
    still, warm, halved = 0, False, ""

    def progress(row: Mapping[str, Any]) -> None:
        nonlocal still, warm, halved
        if row["halved"] != halved:
            halved = row["halved"]
            observer.note(f"{halved}: back at step {row['step'] - 1}, with half of distill.lr from here on")
        if row["warm"] != warm:
            warm = row["warm"]
            if warm:
                likely = f"the student gives a token of the teacher's replies {row['teacher_likelihood']:.2g}"
                observer.note(f"{likely}: beginning with the teacher's samples")
            else:
                observer.note(f"from step {row['step']} on as the objective says")
        still += row["grad_norm"] == 0
        observer.progress(
            row["step"], settings.steps, kl=row["reverse_kl"], held_out=row.get("held_out_score")
        )

    done = distill(lab, teacher, folder, stack=stack, before=before, progress=progress)
    observer.note(f"ended {done.ended}; kept step {done.kept.step}: {done.kept.reason}")
    if still:
        observer.note(
            f"{still} of {done.last_step} steps had no gradient: no trained token had an advantage or a divergence"
        )
    observer.note(
        f"on texts that have nothing to do with the task: {done.forgetting:.2g} nats a token from the model"
    )
    if done.control is not None:
        observer.note(str(done.control))
    observer.note(str(done.mismatch))
    return done


def distil_alone(
    lab: Lab, teacher: Candidate, run: Run, observer: Observer, label: str | None = None
) -> Distilled:
    """The `distill` command: the held-out score without a prompt, then the distillation; `label` is shown."""
    label = label or teacher.id
    observer.stage("baseline", candidate=label)
    held_out = scores(lab, "pareto", NO_PROMPT, None, run.path / "baseline" / "pareto.jsonl", observer)
    folder = run.path / "distill" / teacher.id
    return distil(lab, teacher, folder, observer, stack=None, before=held_out, label=label)


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
) -> dict[str, Any]:
    """Score subjects on a split, greedily and sampled, and the first against the second where there are two.

    Returns:
        The content of result.json: the subjects' scores and their difference as `evaluate` decides, and both ways.
    """
    from gepa_loop.sampling.canary import check_sampler

    found, seed = [], lab.config.seed
    ledger = begin_look(run, lab.task.splits[split], "evaluate") if split == "test" else None
    for one in subjects:
        observer.stage("evaluate", candidate=one.label)
        text = NO_PROMPT if one.candidate is None else one.candidate.text
        path = run.path / "evaluate" / f"{one.id}.jsonl"
        if one.adapter is not None and not path.exists():
            engine, allowed = lab.engine.partition(",")[0], lab.config.sampling.canary
            observer.note(
                str(check_sampler(lab.base, lab.rollouts.sampler, one.adapter, None, allowed, engine))
            )
        if ledger is not None:
            note_look(ledger, one.id, path, observer)
        found.append(replies(lab, split, text, one.adapter, path, observer))

    def both(way: Way) -> dict[str, Any]:
        first, *rest = (own[way] for own in found)
        gap = difference(first.scores, rest[0].scores, seed) if rest else None
        cards = [{"id": one.id, **own[way].card(seed)} for one, own in zip(subjects, found, strict=True)]
        return {"subjects": cards, "difference": None if gap is None else gap.as_dict()}

    shown: dict[Way, dict[str, Any]] = {way: both(way) for way in WAYS}
    decided = decides(lab.config.evaluate)
    result = {"split": split, "decides": decided, **shown[decided], **{str(way): shown[way] for way in WAYS}}
    write_json(run.path / "result.json", result)
    return result
