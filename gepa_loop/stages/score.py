"""Scores of a prompt and an adapter, and a paired comparison of two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gepa_loop.errors import ConfigError
from gepa_loop.lab import Lab
from gepa_loop.model.lora.adapter import Adapter
from gepa_loop.model.lora.files import read_adapter
from gepa_loop.run.directory import Run
from gepa_loop.run.files import write_json
from gepa_loop.scores.card import WAYS, Replies, Way, decides, ways
from gepa_loop.scores.ledger import Ledger, begin_look
from gepa_loop.scores.records import ScoreRow
from gepa_loop.scores.split import Scoring
from gepa_loop.scores.statistics import difference
from gepa_loop.stages.observer import Observer
from gepa_loop.stages.records import ComparedRecord, EvaluatedRecord, SubjectRecord
from gepa_loop.task.items import SPLITS
from gepa_loop.task.prompts import NO_PROMPT, Candidate, read_prompt


def scores(
    lab: Lab, split: str, prompt: str, adapter: Adapter | None, path: Path, observer: Observer
) -> list[ScoreRow]:
    """The rows of a prompt and an adapter on a split, which `path` holds afterwards."""
    return scoring(lab, split, prompt, adapter, path).rows(observer.progress)


def scoring(lab: Lab, split: str, prompt: str, adapter: Adapter | None, path: Path) -> Scoring:
    """`scores`, asked for; where workers share the work they begin with it."""
    return Scoring(lab.config, lab.rollouts.by(adapter), split, prompt, path)


def replying(
    lab: Lab, split: str, prompt: str, adapter: Adapter | None, path: Path
) -> Callable[[Observer], dict[Way, Replies]]:
    """A subject's rows, greedily and sampled, asked for; what is returned reads them.

    Those sampled go to `path`, the others to `<name>_greedy.jsonl` beside it.
    """
    asked: dict[Way, Scoring] = {}
    for way, settings in ways(lab.config.evaluate).items():
        config = lab.config.model_copy(update={"evaluate": settings})
        file = path if way == "sampled" else path.with_name(f"{path.stem}_greedy{path.suffix}")
        asked[way] = Scoring(config, lab.rollouts.by(adapter), split, prompt, file)
    return lambda observer: {way: Replies(one.rows(observer.progress)) for way, one in asked.items()}


def note_look(ledger: Ledger, subject: str, path: Path, observer: Observer) -> None:
    """Write into the ledger that somebody's rows of `test` are made, unless they are there already."""
    if not path.exists() and (why := ledger.add(subject)) is not None:
        observer.note(f"this look at test is not in the ledger: {why}")


@dataclass(frozen=True)
class Subject:
    """A prompt and an adapter that are scored together; either may be missing."""

    candidate: Candidate | None
    adapter: Adapter | None
    label: str
    folder: Path | None = None
    """Where the adapter came from."""

    @property
    def role(self) -> str:
        """What conditions call it: see `scores.conditions.NAMES`."""
        return (("bare", "prompted"), ("student", "student_prompted"))[self.adapter is not None][
            self.candidate is not None
        ]

    @property
    def name(self) -> str:
        """What a person knows it by: the run of its adapter, its prompt's id."""
        if self.folder is None:
            return "bare" if self.candidate is None else f"prompt {self.candidate.id}"
        return f"{_student(self.folder)}{'' if self.candidate is None else f' + prompt {self.candidate.id}'}"

    @property
    def id(self) -> str:
        prompt = "none" if self.candidate is None else self.candidate.id
        return f"{prompt}+{'base' if self.adapter is None else self.adapter.fingerprint}"


def _student(adapter: Path) -> str:
    """What an adapter is called: by its prompt and its run, or by its folder where that is in no run."""
    whole = adapter.resolve()
    run = next((place.name for place in whole.parents if (place / "manifest.json").exists()), None)
    prompt = f" {whole.parent.name}" if whole.name == "adapter" else ""
    return f"adapter {adapter}" if run is None else f"student{prompt} of {run}"


def check_split(split: str, source: str) -> None:
    """Raise ConfigError where there is no such split; `source` is the flag or the argument that names it."""
    if split not in SPLITS:
        raise ConfigError(f"{source} {split}: no such split", f"There are {', '.join(SPLITS)}.")


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
        adapter,
    )


def compare(
    lab: Lab, subjects: Sequence[Subject], split: str, run: Run, observer: Observer
) -> EvaluatedRecord:
    """Score subjects on a split, greedily and sampled, and the first against the second where there are two.

    Returns:
        The content of result.json: the subjects' scores and their difference as `evaluate` decides, and both ways.
    """
    from gepa_loop.sampling.canary import check_sampler

    asked, paths, seed = [], [], lab.config.seed
    ledger = begin_look(run, lab.task.splits[split], "evaluate") if split == "test" else None
    for one in subjects:
        path = run.path / "evaluate" / f"{one.id}.jsonl"
        if one.adapter is not None and not path.exists():
            engine, allowed = lab.engine.partition(",")[0], lab.config.sampling.canary
            observer.note(
                str(check_sampler(lab.base, lab.rollouts.sampler, one.adapter, None, allowed, engine))
            )
        paths.append(path)
    for one, path in zip(subjects, paths, strict=True):
        if ledger is not None:
            note_look(ledger, one.id, path, observer)
        text = NO_PROMPT if one.candidate is None else one.candidate.text
        asked.append(replying(lab, split, text, one.adapter, path))
    found = []
    for one, read in zip(subjects, asked, strict=True):
        observer.stage("evaluate", candidate=one.label)
        found.append(read(observer))

    def compared(way: Way) -> ComparedRecord:
        first, *rest = (own[way] for own in found)
        gap = difference(first.scores, rest[0].scores, seed) if rest else None
        cards: list[SubjectRecord] = [
            {"id": one.id, "name": one.name, **own[way].card(seed)}
            for one, own in zip(subjects, found, strict=True)
        ]
        return {"subjects": cards, "difference": None if gap is None else gap.as_dict()}

    shown = {way: compared(way) for way in WAYS}
    way = decides(lab.config.evaluate)
    result: EvaluatedRecord = {
        "split": split,
        "decides": way,
        **shown[way],
        "greedy": shown["greedy"],
        "sampled": shown["sampled"],
    }
    write_json(run.path / "result.json", result)
    return result
