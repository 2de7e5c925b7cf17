"""Of commands that make a run, and of what they would make."""

from __future__ import annotations

from typing import TypedDict

from gepa_loop.cli.records.whole import RunAnswer
from gepa_loop.cost.records import WorthRecord
from gepa_loop.scores.records import LooksRecord
from gepa_loop.scores.results import LoopRecord
from gepa_loop.search.records import FrontRow, SearchRecord
from gepa_loop.stages.records import EvaluatedRecord, RetentionRecord
from gepa_loop.sweep import SweepRecord


class PlannedStageAnswer(TypedDict):
    """Most that a stage takes."""

    stage: str
    """As the terminal names it."""
    rollouts: int
    """To sample."""
    tokens: int
    """To write."""
    seconds: float | None
    """Null where training steps are part of it whose time is not known."""
    usd: float | None
    """Of models behind APIs, US dollars; null where litellm knows no price."""


class StepAnswer(TypedDict):
    """A training step."""

    seconds: float
    """Of one student's."""
    first: float
    """What a training takes once besides, seconds."""
    peak_gib: float
    """Largest memory."""
    source: str
    """Where it was measured, in words."""
    sampling: float
    """Seconds of a step that its rollouts take."""


class OnPaperAnswer(TypedDict):
    """A command with so many workers, as a simulation of its schedule has it."""

    workers: int
    """How many."""
    gpus: int
    """That are paid for."""
    seconds: float
    """Of all stages."""
    limit: str
    """What keeps it furthest from its share of one device's time, in words."""


class PlanAnswer(TypedDict):
    """Most that a command takes, and what for."""

    stages: list[PlannedStageAnswer]
    """In their order; none of a sweep, whose cells are configs of their own."""
    seconds: float | None
    """Of all stages; null where one's are not known."""
    usd: float | None
    """The same of dollars."""
    device: str
    """On which a sample of rollouts ran."""
    step: StepAnswer | None
    """Null where nothing trains, and where it is not known."""
    workers: int
    """That share the work; 0 for none."""
    gpus: int
    """That are paid for."""
    on_paper: list[OnPaperAnswer]
    """The same with other numbers of workers; none without workers, and where the time of a step is not known."""
    memory_gib: dict[str, float]
    """What takes it -> GiB, at least; activations of training come on top."""
    notes: list[str]
    """What is worth saying besides."""
    worth: WorthRecord | None
    """Of a student; null where none is made."""


class DryAnswer(RunAnswer):
    """Of `plan`, and of all that make a run with `--dry-run`."""

    dry_run: str
    """The command that would run; `run` and `path` are those that it would write."""
    facts: list[str]
    """What was resolved."""
    warnings: list[str]
    """Reasons not to trust a score."""
    plan: PlanAnswer | None
    """Null where nothing is searched or trained."""


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

    means: dict[str, float]
    """Name in conditions -> mean score: `bare`, `prompted`, `student` or `student_prompted`."""
    conditions: list[ConditionAnswer]
    """Those of `--fail-if`."""


class SweptAnswer(RunAnswer):
    """Of `sweep`."""

    result: SweepRecord | None
    """The content of result.json; null where one cell was made alone."""
