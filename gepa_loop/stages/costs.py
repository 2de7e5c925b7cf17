"""What a run took and what its student saves: costs.json, at the end of `distill` and `loop`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gepa_loop.config.cost import CostConfig
from gepa_loop.config.recipe import reads_prompt
from gepa_loop.cost.calls import calls
from gepa_loop.cost.pace import keep_pace, pace_of
from gepa_loop.cost.reading import tokens_per_second
from gepa_loop.cost.records import CostsRecord, UsdRecord
from gepa_loop.cost.worth import Took, worth
from gepa_loop.lab import Lab
from gepa_loop.model.device import device_name
from gepa_loop.run.directory import Run
from gepa_loop.run.files import read_json, read_jsonl, write_json
from gepa_loop.scores.records import CardRecord, DifferenceRecord
from gepa_loop.search.records import SearchRecord
from gepa_loop.stages.observer import Observer
from gepa_loop.stages.records import CallRow
from gepa_loop.stages.timing import COSTS, gpu_seconds, seconds_by_stage
from gepa_loop.task.judge import RECORD, Record
from gepa_loop.task.prompts import Candidate
from gepa_loop.training.records import MetricsRow

FILE = "costs.json"


@dataclass(frozen=True)
class Replies:
    """Mean tokens of replies, as what decides was drawn."""

    prompted: float
    student: float


def replies_of(
    gained: DifferenceRecord | None, prompted: CardRecord, student: CardRecord | None
) -> Replies | None:
    """For `write_costs`: None where it is not sure that the student gains anything over the bare model, as its tokens pay for nothing then."""
    if student is None or gained is None or gained["ci"][0] <= 0:
        return None
    return Replies(prompted["tokens"], student["tokens"])


def write_costs(
    lab: Lab, prompt: Candidate, replies: Replies | None, run: Run, observer: Observer
) -> CostsRecord:
    """Say what a run took so far and what its student saves, and remember how long its steps took.

    Args:
        lab: Of the run.
        prompt: Its best.
        replies: Of it and of its student; None where no student is better. They count where training reads the prompt.
        run: Its directory; how fast prompts are read is measured once.
        observer: Sees that the stages before have ended.
    """
    observer.stage(COSTS)
    settings, file = lab.config.cost, run.path / FILE
    metrics = [read_jsonl(path, MetricsRow) for path in sorted(run.path.glob("**/distill/*/metrics.jsonl"))]
    steps = [row for rows in metrics for row in rows]
    if file.exists():
        reads = read_json(file, CostsRecord)["tokens_per_second"]
    else:
        first = lab.task.splits["test"][0]
        reads = tokens_per_second(lab.base, lab.rollouts.renderer.tokens(prompt.text, first))
        pace = pace_of(max(metrics, key=len, default=[]), f"run {run.name}")
        if pace is not None and lab.crew is None:  # with workers a step is no longer that of one machine
            keep_pace(lab, pace)
    seconds = seconds_by_stage(run.path)
    usd = _usd(run.path, settings)
    saves = None
    # What a prompt costs is saved by who was taught it.
    if replies is not None and reads_prompt(lab.config.distill, lab.config.objective):
        now, after = calls(lab, prompt)
        saves = worth(
            {**now, "reply": replies.prompted},
            {**after, "reply": replies.student},
            settings,
            reads,
            Took(gpu_seconds(run.path), usd["total"]),
        )
    record: CostsRecord = {
        "device": device_name(lab.base.device),
        "seconds": seconds,
        "peak_gib": max((row["peak_memory_gib"] for row in steps), default=None),
        "usd": usd,
        "tokens_per_second": reads,
        "worth": saves,
    }
    write_json(file, record)
    return record


def _usd(folder: Path, settings: CostConfig) -> UsdRecord:
    searches = [read_json(path, SearchRecord) for path in sorted(folder.glob("**/optimize/result.json"))]
    written = read_jsonl(folder / "questions" / "calls.jsonl", CallRow)
    reflection = sum(one["spent"]["usd"] for one in searches) + sum(row["usd"] for row in written)
    judge = Record(folder / RECORD).usd
    rate = settings.gpu_usd_hour
    gpu = None if rate is None else gpu_seconds(folder) / 3600 * rate
    return {
        "gpu": gpu,
        "reflection": reflection,
        "judge": judge,
        "total": None if gpu is None else gpu + reflection + judge,
    }
