"""How a run was made and what it took: its config, versions, times and costs on record, and the commands that go on from it."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gepa_loop.config.document import short_document
from gepa_loop.outside.redact import redacted
from gepa_loop.run.files import read_json, read_record
from gepa_loop.scores.outcome import best_student
from gepa_loop.search.records import SearchRecord
from gepa_loop.show.report.charts import Course
from gepa_loop.show.report.read import Told
from gepa_loop.stages.records import QuestionsRecord
from gepa_loop.task.judge import RECORD, Record, dollars


@dataclass(frozen=True)
class Command:
    """A command and what it is for."""

    line: str
    about: str


def versions(told: Told) -> list[tuple[str, str]]:
    """Packages that can change a result, and what was resolved at the start."""
    identity = told.identity
    names = {
        "model.name": "model",
        "model.resolved": "computed in",
        "model.fingerprint": "fingerprint of its weights",
        "model.date": "date that its chat template writes",
        "sampling.resolved": "sampler",
        "task.fingerprint": "fingerprint of the data",
    }
    found = [(name, redacted(str(identity[key]))) for key, name in names.items() if key in identity]
    return found + [
        (key.removeprefix("version."), str(value))
        for key, value in identity.items()
        if key.startswith("version.")
    ]


def took(told: Told, courses: Sequence[Course]) -> Iterator[tuple[str, str]]:
    """Times and costs, as far as they are on record.

    Raises:
        RunDirectoryError: A file is not as it was written.
    """
    for folder in sorted(told.path.glob("round_*/optimize/result.json")):
        spent = read_record(folder, SearchRecord)["spent"]
        yield (
            f"search of {folder.parent.parent.name.replace('_', ' ')}",
            f"{spent['seconds']:,.0f} s, {spent['rollouts']:,} rollouts, {spent['proposals']:,} proposals, "
            f"{dollars(spent['usd'])}",
        )
    phases = Counter[str]()
    for course in courses:
        own = Counter[str]()
        for row in course.steps:
            own.update(row["seconds"])
        phases.update(own)
        yield f"student of {course.id}", f"{sum(own.values()):,.0f} s, {len(course.steps):,} steps"
    if len(phases) > 1:
        yield "of the students' time", ", ".join(f"{name} {s:,.0f} s" for name, s in phases.most_common())
    memory = max((row["peak_memory_gib"] for course in courses for row in course.steps), default=0.0)
    if memory:
        yield "highest memory", f"{memory:.1f} GiB"
    if (file := told.path / "questions" / "result.json").exists():
        wrote = read_json(file, QuestionsRecord)
        yield (
            "questions written",
            f"{wrote['written']:,} in {wrote['calls']:,} calls, {dollars(wrote['usd'])}",
        )
    if (file := told.path / RECORD).exists():
        judged = Record(file)
        yield "judge", f"{judged.calls:,} calls, {dollars(judged.usd)}"


def config_text(told: Told) -> tuple[str, bool]:
    """The resolved configuration as TOML, and whether it is: that of another version is shown as it stands in config.json."""
    settled = told.settled
    if settled is None:
        return redacted((told.path / "config.json").read_text("utf-8")), False
    return redacted(short_document(settled.model_dump(mode="json"), {}, "")), True


def config_file(told: Told) -> str:
    """What the configuration is to be saved as: not the name of a user's own, which would be overwritten."""
    return f"run-{told.name}.toml"


def commands(told: Told) -> list[Command]:
    """What can be typed next; for this run by its name below runs/."""
    name = shlex.quote(told.name)
    prompt = f"runs/{told.name}/{told.prompt.relative_to(told.path)}"
    found = list(_again(told, prompt))
    if told.adapter is None:
        if best_student(told.rounds) is not None and told.start.get("task") != "object":
            line = (
                f"gepa-loop distill --prompt {shlex.quote(prompt)} --config {shlex.quote(config_file(told))}"
            )
            found.append(Command(line, "A student of the prompt that scores best itself, compared on test."))
        found.append(Command(f"gepa-loop prompts list {name}", "The prompts that the search handed on."))
        return found
    return [
        *found,
        Command(
            f"gepa-loop chat {name} --compare", "Talk to the student, beside the bare and the prompted model."
        ),
        Command(f"gepa-loop serve {name}", "An OpenAI-compatible endpoint."),
        Command(
            f"gepa-loop export {name} --to student --merged --gguf f16",
            "A PEFT adapter, merged weights and GGUF, with a card and a check.",
        ),
    ]


def _again(told: Told, prompt: str) -> Iterator[Command]:
    """What makes the run again, and a loop's next round; `prompt` is the file of a distillation's."""
    rounds = len(told.rounds) + 1
    file, dealt = config_file(told), told.start.get("rounds_of_items", 0)
    further = (
        told.command == "loop" and told.rounds[-1]["ended"] is None and (dealt is None or rounds <= dealt)
    )
    if told.start.get("task") == "object":
        source = f", prompt={prompt!r}" if told.command == "distill" else ""
        call = f"gepa_loop.{told.command}({file!r}{source}, task=task"
        yield Command(
            f"{call}, run_name='again')",
            f"Make it again: its task is an object of a Python program, which alone can make it. Call it with the same `task`, and with the "
            f"configuration below saved as {file}.",
        )
        if further:
            yield Command(
                f"{call}, run_name={told.name!r}, loop__rounds={rounds})", "Go on from it, a round further."
            )
        return
    source = f" --prompt {shlex.quote(prompt)}" if told.command == "distill" else ""
    start = f"gepa-loop {told.command}{source} --config {shlex.quote(file)}"
    yield Command(
        f"{start} --run-name again", f"Make it again, with the configuration below saved as {file}."
    )
    if further:
        line = f"{start} --run-name {shlex.quote(told.name)} --rounds {rounds}"
        yield Command(line, "Go on from it, a round further.")
