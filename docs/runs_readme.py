"""The tables of runs/README.md, made from the docstrings of the records: `python docs/runs_readme.py` writes them."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from gepa_loop import sweep
from gepa_loop.cost import records as cost
from gepa_loop.jobs import records as jobs
from gepa_loop.model.origin import OriginRecord
from gepa_loop.run import records as run
from gepa_loop.scores import records as scores
from gepa_loop.scores import results
from gepa_loop.search import records as search
from gepa_loop.stages import records as stages
from gepa_loop.stages.grid import GridRecord
from gepa_loop.task.verdicts import JudgementRow
from gepa_loop.tracking.records import TrackRecord
from gepa_loop.training import records as training

README = Path(__file__).parents[1] / "runs" / "README.md"
COMMAND = "python docs/runs_readme.py"
BEGIN = f"<!-- What follows is made from the docstrings of the records: {COMMAND} -->\n"

Record = type[Any]
"""A TypedDict."""


@dataclass(frozen=True)
class File:
    """A file of a run, or several that hold the same."""

    title: str
    record: Record
    places: tuple[str, ...]
    """Patterns of its path in the run's folder; `*` stands for slashes as well."""
    command: str = ""
    """Only of runs of this command."""

    def at(self, path: str, command: str) -> bool:
        return self.command in ("", command) and any(fnmatch(path, place) for place in self.places)


FILES = (
    File("manifest.json", run.ManifestRecord, ("manifest.json",)),
    File("events.jsonl", run.EventRow, ("events.jsonl",)),
    File("stages.jsonl", cost.StageRow, ("stages.jsonl",)),
    File("costs.json", cost.CostsRecord, ("costs.json",)),
    File("result.json of `loop`", results.LoopRecord, ("result.json",), "loop"),
    File("result.json of `distill`", stages.RetentionRecord, ("result.json",), "distill"),
    File("result.json of `evaluate`", stages.EvaluatedRecord, ("result.json",), "evaluate"),
    File("result.json of `sweep`", sweep.SweepRecord, ("result.json",), "sweep"),
    File("grid.json", GridRecord, ("grid.json",), "sweep"),
    File("decision.json", results.DecisionRecord, ("round_*/decision.json",)),
    File("race/NNNNNN.json", results.RungRecord, ("round_*/race/*.json",)),
    File("Score rows", scores.ScoreRow, scores.SCORED),
    File("items.jsonl", stages.ItemRow, ("items.jsonl",)),
    File("candidates.jsonl", search.CandidateRow, ("*optimize/candidates.jsonl",)),
    File("front.jsonl", search.FrontRow, ("*optimize/front.jsonl",)),
    File("optimize/result.json", search.SearchRecord, ("*optimize/result.json",)),
    File("gepa/proposals.jsonl", search.ProposalRow, ("*optimize/gepa/proposals.jsonl",)),
    File("gepa/evaluations.jsonl", search.EvaluationRow, ("*optimize/gepa/evaluations.jsonl",)),
    File("metrics.jsonl", training.MetricsRow, ("*distill/*/metrics.jsonl",)),
    File("samples.jsonl", training.SampleRow, ("*distill/*/samples.jsonl",)),
    File("teacher.jsonl", training.TeacherRow, ("*distill/*/teacher.jsonl",)),
    File("checkpoints/step_N/state.json", training.StateRecord, ("*distill/*/state.json",)),
    File("distill/ID/result.json", training.DistilledRecord, ("*distill/*/result.json",)),
    File("adapter/base.json", OriginRecord, ("*/base.json",)),
    File("questions/written.jsonl", stages.QuestionRow, ("questions/written.jsonl",)),
    File("questions/calls.jsonl", stages.CallRow, ("questions/calls.jsonl",)),
    File("questions/result.json", stages.QuestionsRecord, ("questions/result.json",)),
    File("judge.jsonl", JudgementRow, ("judge.jsonl",)),
    File("judge.json", stages.JudgeRecord, ("judge.json",)),
    File("track/KIND.json", TrackRecord, ("track/*.json",)),
    File("looks.json", scores.LooksRecord, ("looks.json",)),
    File(".jobs/NAME/job.json", jobs.JobRecord, (".jobs/*/job.json",)),
    File("ledger.jsonl", scores.LedgerRow, ("ledger.jsonl",)),
)


@dataclass(frozen=True)
class Key:
    """A key of a record."""

    name: str
    hint: Any
    """What its value is."""
    always: bool
    """It is in every such record."""
    about: str
    """Its docstring, in one line."""


def keys(record: Record) -> list[Key]:
    """Of a TypedDict and those that it extends; those that may be missing come last.

    Raises:
        ValueError: A key has no docstring.
    """
    hints, found, told = get_type_hints(record, include_extras=True), [], dict(_docstrings(record))
    for name, hint in hints.items():
        if name not in told:
            raise ValueError(f"{record.__name__}.{name} has no docstring")
        # Annotations are strings, so that `__required_keys__` does not know of NotRequired.
        maybe = get_origin(hint) is NotRequired
        always = name in record.__required_keys__ and not maybe
        found.append(Key(name, get_args(hint)[0] if maybe else hint, always, told[name]))
    return sorted(found, key=lambda key: not key.always)


def _docstrings(record: Record) -> Iterator[tuple[str, str]]:
    module = sys.modules[record.__module__]
    node = ast.parse(inspect.getsource(record).strip()).body[0]
    assert isinstance(node, ast.ClassDef)
    for base in node.bases:
        if isinstance(base, ast.Name) and is_typeddict(own := getattr(module, base.id)):
            yield from _docstrings(own)
    for field, text in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match text:
                case ast.Expr(ast.Constant(str() as said)):
                    yield field.target.id, " ".join(said.split())


def title_of(record: Record) -> str:
    """What a record within others is called."""
    words = re.sub(r"(?<!^)([A-Z])", r" \1", record.__name__).lower().split()
    return " ".join(words[:-1] if words[-1] in ("record", "row") else words)


def shown(hint: Any) -> str:
    """A type in JSON's words; a record within others is a link."""
    names = {
        int: "integer",
        float: "number",
        str: "text",
        bool: "true or false",
        NoneType: "null",
        object: "any",
    }
    if is_typeddict(hint):
        title = title_of(hint)
        place = next((file.title for file in FILES if file.record is hint), title)
        return f"[{title}](#{re.sub(r'[^a-z -]', '', place.lower()).replace(' ', '-')})"
    arguments = get_args(hint)
    match get_origin(hint):
        case origin if origin in (Union, UnionType):
            return " or ".join(map(shown, arguments))
        case origin if origin is Literal:
            return " or ".join(f"`{value}`" for value in arguments)
        case origin if origin is list:
            return f"list of {shown(arguments[0])}"
        case origin if origin is dict:
            return f"object of {shown(arguments[1])}"
    return names[hint]


def parts(hint: Any) -> list[Record]:
    """The records in a type, each before those that it is made of."""
    if not is_typeddict(hint):
        return [part for argument in get_args(hint) for part in parts(argument)]
    return [hint, *(part for key in keys(hint) for part in parts(key.hint))]


def table(record: Record) -> str:
    lines = ["| key | JSON | what it is |", "|---|---|---|"]
    for key in keys(record):
        kind = shown(key.hint) + ("" if key.always else "; not always there")
        about = key.about.replace("|", r"\|")
        lines.append(f"| `{key.name}` | {kind} | {about} |")
    return "\n".join(lines) + "\n"


def sections() -> str:
    """Every file with its table, then the records within them."""
    files = [f"## {file.title}\n\n{prose(file.record)}\n\n{table(file.record)}" for file in FILES]
    whole = {file.record for file in FILES}
    inner = [part for file in FILES for part in parts(file.record) if part not in whole]
    own = [f"### {title_of(part)}\n\n{prose(part)}\n\n{table(part)}" for part in dict.fromkeys(inner)]
    return "\n".join([*files, "## Records within others\n", *own])


def prose(record: Record) -> str:
    """The docstring of a record, a paragraph a line."""
    text = inspect.cleandoc(record.__doc__ or "")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def page(text: str) -> str:
    """runs/README.md with its tables as the records say."""
    return text.partition(BEGIN)[0] + BEGIN + "\n" + sections()


if __name__ == "__main__":
    README.write_text(page(README.read_text("utf-8")), "utf-8")
