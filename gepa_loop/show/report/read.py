"""A finished run of `distill` or `loop` as one value, whichever of the two made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import ValidationError

from gepa_loop.config.recipe import reads_prompt
from gepa_loop.config.whole import Config
from gepa_loop.errors import ConfigError, RunDirectoryError
from gepa_loop.run.files import read_json, read_jsonl, read_record
from gepa_loop.run.identity import read_manifest
from gepa_loop.run.records import EventRow
from gepa_loop.scores.card import WAYS, Way
from gepa_loop.scores.outcome import ground
from gepa_loop.scores.records import CardRecord, DifferenceRecord, RatioRecord, ScoreRow
from gepa_loop.scores.results import GainsRecord, LoopRecord, RoundResult
from gepa_loop.stages.items import FILE as ITEMS
from gepa_loop.stages.reached import unfinished
from gepa_loop.stages.records import ItemRow, RetainedRecord, RetentionRecord
from gepa_loop.task.prompts import read_prompt
from gepa_loop.training.records import DistilledRecord

Key = Literal["base", "prompted", "student", "student_prompted"]
Gap = Literal["prompted_minus_base", "student_minus_base", "student_minus_prompted"]
INSTEAD = {
    "optimize": "`gepa-loop prompts list {name}` shows its prompts",
    "evaluate": "its result.json has the scores, and `gepa-loop runs list` shows them",
    "sweep": "`gepa-loop report {name}` writes a page of its own, which `gepa-loop view` shows as well",
}
"""What there is of other runs."""


@dataclass(frozen=True)
class Subject:
    """Who was scored on `test`."""

    key: Key
    name: str
    """As tables call it."""
    file: str
    """Of its rows, below test/, without what says how they were drawn."""


@dataclass(frozen=True)
class Told:
    """What a finished run says of itself."""

    path: Path
    command: Literal["distill", "loop"]
    result: Mapping[str, Any]
    """The content of result.json."""
    identity: Mapping[str, Any]
    """Of manifest.json."""
    config: Mapping[str, Any]
    """The content of config.json."""
    start: Mapping[str, Any]
    """The first event: the facts of the data."""
    decides: Way
    subjects: tuple[Subject, ...]
    """Those that were scored, from the bare model on."""
    prompt: Path
    """The text that the student was distilled from; without one the best prompt's."""
    adapter: str | None
    """Where the student lies in the run."""
    shares: Mapping[Way, RatioRecord | None]
    """What the student keeps of its prompt's effect."""

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def rounds(self) -> Sequence[RoundResult]:
        """Of a loop, in order."""
        return cast("LoopRecord", self.result)["rounds"] if self.command == "loop" else ()

    @property
    def text(self) -> str:
        """The prompt's."""
        return read_prompt(self.prompt).text

    @property
    def agreement(self) -> bool:
        """Scores are of the prompted model's greedy replies, as the task has no answers."""
        return self.result.get("answers") == "references"

    @property
    def ground(self) -> str:
        """The model that reads the prompt in `prompted`."""
        return ground(self.rounds)

    @property
    def settled(self) -> Config | None:
        """The configuration; None where it is of another version."""
        try:
            return Config.model_validate({k: v for k, v in self.config.items() if k != "schema_version"})
        except ValidationError:
            return None

    @property
    def reads_prompt(self) -> bool:
        """Whether the student depends on the prompt, as far as the configuration tells."""
        settled = self.settled
        return settled is None or reads_prompt(settled.distill, settled.objective)

    @property
    def kl(self) -> float | None:
        """KL(student || teacher) of the student's held-out replies, nats a token; None where it was not measured.

        Raises:
            RunDirectoryError: The distillation's record is not as it was written.
        """
        if self.adapter is None:
            return None
        record = (self.path / self.adapter).parent / "result.json"
        return read_json(record, DistilledRecord)["kl"] if record.exists() else None

    @property
    def saved(self) -> int:
        """Tokens of the system turn that a call without the prompt saves."""
        return int(self.result["tokens"]["prompt"]) - int(self.result["tokens"].get("bare", 0))

    def gains(self, way: Way) -> RetainedRecord | GainsRecord:
        """Cards and differences on `test`, drawn one way."""
        return cast("RetainedRecord | GainsRecord", self.result[way])

    def card(self, key: Key, way: Way) -> CardRecord:
        """Of one of `subjects`."""
        return cast("CardRecord", self.gains(way)[key])  # type: ignore[typeddict-item]

    def gap(self, name: Gap, way: Way) -> DifferenceRecord | None:
        """A difference; None where there is no student."""
        return self.gains(way)[name]

    @property
    def prompt_gain(self) -> DifferenceRecord | None:
        """What the prompt gains on the model that it was made for, as what decides was drawn; None without a winner."""
        if self.command == "distill":
            return self.gap("prompted_minus_base", self.decides)
        tests = [one["test"] for one in self.rounds if one["test"] is not None]
        return tests[-1]["prompted_minus_base"] if tests else None

    def rows(self, subject: Subject, way: Way) -> list[ScoreRow]:
        """A subject's replies on `test`.

        Raises:
            RunDirectoryError: They are not as they were written, or not all there.
        """
        end, card = "_greedy" if way == "greedy" else "", self.card(subject.key, way)
        file = self.path / "test" / f"{subject.file}{end}.jsonl"
        return read_jsonl(file, ScoreRow, at_least=card["n"] * card["samples"])

    def items(self) -> list[ItemRow]:
        """Those of `test`; none in a run of an earlier version."""
        return read_jsonl(self.path / ITEMS, ItemRow)


def has_page(folder: Path) -> bool:
    """Whether a run is a finished one of `distill` or `loop`, as far as its files tell."""
    try:
        command = read_manifest(folder)["identity"].get("command")
    except RunDirectoryError:
        return False
    return command in ("distill", "loop") and (folder / "result.json").exists()


def read_told(folder: Path) -> Told:
    """A finished run of `distill` or `loop`, without a look at the files that its record lists: `check_told`.

    Raises:
        ConfigError: It is a run of another command.
        RunDirectoryError: It is not finished, or a file is not as it was written.
    """
    identity = read_manifest(folder)["identity"]
    command, name = str(identity.get("command", "")), folder.resolve().name
    if command not in ("distill", "loop"):
        there = INSTEAD.get(command, "").format(name=name)
        raise ConfigError(
            f"run {name} is one of `{command}`, and this is a page of `distill` and `loop`",
            f"{there[:1].upper()}{there[1:]}." if there else "`gepa-loop runs list` has what there is.",
        )
    if not (folder / "result.json").exists():
        raise unfinished(folder, f"it has no result.json, and so far {_there(folder)}")
    config = {k: v for k, v in read_json(folder / "config.json", dict[str, Any]).items() if k != "check"}
    events = read_jsonl(folder / "events.jsonl", EventRow, at_least=1)
    base = Subject("base", "bare model", "base")
    if command == "distill":
        kept = read_json(folder / "result.json", RetentionRecord)
        subjects: tuple[Subject, ...] = (
            base,
            Subject("prompted", "with the prompt", "prompted"),
            Subject("student", "student", "student"),
            Subject("student_prompted", "student + prompt", "student_prompted"),
        )
        id_ = str(identity["prompts"])
        prompt, adapter = folder / "prompts" / f"{id_}.txt", f"distill/{id_}/adapter"
        shares = {way: kept[way]["internalisation"] for way in WAYS}
        result: Mapping[str, Any] = kept
    else:
        found = read_json(folder / "result.json", LoopRecord)
        last = next((r for r in reversed(found["rounds"]) if r["winner"]), found["rounds"][-1])
        on = ground(found["rounds"])
        asked = "with the prompt" if on == "base" else f"{on} with the prompt"
        at = f"round_{last['round']:02d}"
        subjects = (base, Subject("prompted", asked, f"{at}_prompted"))
        if found["test"]["student"] is not None:
            subjects = (*subjects, Subject("student", "student", f"{at}_student"))
        prompt, adapter = folder / found["prompt"], found["adapter"]  # type: ignore[assignment]
        share = found["internalisation"]
        shares = {way: share if way == found["decides"] else None for way in WAYS}
        result = found
    return Told(
        folder,
        cast("Literal['distill', 'loop']", command),
        result,
        identity,
        config,
        events[0],
        cast("Way", result["decides"]),
        subjects,
        prompt,
        adapter,
        shares,
    )


def check_told(told: Told) -> None:
    """Compare the files that a run's record lists, whole adapters among them, with their sums.

    Raises:
        RunDirectoryError: One is not as it was written.
    """
    if told.command == "loop":
        read_record(told.path / "result.json", LoopRecord)


def _there(folder: Path) -> str:
    """What a run that is not finished has, in words."""
    rounds = len(list(folder.glob("round_*/decision.json")))
    parts = [
        f"{rounds} decided rounds" if rounds else "",
        "a student" if any(folder.glob("distill/*/result.json")) else "",
        "a part of a distillation"
        if not any(folder.glob("**/distill/*/result.json")) and any(folder.glob("**/metrics.jsonl"))
        else "",
        "scores of `test`" if any(folder.glob("test/*.jsonl")) else "",
        "a search for prompts" if any(folder.glob("**/optimize/candidates.jsonl")) else "",
    ]
    return ", ".join(filter(None, parts)) or "nothing but its config"
