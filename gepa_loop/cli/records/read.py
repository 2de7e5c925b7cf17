"""Of commands that read what is there."""

from __future__ import annotations

from typing import Any, TypedDict

from gepa_loop.cli.records.whole import Answer, RunAnswer
from gepa_loop.search.records import CandidateRow, FrontRow, SearchRecord


class RunLineAnswer(TypedDict):
    """A run."""

    run: str
    """Its name."""
    run_command: str
    """Which made it."""
    state: str
    """`running`, `done`, `unfinished`, `damaged` or `another version`."""
    outcome: str
    """What it found, in words; where it is not done, how far it is."""
    megabytes: float
    """Of all its files."""
    hours: float
    """Since something was written last."""


class RunsAnswer(Answer):
    """Of `runs`."""

    runs: list[RunLineAnswer]
    """The last written first."""


class CellAnswer(TypedDict):
    """A student of a sweep."""

    cell: str
    """Its name in the grid."""
    seed: int
    """Of its training."""
    state: str
    """`done`, `running`, `stopped` or `owed`."""
    steps: int
    """Done so far."""
    kept: int | None
    """The step whose student it is; null until that is decided."""
    held_out: dict[str, float]
    """Check's step -> the student's score on `pareto`, without a prompt."""
    held_out_kl: dict[str, float]
    """Check's step -> KL(student || teacher) of held-out replies, nats a token."""


class CellsAnswer(RunAnswer):
    """Of `runs cells`."""

    cells: list[CellAnswer]
    """In the grid's order."""


class RemovedAnswer(Answer):
    """Of `runs remove`."""

    runs: list[str]
    """Names of those that are gone."""


class ReportAnswer(RunAnswer):
    """Of `report`."""

    page: str
    """The file, absolute."""


class ChatReplyAnswer(TypedDict):
    """A reply of `chat`."""

    who: str
    """`bare`, `prompted` or `student`."""
    question: str
    """The turn that it answers."""
    text: str
    """It."""
    prompt_tokens: int
    """Read: the prompt, if any, and the turns before."""
    tokens: int
    """Written."""
    cut: bool
    """It has no end of its own."""


class ChatAnswer(RunAnswer):
    """Of `chat`."""

    replies: list[ChatReplyAnswer]
    """In the order in which they were given."""


class ConfigAnswer(Answer):
    """Of `config show`."""

    config: dict[str, Any]
    """Section -> its keys and values, as resolved."""


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


class ExportedAnswer(RunAnswer):
    """Of `export`."""

    to: str
    """The folder that was written, absolute."""
    said: list[str]
    """What was written and compared."""
    commands: list[str]
    """How to go on."""
