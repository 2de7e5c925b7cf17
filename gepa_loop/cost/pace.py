"""How long a training step takes on this machine: kept beside the cached models, run after run, for the plans of later ones."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from gepa_loop.errors import EnvironmentFault, RunDirectoryError
from gepa_loop.lab import Lab
from gepa_loop.model.device import device_name
from gepa_loop.outside.cache import cache_folder
from gepa_loop.run.files import read_json, write_json
from gepa_loop.run.identity import fingerprint
from gepa_loop.training.records import MetricsRow

FILE = "pace.json"
KEPT = 200
"""Latest records that are kept."""

OF_A_STEP = {
    "rollouts",
    "group",
    "on_policy",
    "warm_start",
    "updates",
    "horizon",
    "average",
    "together",
    "micro_tokens",
}
"""Keys of `distill` that a step's time depends on."""


@dataclass(frozen=True)
class Pace:
    """Of one student's steps."""

    seconds: float
    """Of a step; its own part where several share it."""
    first: float
    """What a training takes once besides: to warm up, on a GPU to capture what is replayed."""
    peak_gib: float
    """Largest memory."""
    source: str
    """Where it was measured, in words."""
    sampling: float
    """Seconds of a step that its rollouts take."""


def pace_of(rows: Sequence[MetricsRow], source: str, skipped: int = 1) -> Pace | None:
    """The median step; None of none.

    The first `skipped` ones warm up, and those on the teacher's samples, which are there already, are shorter: neither counts while there
    are others.
    """
    took = [sum(s for phase, s in row["seconds"].items() if phase != "check") for row in rows]
    later = range(skipped, len(rows))
    counted = [n for n in later if not rows[n]["warm"]] or list(later) or list(range(len(rows)))
    if not counted:
        return None
    each = statistics.median(took[n] for n in counted)
    sampling = statistics.median(rows[n]["seconds"]["generate"] for n in counted)
    # Of the others, too: captures come whenever a batch has a new shape.
    first = sum(max(0.0, seconds - each) for seconds in took)
    return Pace(each, first, max(row["peak_memory_gib"] for row in rows), source, min(sampling, each))


def known_pace(lab: Lab) -> Pace | None:
    """What an earlier run of the same model and recipe took on this machine."""
    found = _records().get(_key(lab))
    return Pace(**found) if found is not None and set(found) == {f.name for f in fields(Pace)} else None


def keep_pace(lab: Lab, pace: Pace) -> None:
    """Remember it; nothing is lost where that cannot be written."""
    records = {key: value for key, value in _records().items() if key != _key(lab)}
    records[_key(lab)] = asdict(pace)
    latest = dict(list(records.items())[-KEPT:])
    try:
        write_json(cache_folder() / FILE, {"steps": latest})
    except EnvironmentFault:
        return


def _records() -> dict[str, dict[str, Any]]:
    file = cache_folder() / FILE
    try:
        return dict(read_json(file)["steps"]) if file.exists() else {}
    except (RunDirectoryError, KeyError, TypeError):
        return {}


def _key(lab: Lab) -> str:
    """Of what a step's time depends on but for the lengths of prompts."""
    config = lab.config
    return fingerprint(
        [
            device_name(lab.base.device),
            lab.base.fingerprint,
            str(lab.base.model.dtype),
            lab.engine,
            config.lora.model_dump(mode="json"),
            config.sampling.model_dump(mode="json"),
            config.distill.model_dump(mode="json", include=OF_A_STEP),
            config.objective.model_dump(mode="json"),
            config.teacher.model_dump(mode="json"),
        ]
    )
