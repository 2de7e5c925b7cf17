"""What a run says of its cost: costs.json, and the seconds of its stages."""

from __future__ import annotations

from typing import TypedDict


class StageRow(TypedDict):
    """One row for each stage of each process: a run that was ended and goes on has more than one of the stage that it was in."""

    stage: str
    """As the terminal names it."""
    round: int | None
    """Of a loop."""
    candidate: str | None
    """Whom it is about."""
    seconds: float
    """By the clock on the wall."""
    gpus: int
    """That the process had: those of its workers, else 1."""


class CallRecord(TypedDict):
    """Mean tokens of a call on the items of `test`."""

    system: float
    """Read: the system turn."""
    question: float
    """Read: all else."""
    reply: float | None
    """Written, as the scores that decide were drawn; null before there is a student."""


class MonthRecord(TypedDict):
    """What reading takes in a month of `cost.calls` calls, US dollars."""

    now: float
    """With the prompt."""
    after: float
    """By the student, which reads none."""


class ReadingRecord(TypedDict):
    """What is saved where a call reads the whole prompt anew, or where a prefix cache has it."""

    usd: float | None
    """US dollars a call; null where no price is known."""
    month: MonthRecord | None
    """Null without `cost.calls` or a price."""
    break_even: int | None
    """Calls after which what was saved is what the student took: in dollars where `price` is one and the run's are known, else in seconds of
    this machine. Null where calls save nothing, or neither is known."""


class WorthRecord(TypedDict):
    """What a student is for."""

    now: CallRecord
    """With the prompt."""
    after: CallRecord
    """By the student."""
    saved: float
    """Tokens that a call no longer reads."""
    price: float | None
    """US dollars of a million tokens that are read: `cost.input_usd`, or of this machine at `cost.gpu_usd_hour`."""
    calls: int | None
    """A month: `cost.calls`."""
    anew: ReadingRecord
    """Where each call reads the prompt."""
    cached: ReadingRecord
    """Where a prefix cache has it."""


class UsdRecord(TypedDict):
    """US dollars that a run took."""

    gpu: float | None
    """At `cost.gpu_usd_hour`, all GPUs of the run together; null without."""
    reflection: float
    """Of the reflection model's prompts and questions, where litellm knows its prices."""
    judge: float
    """The same of a judge."""
    total: float | None
    """Null where that of the GPU is not known."""


class CostsRecord(TypedDict):
    """What a run took, and what its student saves."""

    device: str
    """What ran it."""
    seconds: dict[str, float]
    """Stage -> seconds of all processes, in the order in which they began; `loading` is what came before the first."""
    peak_gib: float | None
    """Largest memory of a training step; null where nothing was trained."""
    usd: UsdRecord
    """Dollars."""
    tokens_per_second: float
    """How fast this machine reads prompts, several at a time."""
    worth: WorthRecord | None
    """Of the student; null where there is none, or it may gain nothing over the bare model: its tokens pay for nothing then."""
