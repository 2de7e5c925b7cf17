"""What commands say with `--json`: one object each, whose keys a later version may add to. `schema_version` is that of the files of runs."""

from __future__ import annotations

from typing import Any, TypedDict

from gepa_loop.optimize.records import CandidateRow, FrontRow, SearchRecord
from gepa_loop.scores.records import LooksRecord, ReplyRow
from gepa_loop.scores.results import LoopRecord
from gepa_loop.stages.records import EvaluatedRecord, RetentionRecord
from gepa_loop.sweep import SweepRecord


class Answer(TypedDict):
    """What all have."""

    schema_version: int
    """Raised where a key changes its meaning or goes."""
    command: str
    """Which command says it, as it is typed: `prompts list`."""


class RunAnswer(Answer):
    """What all that make a run have."""

    run: str
    """Its name."""
    path: str
    """Its folder, absolute."""


class OptimizedAnswer(RunAnswer):
    """Of `optimize`."""

    prompt: str
    """The file of the best prompt, in the run's folder."""
    front: list[FrontRow]
    """Best first."""
    result: SearchRecord
    """The content of optimize/result.json."""


class DistilledAnswer(RunAnswer):
    """Of `distill`."""

    adapter: str
    """The student's folder, in the run's."""
    looks: LooksRecord | None
    """How often the items of `test` had been scored before."""
    result: RetentionRecord
    """The content of result.json."""


class LoopedAnswer(RunAnswer):
    """Of `loop`."""

    missing_gain: str | None
    """Why no student is significantly better on `test`; null where one is."""
    looks: LooksRecord | None
    """How often the items of `test` had been scored before."""
    result: LoopRecord
    """The content of result.json; `prompt` and `adapter` lie in the run's folder."""


class ConditionAnswer(TypedDict):
    """A condition of `--fail-if`."""

    condition: str
    """As it was given."""
    holds: bool
    """Whether it does, so that the exit code is 5."""


class EvaluatedAnswer(RunAnswer, EvaluatedRecord):
    """Of `evaluate`: the content of result.json beside the rest."""

    conditions: list[ConditionAnswer]
    """Those of `--fail-if`."""


class SweptAnswer(RunAnswer):
    """Of `sweep`."""

    result: SweepRecord
    """The content of result.json."""


class TriedAnswer(TypedDict):
    """An item of `check` and its two greedy replies."""

    item: str
    """The item's id."""
    question: str
    """Its last turn."""
    answer: str
    """What is expected; empty for none."""
    bare: ReplyRow
    """The reply without a prompt."""
    prompted: ReplyRow
    """And with it."""


class CheckedAnswer(Answer):
    """Of `check`."""

    facts: list[str]
    """What was resolved."""
    warnings: list[str]
    """Reasons not to trust a score."""
    scored: bool
    """Whether replies have scores; else they are 0 here."""
    bare: float | None
    """Mean score without a prompt; null where nothing scores."""
    prompted: float | None
    """And with it."""
    items: list[TriedAnswer]
    """Those that were tried."""
    suggestions: list[str]
    """What to change."""


class FindingAnswer(TypedDict):
    """One thing that was looked at."""

    about: str
    """What."""
    state: str
    """`ok`, `note` or `fault`."""
    sentence: str
    """What was found."""
    hint: str
    """How to mend it; may be empty."""


class DoctorAnswer(Answer):
    """Of `doctor`."""

    config: str
    """Where it comes from."""
    findings: list[FindingAnswer]
    """In the order in which they were found."""
    faults: int
    """How many are faults."""


class WorthAnswer(TypedDict):
    """A reply that needs no model."""

    item: str
    """The item's id."""
    what: str
    """`its own answer`, `an empty reply` or `another item's answer`."""
    reply: str
    """Its text."""
    score: float
    """0 to 1."""
    feedback: str
    """What the reflection would read."""


class TaskAnswer(Answer):
    """Of `task check`."""

    task: str
    """Its name."""
    items: int
    """How many there are."""
    distinct: int
    """Distinct questions among them."""
    answered: int
    """Items with an answer."""
    worths: list[WorthAnswer]
    """Replies to a few items; none where nothing could be scored."""
    means: dict[str, float]
    """Kind of reply -> mean score."""
    findings: list[FindingAnswer]
    """What was looked at."""
    faults: int
    """How many are faults."""


class RunLineAnswer(TypedDict):
    """A run."""

    run: str
    """Its name."""
    run_command: str
    """Which made it."""
    state: str
    """`done`, `unfinished` or `damaged`."""
    outcome: str
    """What it found, in words."""
    megabytes: float
    """Of all its files."""
    hours: float
    """Since something was written last."""


class RunsAnswer(Answer):
    """Of `runs`."""

    runs: list[RunLineAnswer]
    """The last written first."""


class KeyAnswer(TypedDict):
    """A key of the configuration, or a table."""

    name: str
    """Dotted."""
    about: str
    """What it means."""
    kind: str
    """Which values it takes; empty for a table."""
    required: bool
    """It has no default."""
    default: Any
    """What it is where nobody sets it."""
    under: str
    """Where its table is one of several, which."""
    readers: str
    """Commands that read it."""


class ExplainedAnswer(Answer):
    """Of `config explain`."""

    keys: list[KeyAnswer]
    """All, or those asked for."""


class PresetsAnswer(Answer):
    """Of `config presets`."""

    presets: dict[str, str]
    """Name -> what it is."""
    grids: dict[str, str]
    """Those of `sweep`, likewise."""


class SearchAnswer(Answer):
    """Of `prompts list`."""

    search: str
    """The run, and the round where it has several."""
    front: list[FrontRow]
    """Best first; empty until the search has ended."""
    candidates: list[CandidateRow]
    """Every proposal, in order."""
    result: SearchRecord | None
    """How it ended; null before."""


class PromptAnswer(Answer):
    """Of `prompts show`."""

    search: str
    """As in `prompts list`."""
    candidate: CandidateRow
    """It."""
    lineage: list[str]
    """Ids of all that it descends from and its own, in order of making."""


class PromptDiffAnswer(Answer):
    """Of `prompts diff`."""

    search: str
    """As in `prompts list`."""
    old: CandidateRow
    """The first named."""
    new: CandidateRow
    """The second."""
    diff: list[str]
    """Lines of a unified diff; none where the texts are equal."""


class ExportedAnswer(Answer):
    """Of `export`."""

    run: str
    """Its name."""
    to: str
    """The folder that was written, absolute."""
    said: list[str]
    """What was written and compared."""
    commands: list[str]
    """How to go on."""
