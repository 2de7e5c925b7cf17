"""Questions that are written for a distillation: asked for, sieved, kept in questions/ of the run, and added to `train`."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from gepa_loop.config.recipe import DistillConfig
from gepa_loop.config.search import ReflectionConfig
from gepa_loop.errors import CallFailed, ConfigError, TaskError
from gepa_loop.lab import Lab
from gepa_loop.run.directory import Run
from gepa_loop.run.files import append_jsonl, read_jsonl, read_record, write_jsonl, write_record
from gepa_loop.stages.observer import Observer
from gepa_loop.stages.records import CallRow, QuestionRow, QuestionsRecord
from gepa_loop.stages.search import proposer_name
from gepa_loop.task.prompts import Candidate
from gepa_loop.writing.sieve import ID, Kind, kind_of, normal
from gepa_loop.writing.writers import PATIENCE, Call, OwnModel, ReflectionModel, Reply, Writer

FOLDER, CALLS, WRITTEN = "questions", "calls.jsonl", "written.jsonl"


def writer_name(settings: DistillConfig, reflection: ReflectionConfig) -> str:
    """Who writes: `model`, or the reflection model as `proposer_name` resolves it."""
    return "model" if settings.writer == "model" else proposer_name(reflection)


def named_writer(settings: DistillConfig, reflection: ReflectionConfig) -> str:
    """The same, where there is one.

    Raises:
        ConfigError: There is no reflection model.
    """
    from gepa_loop.search.propose.base import OFFLINE

    name = writer_name(settings, reflection)
    if name == OFFLINE:
        raise ConfigError(
            "distill.writer = 'reflection': there is no reflection model",
            "Name one in optimize.reflection.model, or set ANTHROPIC_API_KEY; distill.writer = 'model' needs none.",
        )
    return name


def refuse_questions(settings: DistillConfig, command: str) -> None:
    """Refuse to run a command without the questions that its config asks for.

    Raises:
        ConfigError: `distill.questions` is above 0.
    """
    if settings.questions:
        raise ConfigError(
            f"distill.questions = {settings.questions}: `{command}` writes no questions, only `distill` does",
            "Set it to 0, or distill one prompt with `gepa-loop distill`.",
        )


def check_writer(lab: Lab, candidate: Candidate) -> str:
    """Find out, before anything is spent, whether the questions can be written; a line that says what it may take.

    Raises:
        ConfigError: There is no reflection model, or `optimize.max_usd` is less than one call may cost.
        ProviderError: It cannot be asked.
        TaskError: As `kind_of` and `OwnModel.examples` do.
    """
    config, wanted = lab.config, lab.config.distill.questions
    writer = open_writer(lab, candidate)
    head = f"questions: {wanted:,} for train, to be written by {_by(writer.name)}"
    if isinstance(writer, OwnModel):
        most, long = writer.calls * writer.rows, writer.sampling.max_tokens
        return f"{head} in up to {most:,} rollouts of {long} tokens"
    writer.remote.check()
    limit, usd = config.optimize.max_usd, writer.usd(0)
    if usd is None:
        return (
            f"{head} in up to {writer.calls} calls; litellm knows no price, so optimize.max_usd is not kept"
        )
    if usd > limit:
        raise ConfigError(
            f"optimize.max_usd = {limit:g} allows no call: one of {writer.name} for distill.questions may cost ${usd:.2f}",
            f"Raise it to {math.ceil(usd * 100) / 100:g} or more, or lower optimize.reflection.max_tokens.",
        )
    return f"{head} in up to {writer.calls} calls of up to ${usd:.2f}, ending before they pass optimize.max_usd = {limit:g}"


def open_writer(lab: Lab, candidate: Candidate) -> OwnModel | ReflectionModel:
    """Who writes, as `distill.writer` says.

    Raises:
        ConfigError: There is no reflection model.
        TaskError: As `kind_of` and `OwnModel.examples` do.
    """
    config, wanted = lab.config, lab.config.distill.questions
    kind = _kind(lab, candidate)
    if config.distill.writer == "model":
        writer = OwnModel(lab.rollouts, candidate.text, kind.before, wanted, kind.lines)
        writer.examples  # noqa: B018 (it is found out here)
        return writer
    from gepa_loop.lm.remote import RemoteModel

    name = named_writer(config.distill, config.optimize.reflection)
    remote = RemoteModel(name, config.optimize.reflection, "optimize.reflection")
    return ReflectionModel(remote, lab.task.splits["train"], candidate.text, wanted, config.seed)


def with_questions(lab: Lab, candidate: Candidate, run: Run, observer: Observer) -> Lab:
    """The lab whose `train` has the questions of `distill.questions` besides; the lab as it is where that is 0.

    Args:
        lab: Of the run, from `Lab.for_training`.
        candidate: The prompt that is distilled.
        run: Its directory; questions/ there has each call (calls.jsonl), the questions (written.jsonl) and, when all are
            written, result.json.
        observer: Sees how many there are.

    Raises:
        TaskError: None could be used, or as `open_writer` does.
        ProviderError: The reflection model cannot be asked.
        CallFailed: A call failed; another process goes on behind it.
        RunDirectoryError: A file is not as it was written.
    """
    wanted = lab.config.distill.questions
    if not wanted:
        return lab
    folder, kind = run.path / FOLDER, _kind(lab, candidate)
    if (folder / "result.json").exists():
        result = read_record(folder / "result.json", QuestionsRecord)
        rows = read_jsonl(folder / WRITTEN, QuestionRow)
    else:
        observer.stage("questions")
        result, questions = _write(
            open_writer(lab, candidate), kind, wanted, lab.config.optimize.max_usd, folder, observer
        )
        rows = [
            {"id": f"{ID}{number}", "question": text, "by": result["by"]}
            for number, text in enumerate(questions)
        ]
        write_jsonl(folder / WRITTEN, rows)
        write_record(folder / "result.json", result, WRITTEN)
        run.event("questions", **result)
    items = [kind.item(row["id"], row["question"]) for row in rows]
    task = lab.task.with_written(items)
    if len(items) < result["asked"]:
        observer.note(f"only {_told(result)}")
    observer.note(
        f"train {len(task.splits['train'])}, {len(items)} of them written by {_by(result['by'])}, without answers"
    )
    return lab.with_task(task)


def _write(
    writer: Writer, kind: Kind, wanted: int, max_usd: float, folder: Path, observer: Observer
) -> tuple[QuestionsRecord, list[str]]:
    """(content of result.json, questions). A call that an earlier process made is read from calls.jsonl, not made again."""
    made = [_call(row) for row in read_jsonl(folder / CALLS, CallRow)]
    kept: dict[str, str] = {}
    dropped: Counter[str] = Counter()
    usd, idle, number, ended = 0.0, 0, 0, ""
    while len(kept) < wanted and not ended:
        if number < len(made):
            call = made[number]
        elif usd + (writer.usd(number) or 0.0) > max_usd:
            ended = f"the next call could pass optimize.max_usd = {max_usd:g}"
            break
        else:
            call = _ask(writer, number, folder / CALLS)
            made.append(call)
        before = len(kept)
        for reply in call.replies:
            texts = writer.read(reply)
            dropped["no whole question"] += not texts
            for text in texts:
                if len(kept) < wanted:
                    why = kind.refusal(text, kept)
                    dropped[why] += bool(why)
                    kept |= {} if why else {normal(text): text}
        usd, number = usd + call.usd, number + 1
        idle = 0 if len(kept) > before or call.failed else idle + 1
        if idle == PATIENCE:
            ended = f"{PATIENCE} calls in a row gave nothing new"
        elif (answered := sum(not one.failed for one in made[:number])) >= writer.calls:
            ended = f"{answered} calls were made, and no more are"
        observer.progress(len(kept), wanted)
    result: QuestionsRecord = {
        "asked": wanted,
        "written": len(kept),
        "by": writer.name,
        "calls": number,
        "dropped": {why: count for why, count in dropped.most_common() if count},
        "usd": usd,
        "ended": ended,
    }
    if not kept:
        raise TaskError(
            _told(result),
            "Put more questions into train, try a larger model (behind an API: distill.writer = 'reflection'), or set "
            "distill.questions to 0.",
        )
    return result, list(kept.values())


def _ask(writer: Writer, number: int, path: Path) -> Call:
    """A call that is on record before anything is made of it; so is one that failed, as it may have cost something."""
    try:
        call = writer.ask(number)
    except CallFailed as error:
        append_jsonl(path, [_row(writer, number, Call((), error.usd, str(error)))])
        raise
    append_jsonl(path, [_row(writer, number, call)])
    return call


def _row(writer: Writer, number: int, call: Call) -> CallRow:
    return {
        "call": number,
        "by": writer.name,
        "replies": [{"text": one.text, "ended": one.ended} for one in call.replies],
        "usd": call.usd,
        "failed": call.failed,
    }


def _call(row: CallRow) -> Call:
    replies = tuple(Reply(one["text"], one["ended"]) for one in row["replies"])
    return Call(replies, row["usd"], row["failed"])


def _kind(lab: Lab, candidate: Candidate) -> Kind:
    config, renderer = lab.config, lab.rollouts.renderer
    context = min(renderer.context, lab.teacher.context if lab.teacher else renderer.context)
    room = context - config.distill.longest(config.sampling.max_tokens)
    return kind_of(lab.task, renderer, candidate.text, room)


def _told(result: QuestionsRecord) -> str:
    """How many there are, of how many, and what became of the others."""
    counts = ", ".join(f"{count} {why}" for why, count in result["dropped"].items())
    dropped = f"; dropped: {counts}" if counts else ""
    return f"{result['written']} of {result['asked']} questions were written by {_by(result['by'])}: {result['ended']}{dropped}"


def _by(name: str) -> str:
    return "the model" if name == "model" else name
